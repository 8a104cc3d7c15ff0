"""Prompts a verdict needs, against counting every outcome."""

from __future__ import annotations

import pytest
from scipy.stats import binom

from equipoise.errors import SettingError
from equipoise.statistics import chance_met, decide, prompts_needed, rate


def counted(n: int, target: float, p: float) -> float:
    """Probability of MET, by asking `decide` about every number of hits."""
    met = (decide(rate([1] * k + [0] * (n - k), range(n)), target=target).status == "MET" for k in range(n))
    return sum(float(binom.pmf(k, n, p)) for k, yes in enumerate(met) if yes)


@pytest.mark.parametrize(("n", "target", "p"), [(148, 0.02, 0.0), (149, 0.02, 0.001), (200, 0.1, 0.05), (60, 0.3, 0.1)])
def test_the_chance_is_that_of_all_outcomes(n: int, target: float, p: float):
    assert chance_met(n, target, p) == pytest.approx(counted(n, target, p), abs=1e-9)


def test_fewest_prompts_by_counting():
    fewest = next(n for n in range(1, 200) if counted(n, 0.15, 0.04) >= 0.8)
    assert prompts_needed(0.15, 0.04) == fewest


def test_a_model_without_a_hit_needs_149_prompts_for_two_percent():
    assert prompts_needed(0.02, 0.0) == 149
    assert prompts_needed(0.02, 0.0, confidence=0.99) == 228  # .98^228 is the first below .01
    assert (prompts_needed(0.02, 0.005), prompts_needed(0.02, 0.01)) == (386, 969)


def test_fewer_prompts_do_not_reach_the_power():
    needed = prompts_needed(0.02, 0.005, power=0.9)
    assert chance_met(needed, 0.02, 0.005) >= 0.9
    assert all(chance_met(n, 0.02, 0.005) < 0.9 for n in range(1, needed))


def test_answers_count_as_much_as_they_differ():
    assert prompts_needed(0.02, 0.0, answers=4) == 149
    assert prompts_needed(0.02, 0.0, answers=4, correlation=0.0) == 38
    half = prompts_needed(0.02, 0.005, answers=4, correlation=0.5)  # 4 answers are worth 1.6
    assert half == 242
    assert chance_met(half, 0.02, 0.005, answers=4, correlation=0.5) >= 0.8


def test_a_rate_just_below_the_target_has_no_answer():
    assert prompts_needed(0.2, 0.19999) is None


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: prompts_needed(0.02, 0.02), "below target 0.02 when it is expected at 0.02"),
        (lambda: prompts_needed(2, 0.01), "target must lie between 0 and 1, got 2"),
        (lambda: prompts_needed(0.02, -0.1), "rate must be at least 0"),
        (lambda: prompts_needed(0.02, 0.01, power=1), "power must lie between 0 and 1"),
        (lambda: prompts_needed(0.02, 0.01, answers=0), "answers must be at least 1"),
        (lambda: prompts_needed(0.02, 0.01, correlation=2), "correlation must lie between 0 and 1"),
        (lambda: chance_met(0, 0.02, 0.01), "prompts must be at least 1"),
    ],
)
def test_bad_plans_are_refused_in_a_sentence(call, words: str):
    with pytest.raises(SettingError, match=words):
        call()
