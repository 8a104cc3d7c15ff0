"""Families of claims and sign flips, counted by hand."""

from __future__ import annotations

import numpy as np
import pytest
from statsmodels.stats.multitest import multipletests

from equipoise.errors import DataError, SettingError
from equipoise.statistics import holm, paired_p


def test_holm_by_hand():
    found = holm({"helpful": 0.01, "safe": 0.04, "short": 0.03})
    assert [c.adjusted for c in found.values()] == pytest.approx([0.03, 0.06, 0.06])
    assert [c.holds for c in found.values()] == [True, False, False]
    assert list(found) == ["helpful", "safe", "short"]
    assert holm({"only": 0.05})["only"].holds
    assert holm({"a": 0.6, "b": 0.7})["a"].adjusted == 1.0


def test_holm_agrees_with_the_reference_package():
    p = np.random.default_rng(0).random(20) ** 3
    found = holm({str(i): float(x) for i, x in enumerate(p)}, alpha=0.1)
    holds, adjusted, *_ = multipletests(p, alpha=0.1, method="holm")
    assert [c.adjusted for c in found.values()] == pytest.approx(adjusted)
    assert [c.holds for c in found.values()] == holds.tolist()


def p_of(gaps: list[float], alternative: str) -> float:
    return paired_p(gaps, range(len(gaps)), [0.0] * len(gaps), range(len(gaps)), alternative=alternative)


def test_few_prompts_are_counted_exactly():
    assert p_of([1, 2, 3], "greater") == 1 / 8
    assert p_of([1, 2, 3], "less") == 1.0
    assert p_of([1, 2, 3], "two-sided") == 2 / 8
    assert p_of([1, -1], "greater") == 3 / 4
    assert p_of([1, 2, 3, 0, 0], "greater") == 1 / 8  # prompts without a difference say nothing
    assert p_of([0, 0], "greater") == 1.0
    assert p_of([0.1, 0.2, -0.3], "greater") == 5 / 8  # rounding does not part equal sums


def test_answers_to_a_prompt_count_once():
    assert paired_p([1, 3, 5], ["a", "a", "b"], [0, 0, 9], ["a", "b", "c"]) == 1 / 4


def test_many_prompts_are_drawn():
    gaps = np.random.default_rng(1).normal(0.3, 1, size=60)
    found = p_of(gaps.tolist(), "two-sided")
    z = gaps.sum() / np.sqrt(np.square(gaps).sum())
    assert found == pytest.approx(2 * (1 - _normal(abs(z))), abs=0.01)
    assert found == p_of(gaps.tolist(), "two-sided")
    assert p_of([1.0] * 60, "greater") == 1 / 20_001


def test_no_difference_is_seldom_found():
    generator = np.random.default_rng(3)
    found = [p_of(generator.exponential(size=12) * generator.choice([-1.0, 1.0], 12), "greater") for _ in range(400)]
    assert np.mean(np.array(found) <= 0.05) <= 0.08
    assert np.mean(found) == pytest.approx(0.5, abs=0.05)


@pytest.mark.parametrize(
    ("call", "error", "words"),
    [
        (lambda: holm({"a": 1.2}), DataError, "claim 'a' must lie between 0 and 1, got 1.2"),
        (lambda: holm({"a": 0.2}, alpha=5), SettingError, "alpha must lie between 0 and 1, got 5"),
        (lambda: paired_p([1], ["a"], [1], ["b"]), DataError, "none in common"),
        (lambda: paired_p([float("nan")], ["a"], [1], ["a"]), DataError, "finite"),
        (lambda: p_of([1], "bigger"), SettingError, "alternative 'bigger' is unknown"),
    ],
)
def test_bad_claims_are_refused_in_a_sentence(call, error, words: str):
    with pytest.raises(error, match=words):
        call()


def _normal(z: float) -> float:
    from math import erf, sqrt

    return (1 + erf(z / sqrt(2))) / 2
