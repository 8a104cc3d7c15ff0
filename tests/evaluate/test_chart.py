"""The plot as values: scales, ticks, dominance and label places."""

from __future__ import annotations

import itertools
import math

import pytest

from equipoise.evaluate.chart import Scale, lay_out, outline
from equipoise.evaluate.labels import Box, place


def test_scales_map_their_ends_and_open_up_small_rates():
    assert Scale(0, 10, 100, 200)(5) == 150
    root = Scale(0, 1, 0, 100, root=True)
    assert (root(0), root(0.25), root(1)) == (0, 50, 100)


@pytest.mark.parametrize("width", [1080, 720, 372])
def test_no_label_covers_another_or_leaves_the_picture(results, width: int):
    chart = lay_out(results, width=width, height=460, target=0.05, font=11.5 if width < 400 else 13)
    boxes = [mark.placed.box for mark in chart.marks]
    assert len(boxes) == len(results)
    assert all(a.overlap(b) == 0 for a, b in itertools.combinations(boxes, 2))
    assert all(box.outside(Box(0, 0, width, 460)) < 1e-6 for box in boxes)
    for box, mark in itertools.product(boxes, chart.marks):
        assert not (box.left < mark.x < box.right and box.top < mark.y < box.bottom)


def test_marks_lie_inside_the_frame_with_both_intervals(results):
    chart = lay_out(results, width=1080, height=500, target=0.05)
    for mark in chart.marks:
        assert chart.frame.left <= mark.left <= mark.x <= mark.right <= chart.frame.right
        assert chart.frame.top <= mark.top < mark.y < mark.bottom <= chart.frame.bottom


def test_ticks_keep_their_distance(results):
    chart = lay_out(results, width=372, height=440, font=11.5, target=0.05)
    places = [at for at, _ in chart.x_ticks]
    assert all(b - a >= 3.3 * 11.5 for a, b in itertools.pairwise(places))
    assert chart.x_ticks[0][1] == "0%"
    assert [text for _, text in chart.y_ticks] == ["0.2", "0.4", "0.6", "0.8", "1.0"]


def test_curves_join_the_points_of_one_line_in_their_order(results):
    chart = lay_out(results, width=1080, height=500)
    assert {name: len(points) for _, name, points in chart.curves} == {"SACPO": 3, "P-SACPO": 3}
    assert chart.target is None
    assert [mark.label for mark in chart.marks if mark.chosen] == ["P-SACPO q 0.75"]


def test_results_without_both_figures_are_counted_not_drawn(results):
    results[1]["metrics"]["reward"]["mean"] = None
    del results[2]["metrics"]["unsafe_rate"]
    chart = lay_out(results, width=1080, height=500)
    assert (len(chart.marks), chart.hidden) == (8, 2)


def test_nothing_scored_still_gives_a_chart(results):
    for one in results:
        one["metrics"].clear()
    chart = lay_out(results, width=1080, height=500, target=0.05)
    assert (chart.marks, chart.hidden, chart.curves) == ([], 10, [])
    assert math.isfinite(chart.target)


def test_many_points_name_only_those_that_matter(make_result):
    crowd = [
        make_result(f"m {i}", "sacpo", None, {"i": i}, 0.01 + 0.02 * i, 0.1, 0.9 - 0.01 * i, 5.0, prompts=105)
        for i in range(40)
    ]
    crowd[7]["chosen"] = True
    chart = lay_out(crowd, width=1080, height=500)
    assert [mark.label for mark in chart.marks if mark.placed] == ["m 0", "m 7"]


def test_two_points_on_one_spot_get_separate_labels():
    first, second = place([(50, 50), (50, 50)], [(40, 14), (40, 14)], frame=Box(0, 0, 200, 200))
    assert first.box.overlap(second.box) == 0


def test_outlines_are_closed_and_circles_round():
    assert outline("circle", 10, 10, 5).count("a5.00,5.00") == 2
    assert outline("up", 0, 0, 5).endswith("z")
