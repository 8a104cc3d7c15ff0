"""Ratings with closed forms, graphs without finite ones, and Elo's first games by hand."""

from __future__ import annotations

import csv
import math

import numpy as np
import pytest

from equipoise.errors import DataError, SettingError
from equipoise.statistics import Judgement, bradley_terry, elo


def games(first: str, second: str, won: int, lost: int, start: int = 0) -> list[Judgement]:
    """So many prompts won and lost by `first`, one game each."""
    verdicts = ["first"] * won + ["second"] * lost
    return [Judgement(start + i, first, second, verdict) for i, verdict in enumerate(verdicts)]


def test_two_models_are_as_far_apart_as_their_log_odds():
    found = bradley_terry(games("a", "b", 30, 10), anchor="b", scale="log-odds")
    assert found.models["a"].mean == pytest.approx(math.log(3), abs=1e-8)
    assert (found.models["b"].mean, found.models["b"].low) == (0.0, None)
    scaled = bradley_terry(games("a", "b", 30, 10), anchor="b")
    assert scaled.models["a"].mean == pytest.approx(1000 + 400 * math.log10(3), abs=1e-6)
    assert list(scaled.models) == ["a", "b"]
    assert scaled.models["a"].low < scaled.models["a"].mean < scaled.models["a"].high
    assert (scaled.models["a"].kind, scaled.models["a"].n, scaled.models["a"].n_prompts) == ("rating", 40, 40)


def test_three_models_whose_games_fit_exactly():
    # Strengths 1, 2 and 4: a wins 1/3 against b and 1/5 against c, b wins 1/3 against c.
    rows = games("a", "b", 5, 10) + games("b", "c", 5, 10, 15) + games("c", "a", 12, 3, 30)
    found = bradley_terry(rows, anchor="a", scale="log-odds").models
    assert [found[m].mean for m in "abc"] == pytest.approx([0, math.log(2), math.log(4)], abs=1e-8)


def test_a_tie_is_half_a_win_each_and_unscored_is_nothing():
    rows = [*games("a", "b", 2, 0), Judgement(9, "a", "b", "tie"), Judgement(10, "a", "b", None)]
    found = bradley_terry([*rows, Judgement(11, "b", "a", "tie")], anchor="b", scale="log-odds")
    assert found.models["a"].mean == pytest.approx(math.log(3 / 1), abs=1e-8)
    assert found.unscored == 1


def test_both_orders_of_a_prompt_are_one_game():
    rows = [Judgement(0, "a", "b", "first"), Judgement(0, "b", "a", "first"), *games("a", "b", 2, 1, 1)]
    found = bradley_terry(rows, anchor="b", scale="log-odds")
    assert found.models["a"].mean == pytest.approx(math.log(2.5 / 1.5), abs=1e-8)


def test_the_interval_is_near_that_of_the_log_odds():
    found = bradley_terry(games("a", "b", 240, 160), anchor="b", scale="log-odds").models["a"]
    half = 1.96 * math.sqrt(1 / 240 + 1 / 160)
    assert found.low == pytest.approx(found.mean - half, abs=0.1 * half)
    assert found.high == pytest.approx(found.mean + half, abs=0.1 * half)


def test_a_model_that_won_everything_has_no_finite_rating():
    with pytest.raises(DataError, match="no finite ratings: 'a' won everything, 'b' lost everything"):
        bradley_terry(games("a", "b", 4, 0), anchor="b")
    found = bradley_terry(games("a", "b", 4, 0), anchor="b", prior=1.0, scale="log-odds")
    assert found.models["a"].mean == pytest.approx(math.log(4.5 / 0.5), abs=1e-8)


def test_models_that_never_met_have_no_common_scale():
    rows = games("a", "b", 2, 2) + games("c", "d", 2, 2, 10)
    with pytest.raises(DataError, match="no chain of judgements joins 'a' and 'c'"):
        bradley_terry(rows, anchor="a")
    found = bradley_terry(rows, anchor="a", prior=0.1, scale="log-odds")
    assert found.models["c"].mean == pytest.approx(0.0, abs=1e-8)


def test_a_group_that_won_everything_is_named():
    rows = games("a", "b", 2, 2) + games("c", "d", 2, 2, 10) + games("a", "c", 3, 0, 20)
    with pytest.raises(DataError, match="the group of 'a', 'b' won every comparison"):
        bradley_terry(rows, anchor="c")


def test_few_prompts_say_how_often_they_give_no_finite_rating():
    found = bradley_terry(games("a", "b", 4, 1), anchor="b")
    assert found.models["a"].low is None
    assert found.infinite == pytest.approx(0.8**5 + 0.2**5, abs=0.03)  # draws with a single winner


@pytest.mark.parametrize(
    ("call", "error", "words"),
    [
        (lambda: bradley_terry(games("a", "b", 1, 1), anchor="base"), DataError, "anchor 'base' has no scored"),
        (lambda: bradley_terry([Judgement(0, "a", "b", None)], anchor="a"), DataError, "at least one scored"),
        (lambda: bradley_terry(games("a", "b", 1, 1), anchor="a", prior=-1), SettingError, "prior must be"),
        (lambda: bradley_terry(games("a", "b", 1, 1), anchor="a", scale="eol"), SettingError, "did you mean 'elo'"),
        (lambda: elo(games("a", "b", 1, 1), anchor="x"), DataError, "anchor 'x'"),
        (lambda: elo(games("a", "b", 1, 1), anchor="a", trials=0), SettingError, "trials must be above 0"),
    ],
)
def test_bad_calls_are_refused_in_a_sentence(call, error, words: str):
    with pytest.raises(error, match=words):
        call()


def test_elo_of_the_first_games():
    one = [Judgement(0, "a", "b", "first")]
    assert elo(one, anchor="b", trials=1, epochs=1)["a"].mean == pytest.approx(1032)  # 1216 and 1184
    second = 32 * (1 - 1 / (1 + 10 ** (-32 / 400)))
    assert elo(one, anchor="b", trials=3, epochs=2)["a"] == pytest.approx((1032 + 2 * second, 0.0), abs=1e-9)
    tie = [Judgement(0, "a", "b", "tie")]
    assert elo(tie, anchor="b", anchor_at=0)["a"] == (0.0, 0.0)


def test_elo_is_seeded_and_near_bradley_terry():
    rows = games("a", "b", 60, 40)
    found = elo(rows, anchor="b", seed=1)
    assert found == elo(rows, anchor="b", seed=1) != elo(rows, anchor="b", seed=2)
    assert found["a"].mean == pytest.approx(1000 + 400 * math.log10(1.5), abs=30)
    assert list(found) == ["a", "b"]


def test_elo_leaves_unscored_verdicts_out():
    rows = [Judgement(0, "a", "b", "first"), Judgement(1, "a", "b", None)]
    assert elo(rows, anchor="b") == elo(rows[:1], anchor="b")


def test_crowd_judgements_of_59_models(shared_data):
    with open(shared_data / "llmfao_crowd" / "crowd-comparisons.csv", newline="", encoding="utf-8") as file:
        verdict = {"left": "first", "right": "second", "tie": "tie"}
        rows = [Judgement(r["prompt"], r["left"], r["right"], verdict[r["winner"]]) for r in csv.DictReader(file)]
    found = bradley_terry(rows, anchor="Alpaca (7B)")
    assert (len(found.models), found.models["Alpaca (7B)"].mean, found.infinite) == (59, 1000.0, 0.0)
    # At the maximum every model wins as much as its rating expects.
    points = {name: (e.mean - 1000) * math.log(10) / 400 for name, e in found.models.items()}
    shares: dict[tuple[str, str, str], list[float]] = {}
    for row in rows:
        score = {"first": 1.0, "second": 0.0, "tie": 0.5}[row.verdict]
        shares.setdefault((row.prompt, row.first, row.second), []).append(score)
    surplus = dict.fromkeys(points, 0.0)
    for (_, a, b), scores in shares.items():
        gain = np.mean(scores) - 1 / (1 + math.exp(points[b] - points[a]))
        surplus[a] += gain
        surplus[b] -= gain
    assert max(map(abs, surplus.values())) < 1e-6
    names = list(found.models)
    quick = elo(rows, anchor="Alpaca (7B)", trials=5, epochs=2)
    ranks = np.array([[names.index(name), i] for i, name in enumerate(quick)])
    assert np.corrcoef(ranks.T)[0, 1] > 0.9
