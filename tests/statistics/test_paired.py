"""Score bounds of a paired difference of rates, against values worked out by hand and by their definition."""

from __future__ import annotations

import math

import pytest

from equipoise.errors import DataError, SettingError
from equipoise.statistics import apart, clopper_pearson, difference, score_bounds

Z = 1.6448536269514722


@pytest.mark.parametrize("n", [1, 10, 100, 5000])
def test_without_a_difference_the_bound_is_z_squared_over_n_plus_z_squared(n: int) -> None:
    """Then the score is -n d / sqrt(n d (1 - d)), which is -z at d = z^2 / (n + z^2)."""
    low, high = score_bounds(0, 0, n)
    assert high == pytest.approx(Z**2 / (n + Z**2), abs=1e-9)
    assert low == pytest.approx(-high)


def test_the_bound_is_where_the_score_is_z() -> None:
    """3 prompts against 1 of 100: under a difference d the likeliest share q of "only second" solves a quadratic."""
    _, d = score_bounds(3, 1, 100)
    b = (200 - 3 + 1) * d - 4
    q = (math.sqrt(b * b + 8 * 100 * 1 * d * (1 - d)) - b) / 400
    assert (3 - 1 - 100 * d) / math.sqrt(100 * (2 * q + d * (1 - d))) == pytest.approx(-Z)
    assert d == pytest.approx(0.0642, abs=1e-4)


def test_it_turns_with_its_sides_and_closes_in_with_less_confidence() -> None:
    low, high = score_bounds(7, 2, 50)
    assert score_bounds(2, 7, 50) == pytest.approx((-high, -low))
    narrow = score_bounds(7, 2, 50, confidence=0.8)
    assert low < narrow[0] < 0.1 < narrow[1] < high


def test_every_prompt_differs() -> None:
    low, high = score_bounds(40, 0, 40)
    assert high == pytest.approx(1.0) and low == pytest.approx(0.8733, abs=1e-4)


@pytest.mark.parametrize(("first", "second", "n"), [(1, 1, 0), (-1, 0, 5), (3, 3, 5)])
def test_impossible_counts_are_refused(first: int, second: int, n: int) -> None:
    with pytest.raises(DataError, match="counts within the number of prompts"):
        score_bounds(first, second, n)


def test_a_confidence_of_one_half_is_refused() -> None:
    with pytest.raises(SettingError, match=r"between 0\.5 and 1"):
        score_bounds(1, 1, 5, confidence=0.5)


def test_a_difference_over_strata_weighs_them_equally() -> None:
    """Gaps 1, 1 in one stratum and 0, 0, 0, 0 in the other: the mean of the means is 1/2, of all prompts 1/3."""
    names = ["a", "b", "c", "d", "e", "f"]
    strata = dict(zip(names, "xxyyyy", strict=True))
    first, second = [1.0, 1.0, 2.0, 2.0, 2.0, 2.0], [0.0, 0.0, 2.0, 2.0, 2.0, 2.0]
    assert difference(first, names, second, names, strata=strata).mean == 0.5
    assert difference(first, names, second, names).mean == pytest.approx(1 / 3)


def test_pairs_that_agree_leave_room_for_what_a_small_stratum_could_hide() -> None:
    names = [f"p{i}" for i in range(1010)]
    strata = {name: "few" if i < 10 else "many" for i, name in enumerate(names)}
    same = [1.0] * 1010
    found = difference(same, names, same, names, strata=strata)
    assert found.high == pytest.approx(clopper_pearson(0, 20)[1])  # as if either had 10
    # All of the few could differ in a share of 1 - 0.025^(1 / 10) = 31 %, which is 15 % of the mean.
    assert found.high > (1 - 0.025**0.1) / 2


def test_figures_that_are_not_paired_stand_apart_by_both_distances() -> None:
    low, high = apart(0.5, (0.2, 0.6), 0.1, (0.0, 0.5))
    assert (low, high) == (pytest.approx(0.4 - 0.5), pytest.approx(0.4 + math.hypot(0.1, 0.1)))
