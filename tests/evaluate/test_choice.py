"""Which of two answers is likelier: by hand, ties, pairs without a label, the trivial rule, several seeds."""

from __future__ import annotations

import numpy as np
import pytest

from equipoise.errors import DataError
from equipoise.evaluate.choice import choices, share
from equipoise.evaluate.pairs import longer_wins, pair_accuracies
from equipoise.evaluate.seeds import join_metrics

LOGPS = [[-4.0, -6.0], [-9.0, -3.0], [-5.0, -5.0], [-2.0, -8.0]]
TOKENS = [[4, 2], [9, 1], [5, 5], [2, 4]]
PROMPTS = ["a", "b", "c", "d"]


def test_by_hand() -> None:
    found = choices(LOGPS, TOKENS, [0, 0, 1, None], PROMPTS, name="choice_helpful")
    assert set(found) == {"choice_helpful", "choice_helpful_per_token", "choice_helpful_baseline"}
    total, per_token, trivial = found.values()
    # Summed: -4 > -6 is right, -9 < -3 is wrong, -5 = -5 is a tie. Per token: -1 > -3 twice, and the tie.
    assert total["mean"] == pytest.approx(1.5 / 3)
    assert per_token["mean"] == pytest.approx(2.5 / 3)
    assert (trivial["mean"], trivial["rule"]) == (pytest.approx(2.5 / 3), "longer")
    for metric in found.values():
        assert (metric["n"], metric["n_prompts"], metric["unscored"], metric["kind"]) == (3, 3, 1, "share")
        assert 0 <= metric["low"] <= metric["mean"] <= metric["high"] <= 1


def test_the_second_answer_may_be_the_right_one_and_the_shorter_rule_the_better() -> None:
    found = choices(LOGPS, TOKENS, [1, 1, 1, 0], PROMPTS)
    assert found["choice"]["mean"] == pytest.approx((0 + 1 + 0.5 + 1) / 4)
    assert found["choice_per_token"]["mean"] == pytest.approx((0 + 0 + 0.5 + 1) / 4)
    assert (found["choice_baseline"]["mean"], found["choice_baseline"]["rule"]) == ((1 + 1 + 0.5 + 1) / 4, "shorter")


def test_pairs_of_a_prompt_are_drawn_together() -> None:
    generator = np.random.default_rng(0)
    margin = np.where(generator.random(40) < 0.7, 1.0, -1.0)
    alone = share(margin, [str(i) for i in range(40)])
    alike = share(np.repeat(margin, 5), [str(i // 5) for i in range(200)])
    assert (alike["mean"], alike["n"], alike["n_prompts"]) == (alone["mean"], 200, 40)
    assert (alike["low"], alike["high"]) == pytest.approx((alone["low"], alone["high"]))


def test_all_right_is_not_certainty_and_nothing_but_ties_is_one_half() -> None:
    sure = share(np.ones(20), PROMPTS * 5)
    # 0 of 4 prompts: the exact bound on those that could differ is 1 - 0.025 ** (1 / 4).
    assert (sure["low"], sure["high"]) == (pytest.approx(0.025**0.25), 1.0)
    tied = share(np.zeros(20), PROMPTS * 5)
    assert (tied["low"], tied["mean"], tied["high"]) == (0.5, 0.5, 0.5)
    assert share(np.ones(3), ["a"] * 3)["low"] is None


def test_without_any_label_there_is_no_figure() -> None:
    found = choices(LOGPS, TOKENS, [None] * 4, PROMPTS)
    assert [(m["mean"], m["n"], m["unscored"]) for m in found.values()] == [(None, 0, 4)] * 3


def test_over_seeds_a_share_stays_a_share() -> None:
    seeds = [choices(LOGPS, TOKENS, right, PROMPTS) for right in ([0, 0, 1, 0], [1, 1, 1, 0])]
    joined = join_metrics([seed["choice_baseline"] for seed in seeds])
    assert joined["by_seed"] == [2.5 / 4, 3.5 / 4] and joined["mean"] == 0.75
    assert joined["low"] >= 0 and joined["high"] == 1.0
    assert "rule" not in joined, "the longer answer in one seed, the shorter in the other"
    assert join_metrics([seeds[0]["choice_baseline"]] * 2)["rule"] == "longer"


@pytest.mark.parametrize(
    ("logps", "tokens", "right", "words"),
    [
        (LOGPS[:3], TOKENS, [0] * 4, r"each of 4 pairs, got \(3, 2\)"),
        (LOGPS, TOKENS, [0, 1, 2, None], "0, 1 or None, got 2"),
        ([[float("nan"), -1.0], *LOGPS[1:]], TOKENS, [0] * 4, "finite log-probabilities"),
        (LOGPS, [[0, 2], *TOKENS[1:]], [0] * 4, "at least one token"),
    ],
)
def test_what_is_refused(logps, tokens, right, words: str) -> None:
    with pytest.raises(DataError, match=words):
        choices(logps, tokens, right, PROMPTS)


def test_held_out_pairs_have_both_likelihoods_beside_the_implicit_reward() -> None:
    base = np.array([[-4.0, -7.0], [-9.0, -4.0], [-5.0, -5.0], [-2.0, -8.0]])
    found = pair_accuracies(np.array(LOGPS), base, np.array(TOKENS), PROMPTS)
    # Gains over the base: 0 < 1, 0 < 1, a tie, a tie. Summed: right, wrong, a tie, right; per token the second too.
    assert [metric["mean"] for metric in found.values()] == [1 / 4, 2.5 / 4, 3.5 / 4]
    assert list(found) == ["implicit_reward", "likelihood", "likelihood_per_token"]
    assert longer_wins(np.array(TOKENS), PROMPTS)["mean"] == 2.5 / 4
