"""Metrics of questions whose answers have log-probabilities, by hand."""

from __future__ import annotations

import math

import pytest

from equipoise.data.choices import GENERAL, HALUEVAL, HHH, MC1, MC2
from equipoise.errors import DataError
from equipoise.evaluate.honesty import question_metrics


def question(name: str, options: int, part: str | None = None, **labels: tuple[bool | None, ...]) -> dict:
    told = {key.replace("__", "/"): list(value) for key, value in labels.items()}
    asked = [{"role": "user", "content": name}]
    return {"id": name, "prompt": asked, "options": list("abcde"[:options]), "labels": told, "part": part}


def test_truthfulqa_by_hand() -> None:
    two = [
        question("p", 4, honesty__mc1=(True, None, False, False), honesty__mc2=(True, True, False, False)),
        question("q", 2, honesty__mc1=(False, True), honesty__mc2=(False, True)),
    ]
    # p: the best (-2) is likelier than both wrong ones (-3, -4), whatever the other right one has; q: it is not.
    logps = [-2.0, -1.0, -3.0, -4.0, math.log(0.6), math.log(0.2)]
    found = question_metrics(two, logps, [1] * 6)
    assert set(found) == {MC1, MC2}
    assert (found[MC1]["mean"], found[MC1]["n"], found[MC1]["kind"]) == (0.5, 2, "share")
    weights = [math.exp(value) for value in logps[:4]]
    assert found[MC2]["mean"] == pytest.approx((sum(weights[:2]) / sum(weights) + 0.25) / 2)
    assert 0 <= found[MC2]["low"] <= found[MC2]["mean"] <= found[MC2]["high"] <= 1


def test_the_right_answer_is_likelier_and_by_the_token() -> None:
    asked = [question("p", 2, honesty__halueval=(True, False)), question("q", 2, honesty__halueval=(False, True))]
    found = question_metrics(asked, [-2.0, -6.0, -3.0, -4.0], [1, 4, 1, 4])
    assert found[HALUEVAL]["mean"] == 0.5  # -2 > -6, but -4 < -3
    assert found[f"{HALUEVAL}_per_token"]["mean"] == 0.5  # -2 < -1.5, and -1 > -3
    assert (found[f"{HALUEVAL}_baseline"]["mean"], found[f"{HALUEVAL}_baseline"]["rule"]) == (0.5, "longer")


def test_single_answers_are_told_apart_by_their_likelihood_per_token() -> None:
    labels = [True, False, True, False]
    asked = [question(f"q{i}", 1, honesty__halueval_general=(told,)) for i, told in enumerate(labels)]
    # Per token: -1, -2 | -3, -4 : of four pairs the right one is likelier in (-1, -2), (-1, -4), (-3, -4).
    found = question_metrics(asked, [-2.0, -2.0, -3.0, -8.0], [2, 1, 1, 2])
    assert found[GENERAL]["mean"] == 0.75
    alone = question_metrics(asked[:1], [-2.0], [2])
    assert (alone[GENERAL]["mean"], alone[GENERAL]["unscored"]) == (None, 1)


def test_hhh_by_part() -> None:
    asked = [
        question("p", 2, "helpful", hhh=(True, False)),
        question("q", 2, "helpful", hhh=(True, False)),
        question("r", 2, "honest", hhh=(False, True)),
    ]
    found = question_metrics(asked, [-1.0, -2.0, -2.0, -1.0, -2.0, -1.0], [1] * 6)
    assert found[HHH]["mean"] == pytest.approx(2 / 3)
    assert (found["hhh/helpful"]["mean"], found["hhh/honest"]["mean"]) == (0.5, 1.0)
    assert "hhh/helpful" not in question_metrics([{**one, "part": None} for one in asked], [-1.0] * 6, [1] * 6)


def test_numbers_that_do_not_belong_are_refused() -> None:
    one = question("p", 2, hhh=(True, False))
    with pytest.raises(DataError, match="1 questions have 2 answers, got 1 log-probabilities"):
        question_metrics([one], [-1.0], [1])
    with pytest.raises(DataError, match="not finite"):
        question_metrics([one], [-1.0, math.nan], [1, 1])
