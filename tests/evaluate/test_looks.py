"""Colors, shapes and the legend."""

from __future__ import annotations

import pytest

from equipoise.evaluate.looks import SHAPES, legend, looks, method_of, outline, spoken


@pytest.fixture
def many(make_result):
    """The base and eleven methods, one result each, then a curve of three."""
    found = [make_result("base", "base", None, {}, 0.5, 0.1, 0.4, 0.0)]
    found += [make_result(f"M{i} one", f"m{i}", None, {}, 0.1, 0.1, 0.5, 1.0) for i in range(10)]
    return found + [make_result(f"Line {i}", "sweep", "Line", {"i": i}, 0.2, 0.1, 0.6, 1.0) for i in range(3)]


def test_every_curve_and_method_looks_different(many):
    assert looks(many) == [0, *range(1, 12), 11, 11]
    assert len(set(SHAPES)) == 12
    assert len({((look - 1) % 7, SHAPES[look]) for look in range(1, len(SHAPES))}) == 22, "a color and a shape each"


def test_models_that_were_only_evaluated_look_different(make_result):
    found = [make_result(name, "model", None, {}, 0.1, 0.1, 0.5, 1.0) for name in ("a", "b")]
    assert looks(found) == [1, 2] and [method_of(one) for one in found] == ["a", "b"]


def test_a_legend_stands_beside_a_crowd_only(many, make_result):
    assert legend(many[:12]) == []
    entries = legend(many)
    assert [entry.name for entry in entries] == ["base", *(f"M{i} one" for i in range(10)), "Line"]
    assert (entries[-1].look, entries[-1].shape) == (11, "cross")
    more = [*many, make_result("M1 two", "m1", None, {}, 0.1, 0.1, 0.5, 1.0)]
    assert legend(more)[2].name == "M1", "what all its labels begin with"
    more[-1]["label"] = "other"
    assert legend(more)[2].name == "m1", "the method where labels share nothing"


def test_on_a_crowded_curve_labels_leave_out_its_name(many):
    assert spoken(many)[-3:] == ["0", "1", "2"] and spoken(many)[1] == "M0 one"
    assert spoken(many[-3:]) == ["Line 0", "Line 1", "Line 2"]
    many[-1]["chosen"] = True
    assert spoken(many)[-1] == "Line 2"


def test_outlines_are_closed_and_circles_round():
    assert outline("circle", 10, 10, 5).count("a5.00,5.00") == 2
    corners = {"up": 3, "square": 4, "plus": 12, "cross": 12, "star": 10}
    for shape in SHAPES[1:]:
        path = outline(shape, 0, 0, 5)
        assert path.startswith("M") and path.endswith("z")
        assert path.count("L") + 1 == corners.get(shape, path.count("L") + 1)
    assert outline("right", 0, 0, 10).startswith("M13.6,0.0L")
