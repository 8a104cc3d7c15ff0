"""The area that points dominate, by hand."""

from __future__ import annotations

import pytest

from equipoise.errors import DataError
from equipoise.statistics.volume import volume


def test_one_point_is_a_rectangle():
    assert volume([(0.1, 0.5)]) == pytest.approx(0.9 * 0.5)
    assert volume([(0.1, 0.5)], floor=0.2) == pytest.approx(0.9 * 0.3)


def test_each_more_helpful_point_adds_a_strip():
    # .9 x .4, then what .6 adds above .4 from .5 on.
    assert volume([(0.5, 0.6), (0.1, 0.4)]) == pytest.approx(0.9 * 0.4 + 0.5 * 0.2)


def test_a_dominated_point_adds_nothing():
    assert volume([(0.1, 0.5), (0.2, 0.5), (0.3, 0.1)]) == pytest.approx(volume([(0.1, 0.5)]))


def test_the_order_of_points_does_not_matter():
    points = [(0.5, 0.6), (0.1, 0.4), (0.9, 0.9)]
    assert volume(points) == pytest.approx(volume(points[::-1]))


def test_below_the_floor_is_nothing():
    assert volume([(0.0, -0.5)]) == 0
    assert volume([]) == 0


def test_a_rate_beyond_one_is_refused():
    with pytest.raises(DataError, match=r"between 0 and 1, got 1\.2"):
        volume([(1.2, 0.5)])
