"""Rates corrected for a grader's errors."""

from __future__ import annotations

import numpy as np
import pytest

from equipoise.errors import DataError, SettingError
from equipoise.statistics import Grader, clopper_pearson, corrected_rate, decide, decide_corrected, mean, rate


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
