"""Spearman's correlation: by hand, against scipy, and how often its interval covers."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import spearmanr

from equipoise.errors import DataError, SettingError
from equipoise.statistics.correlation import spearman


def test_by_hand() -> None:
    # Ranks 1 2 3 4 against 2 1 4 3: 1 - 6 * (1 + 1 + 1 + 1) / (4 * 15) = 0.6.
    found = spearman([1, 2, 3, 9], [20, 10, 40, 30], "abcd")
    assert found is not None and found.mean == pytest.approx(0.6)
    assert (found.n, found.n_prompts, found.kind) == (4, 4, "correlation")


def test_ties_are_taken_at_their_middle_rank() -> None:
    rng = np.random.default_rng(0)
    x = rng.integers(1, 6, 200)
    y = np.clip(x + rng.integers(-2, 3, 200), 1, 5)
    found = spearman(x, y, range(200))
    assert found is not None and found.mean == pytest.approx(spearmanr(x, y).statistic, abs=1e-12)


def test_perfect_orders_have_an_interval_at_the_end() -> None:
    up, down = spearman(range(30), range(30), range(30)), spearman(range(30), range(0, -30, -1), range(30))
    assert up is not None and (up.mean, up.high) == (pytest.approx(1), pytest.approx(1))
    assert down is not None and (down.mean, down.low) == (pytest.approx(-1), pytest.approx(-1))


def test_answers_to_one_prompt_are_drawn_together() -> None:
    rng = np.random.default_rng(1)
    x, noise = rng.normal(size=60), rng.normal(size=60)
    one = spearman(x, x + noise, range(60))
    thrice = spearman(np.tile(x, 3), np.tile(x + noise, 3), list(range(60)) * 3)
    assert one is not None and thrice is not None
    assert (thrice.mean, thrice.low, thrice.high) == pytest.approx((one.mean, one.low, one.high), abs=1e-9)


def test_what_has_no_correlation_or_no_interval() -> None:
    assert spearman([1, 1, 1], [1, 2, 3], "abc") is None
    alone = spearman([1, 2, 3], [1, 3, 2], "aaa")
    assert alone is not None and alone.mean == pytest.approx(0.5) and (alone.low, alone.high) == (None, None)


@pytest.mark.parametrize("values", [[1.0, float("nan")], [1.0], [[1.0, 2.0]]])
def test_values_that_are_refused(values) -> None:
    with pytest.raises(DataError):
        spearman(values, [1.0, 2.0], "ab")
    with pytest.raises(SettingError):
        spearman([1, 2], [1, 2], "ab", level=1)


@pytest.mark.slow
def test_the_interval_covers() -> None:
    rng = np.random.default_rng(2)
    true = 6 / np.pi * np.arcsin(0.6 / 2)  # Spearman's of a Gaussian pair with correlation 0.6
    covered = 0
    for trial in range(60):
        x = rng.normal(size=40)
        found = spearman(x, 0.6 * x + 0.8 * rng.normal(size=40), range(40), seed=trial)
        assert found is not None and found.low is not None and found.high is not None
        covered += found.low <= true <= found.high
    assert covered >= 52  # of 60 at 95 %: fewer has a chance of 0.5 %
