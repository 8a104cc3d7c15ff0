"""Rates corrected for a grader's errors."""

from __future__ import annotations

import numpy as np
import pytest

from equipoise.errors import DataError, SettingError
from equipoise.statistics import (
    Grader,
    clopper_pearson,
    corrected_difference,
    corrected_rate,
    decide,
    decide_corrected,
    mean,
    rate,
    score_bounds,
)


def observed(hits: int, n: int):
    return rate([1] * hits + [0] * (n - hits), range(n))


def test_the_point_by_hand():
    found = corrected_rate(observed(20, 100), Grader(hits=90, unsafe=100, false_alarms=10, safe=100))
    assert found.rate.mean == pytest.approx((0.2 - 0.1) / (0.9 - 0.1))
    assert found.rate.low < 0.125 < found.rate.high
    assert (found.sensitivity.mean, found.false_alarm.mean, found.observed.mean) == (0.9, 0.1, 0.2)
    assert (found.sensitivity.low, found.sensitivity.high) == pytest.approx(clopper_pearson(90, 100))


def test_a_perfect_grader_changes_nothing():
    found = corrected_rate(observed(20, 1000), Grader(10**8, 10**8, 0, 10**8)).rate
    assert found.mean == pytest.approx(0.02)
    assert (found.low, found.high) == pytest.approx(clopper_pearson(20, 1000), abs=2e-4)
    assert found.n_effective == pytest.approx(1000, rel=0.03)


def test_fewer_labels_widen_the_interval():
    many = corrected_rate(observed(50, 500), Grader(900, 1000, 20, 1000)).rate
    few = corrected_rate(observed(50, 500), Grader(45, 50, 1, 50)).rate
    assert many.mean == pytest.approx(few.mean)
    assert few.low < many.low < many.high < few.high


def test_the_point_is_cut_and_the_interval_keeps_a_width():
    none = corrected_rate(observed(0, 300), Grader(95, 100, 2, 100)).rate
    assert (none.mean, none.low) == (0.0, 0.0)
    assert none.high > 0
    every = corrected_rate(observed(290, 300), Grader(95, 100, 2, 100)).rate
    assert (every.mean, every.high) == (1.0, 1.0)
    assert every.low < 1


def test_a_verdict_knows_the_grader():
    plain = observed(13, 1050)
    assert decide(plain, target=0.02).status == "MET"
    assert decide_corrected(plain, Grader(10**8, 10**8, 0, 10**8), target=0.02).status == "MET"
    # The grader misses a fifth: the same thirteen flags no longer show 2 %.
    blind = decide_corrected(plain, Grader(80, 100, 0, 1000), target=0.02)
    assert (blind.status, blind.more_prompts) == ("UNDECIDED", None)
    # 5 % flagged may all be false alarms: no target is missed for sure, however many prompts there were.
    assert decide_corrected(observed(400, 8000), Grader(180, 200, 4, 200), target=0.02).status == "UNDECIDED"
    assert decide_corrected(observed(400, 1000), Grader(180, 200, 4, 200), target=0.02).status == "NOT MET"
    with pytest.raises(SettingError, match="decide_corrected"):
        decide(corrected_rate(plain, Grader(80, 100, 0, 1000)).rate, target=0.02)
    with pytest.raises(SettingError, match="confidence must lie"):
        decide_corrected(plain, Grader(80, 100, 0, 1000), target=0.02, confidence=0.4)


def test_the_interval_covers_the_true_rate():
    generator = np.random.default_rng(0)
    covered = 0
    for repetition in range(150):
        flags = generator.binomial(500, 0.05 * 0.85 + 0.95 * 0.03)
        grader = Grader(int(generator.binomial(150, 0.85)), 150, int(generator.binomial(400, 0.03)), 400)
        found = corrected_rate(observed(int(flags), 500), grader, seed=repetition).rate
        covered += found.low <= 0.05 <= found.high
    assert covered / 150 >= 0.94


@pytest.mark.parametrize(
    ("hits", "grader", "words"),
    [
        (5, Grader(5, 10, 50, 100), "flags 50.0% of unsafe and 50.0% of safe answers"),
        (0, Grader(95, 100, 500, 1000), "an observed rate of 0.00% cannot come from 50.0% false alarms"),
        (5, Grader(11, 10, 0, 100), "0 <= hits <= unsafe and unsafe > 0, got 11 of 10"),
        (5, Grader(1, 10, 0, 0), "safe > 0, got 0 of 0"),
    ],
)
def test_useless_labels_are_refused_in_a_sentence(hits: int, grader: Grader, words: str):
    with pytest.raises(DataError, match=words):
        corrected_rate(observed(hits, 100), grader)


def test_only_rates_are_corrected():
    with pytest.raises(SettingError, match="correct a rate, got a mean"):
        corrected_rate(mean([0.0, 1.0], ["a", "b"]), Grader(9, 10, 0, 10))


def test_a_difference_of_true_rates_is_wider_than_that_of_flags():
    """A grader with 90 of 100 and 10 of 100 shrinks differences to .8; one that is known shrinks by that alone."""
    value, low, high = corrected_difference(0.04, (-0.008, 0.08), Grader(9 * 10**7, 10**8, 10**7, 10**8))
    assert (value, low, high) == pytest.approx((0.05, -0.01, 0.1), abs=1e-4)
    found = corrected_difference(0.04, (-0.008, 0.08), Grader(90, 100, 10, 100))
    assert found[0] == pytest.approx(0.05) and found[1] < -0.0105 and found[2] > 0.105
    # Ends beyond 0 are divided by the most the grader may see: 0.04 / 1 is the closest a perfect one allows.
    value, low, high = corrected_difference(0.08, (0.04, 0.12), Grader(20, 20, 0, 20))
    assert (value, low) == (0.08, 0.04) and high > 0.12 / 0.85
    assert corrected_difference(-0.08, (-0.12, -0.04), Grader(20, 20, 0, 20)) == pytest.approx((-value, -high, -low))


def test_a_grader_no_better_than_chance_allows_every_difference():
    assert corrected_difference(0.0, (-0.01, 0.01), Grader(3, 4, 1, 4)) == (0.0, -1.0, 1.0)
    nothing, low, high = corrected_difference(0.1, (0.05, 0.15), Grader(5, 100, 50, 100))
    assert np.isnan(nothing) and (low, high) == (-1.0, 1.0)


def test_bounds_of_a_difference_hold():
    """Rates .10 and .06, 300 prompts each of its own answers, 60 + 60 labels: 5 % per side at most."""
    generator = np.random.default_rng(0)
    above = below = 0
    for repetition in range(80):
        truth = generator.random((2, 300)) < np.array([[0.10], [0.06]])
        flags = generator.random((2, 300)) < np.where(truth, 0.8, 0.1)
        more, less = int((flags[0] & ~flags[1]).sum()), int((~flags[0] & flags[1]).sum())
        grader = Grader(int(generator.binomial(60, 0.8)), 60, int(generator.binomial(60, 0.1)), 60)
        gap = (more - less) / 300
        _, low, high = corrected_difference(
            gap, score_bounds(more, less, 300, confidence=0.975), grader, seed=repetition
        )
        above, below = above + (low > 0.04), below + (high < 0.04)
    assert above <= 8 and below <= 8
