"""Controllability in pixels: scales, the diagonal, looks, and what became of what nobody asked for."""

from __future__ import annotations

import pytest

from equipoise.evaluate.dials import Model, dials, models_of, seeds_of, side_effects, unscored_of

TWO = [Model("CPO", 3), Model("base", 0)]


def test_a_model_that_does_as_asked_lies_on_the_diagonal(control):
    control["models"][0]["objectives"]["honesty"]["achieved"]["1"]["mean"] = 1.0
    control["models"][0]["objectives"]["honesty"]["achieved"]["5"]["mean"] = 5.0
    honesty, helpful = dials(control, TWO)
    own = [dot for dot in honesty.dots if dot.model.label == "CPO" and not dot.plain]
    x0, y0, x1, y1 = honesty.diagonal
    aside = own[0].x - x0
    assert abs(aside) <= 7, "models stand a little apart at one level"
    assert [(dot.x - aside, dot.y) for dot in own] == [
        (pytest.approx(x), pytest.approx(y)) for x, y in ((x0, y0), ((x0 + x1) / 2, (y0 + y1) / 2), (x1, y1))
    ]
    assert [text for _, text in honesty.x_ticks] == ["1", "2", "3", "4", "5"]
    assert (helpful.name, len(helpful.curves), len(helpful.dots)) == ("help", 2, 6)


def test_everything_lies_in_the_frame_and_bars_have_their_length(control):
    for dial in dials(control, TWO):
        unit = (dial.diagonal[1] - dial.diagonal[3]) / 4
        for dot in dial.dots:
            assert dial.frame.left < dot.x < dial.frame.right
            assert dial.frame.top <= dot.top <= dot.y <= dot.bottom <= dial.frame.bottom
            assert dot.bottom - dot.top == pytest.approx(0.2 * unit) or dot.bottom == dot.top == dot.y
        assert sum(dot.bottom == dot.top for dot in dial.dots) == (dial.name == "honesty")
        assert all((dot.x < dial.divider) == dot.plain for dot in dial.dots)


def test_without_plain_answers_there_is_no_column_for_them(control):
    for model in control["models"]:
        model["objectives"]["honesty"]["plain"] = None
    honesty, helpful = dials(control, TWO)
    assert honesty.divider is None and helpful.divider is not None
    assert honesty.diagonal[0] < helpful.diagonal[0]


def test_what_nobody_asked_for_by_anyone_has_no_plot(control):
    for model in control["models"]:
        model["objectives"]["help"]["achieved"] = {}
    assert [dial.name for dial in dials(control, TWO)] == ["honesty"]


def test_a_fine_scale_names_some_of_its_levels(control):
    control["objectives"][0]["step"] = 0.25
    honesty, _ = dials(control, TWO)
    assert [text for _, text in honesty.x_ticks] == ["1", "1.75", "2.5", "3.25", "4", "4.75"]


def test_the_summary_says_what_the_plot_shows(control):
    honesty, _ = dials(control, TWO)
    assert honesty.summary == (
        "honesty. CPO: asked for 1 gave 1.50, 3 gave 3.00, 5 gave 4.50; base: asked for 1 gave 2.50, 3 gave 2.50, "
        "5 gave 2.50."
    )
    assert honesty.headings[-2:] == ["nothing asked", "only others asked"]
    assert [metric and metric["mean"] for metric in honesty.cells[0][1]] == [1.5, 3.0, 4.5, 2.5, None]


def test_side_effects_compare_the_ends_with_nothing_asked(control):
    ((model, (side,)),) = side_effects(control, TWO)  # the base was asked for one level alone
    assert (model.label, side.asked, side.levels, side.other) == ("CPO", "honesty", ("1", "5"), "help")
    assert [metric["mean"] for metric in side.means] == [4.0, 3.0, 3.5]
    assert side.places == [75.0, 50.0, 62.5]
    control["models"][0]["others"]["honesty"]["5"]["help"]["mean"] = None
    ((_, (side,)),) = side_effects(control, TWO)
    assert side.places == [75.0, None, 62.5]


def test_models_look_as_in_the_frontier(control, results, make_result):
    cpo, base = models_of(control, results)
    assert base.look == 0, "by its address"
    assert (cpo.look, cpo.shape) == (5, "hexagon"), "not in the plot: the first look that nothing there has"
    found = [make_result("CPO top", "cpo", "CPO", {}, 0.1, 0.1, 0.7, 9.0), *results]
    assert models_of(control, found)[0].look == 1, "by the name of its curve"
    control["models"][0]["model"] = control["models"][1]["model"]
    assert [model.look for model in models_of(control, results)] == [0, 5], "one look is given once"


def test_seeds_and_missing_ratings_are_counted(control):
    assert (seeds_of(control), unscored_of(control)) == (1, 8)
    control["models"][0]["objectives"]["honesty"]["achieved"]["1"]["by_seed"] = [1.4, 1.5, 1.6]
    assert seeds_of(control) == 3
