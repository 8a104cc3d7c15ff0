"""The plot as values: scales, ticks, dominance and label places."""

from __future__ import annotations

import itertools
import math

import pytest

from equipoise.evaluate.chart import Scale, lay_out
from equipoise.evaluate.labels import Box, place
from equipoise.evaluate.looks import outline
from equipoise.evaluate.words import beaten_words


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


def test_what_is_beaten_is_grey_and_in_a_crowd_a_dot(make_result, results):
    chart = lay_out(results, width=1080, height=500, target=0.05)
    assert [mark.label for mark in chart.marks if mark.quiet] == ["SACPO β/λ 0.1", "Naive merge"], "not the base"
    assert not any(mark.small for mark in chart.marks)
    crowd = [make_result("base", "base", None, {}, 0.6, 0.1, 0.2, 0.0)]
    for method, lost in (("one", 0.0), ("two", 0.1)):
        crowd += [
            make_result(f"{method} {i}", method, method, {}, 0.01 + 0.01 * i, 0.1, 0.5 - lost, 5.0) for i in range(20)
        ]
    chart = lay_out(crowd, width=1080, height=500, target=0.05)
    assert [mark.label for mark in chart.marks if not mark.small] == ["base", "one 0", "two 0"]
    assert [mark.label for mark in chart.marks if mark.placed] == ["base", "one 0", "two 0"]
    assert chart.curves == [] and chart.unnamed == 0 and chart.lively == {0, 1}
    assert chart.marks[30].path(3) == outline("circle", chart.marks[30].x, chart.marks[30].y, 3)


def test_helpfulness_is_the_win_rate_where_not_every_result_has_a_reward(results, make_rate):
    for one in results:
        one["metrics"]["win_rate"] = make_rate(one["metrics"]["reward"]["mean"], 200)
    assert lay_out(results, width=1080, height=500).y_title == "Helpfulness (reward)"
    del results[3]["metrics"]["reward"]
    chart = lay_out(results, width=1080, height=500)
    assert chart.y_title == "Helpfulness (win rate)" and len(chart.marks) == 10
    assert [text for _, text in chart.y_ticks] == ["20%", "40%", "60%", "80%", "100%"]


def test_without_helpfulness_both_rates_are_drawn(results):
    for one in results:
        del one["metrics"]["reward"]
    chart = lay_out(results, width=1080, height=500, target=0.05)
    assert (chart.axis, chart.y_title) == ("over_refusal", "Over-refusal of borderline prompts (best: lower left)")
    assert len(chart.marks) == 10 and chart.y_ticks[0][1] == "0%"
    left = min(chart.marks, key=lambda mark: mark.x)
    low = max(chart.marks, key=lambda mark: mark.y)
    assert (left.label, low.label) == ("DPO safe", "DPO helpful"), "less of both is better"
    assert left.frontier and low.frontier
    assert [mark.label for mark in chart.marks if not mark.frontier] == ["Naive merge"]
    assert beaten_words(results) == "another point is at least as safe and refuses no more, and better in one"
    for one in results:
        del one["metrics"]["over_refusal"]
    assert lay_out(results, width=1080, height=500).marks == []


def test_two_points_on_one_spot_get_separate_labels():
    first, second = place([(50, 50), (50, 50)], [(40, 14), (40, 14)], frame=Box(0, 0, 200, 200))
    assert first.box.overlap(second.box) == 0


def test_a_label_without_room_is_left_out_unless_it_must_be_kept():
    points, sizes, frame = [(50.0, 50.0)] * 3, [(90.0, 40.0)] * 3, Box(0, 0, 100, 100)
    assert all(place(points, sizes, frame=frame))
    found = place(points, sizes, frame=frame, keep=[False, True, False])
    assert found[1] is not None and None in found


def test_labels_keep_off_points_that_have_none():
    (free,) = place([(50, 50)], [(40, 14)], frame=Box(0, 0, 200, 200))
    (taken,) = place([(50, 50)], [(40, 14)], frame=Box(0, 0, 200, 200), others=[(80, 50)])
    assert free.box.overlap(Box(72, 42, 88, 58)) > 0 == taken.box.overlap(Box(72, 42, 88, 58))


@pytest.fixture
def crowd(make_result):
    """25 results on four curves and alone, most of them near each other."""
    found = [make_result("base", "base", None, {}, 0.51, 0.02, 0.4, 0.0)]
    for n, name in enumerate(("SACPO", "P-SACPO", "MODPO", "BFPO")):
        for i in range(5):
            unsafe, reward = 0.02 + 0.05 * i + 0.01 * n, 0.5 + 0.08 * i - 0.03 * n
            found.append(make_result(f"{name} q {i}", name.lower(), name, {"q": i}, unsafe, 0.1, reward, 9.0))
    found += [make_result(name, "dpo", None, {}, 0.3, 0.1, 0.5 + n / 5, 9.0) for n, name in enumerate(("DPO", "DPO b"))]
    found += [make_result(name, "cpo", "CPO", {}, 0.1, 0.1, 0.7, 9.0) for name in ("CPO top", "CPO plain")]
    found[8]["chosen"] = True
    return found


@pytest.mark.parametrize("width", [1080, 720, 372])
def test_of_a_crowd_what_matters_is_named_and_no_name_lies_on_another(crowd, width: int):
    chart = lay_out(crowd, width=width, height=460, target=0.05, font=11.5 if width < 400 else 13)
    named = [mark for mark in chart.marks if mark.placed]
    assert {mark.label for mark in chart.marks if mark.frontier or mark.chosen} <= {mark.label for mark in named}
    assert chart.unnamed == len(crowd) - len(named) < (8 if width > 1000 else 18)
    free = [mark.placed.box for mark in named if not (mark.frontier or mark.chosen)]
    assert all(a.overlap(b) <= 12 for a, b in itertools.combinations(free, 2))
    texts = {mark.label: mark.text for mark in chart.marks}
    assert texts["SACPO q 1"] == "q 1" and texts["CPO top"] == "CPO top", "a curve of two keeps whole names"
    assert texts["P-SACPO q 2"] == "P-SACPO q 2", "so does the chosen one"
