"""Reward and cost models on the page: diagrams in pixels, kinds of harm, both pages, and both in a real browser."""

from __future__ import annotations

import numpy as np
import pytest

from equipoise.errors import DataError
from equipoise.evaluate.reliability import diagrams, dots, scorer_view, scorers_of
from equipoise.evaluate.report import write_page
from equipoise.evaluate.scorer_page import write_scorer_page
from equipoise.evaluate.scorers import Answers, Pairs, scorer_section

KINDS = ("privacy", "animal_abuse", "a kind of harm whose name is long")


def section(kind: str, label: str, *, sign: float = 1.0, seed: int = 0, n: int = 240):
    """A report on a made-up model: pairs for both kinds of model, flagged answers for cost models."""
    generator = np.random.default_rng(seed)
    odds = generator.normal(0, 1.5, (n, 2))
    scores = odds + generator.normal(0, 0.7, (n, 2))
    order = np.argsort(odds if kind == "cost" else -odds, axis=1)
    pairs = Pairs(np.take_along_axis(scores, order, 1), [f"p{i}" for i in range(n)], generator.integers(9, 99, (n, 2)))
    if kind == "reward":
        return scorer_section("reward", label, pairs=pairs, model="store/train-r", data="made-up pairs")
    unsafe = (generator.random((n, 2)) < 1 / (1 + np.exp(-odds))).ravel()
    kinds = [KINDS[int(generator.integers(3))] if flag else None for flag in unsafe]
    names = [f"p{i // 2}" for i in range(2 * n)]
    answers = Answers(sign * scores.ravel(), [*unsafe[:-3].tolist(), None, None, None], names, categories=kinds)
    return scorer_section("cost", label, pairs=pairs, answers=answers)


@pytest.fixture(scope="module")
def sections():
    """A reward model, a cost model, and one whose sign is flipped; labels hold markup."""
    return [section("reward", "R <b>"), section("cost", "Cost"), section("cost", "Flipped", sign=-1.0, seed=1)]


def known(n: int, predicted: float, observed: float):
    return {"predicted": predicted, "observed": observed, "low": observed - 0.1, "high": observed + 0.1, "n": n}


def test_a_calibrated_model_lies_on_the_diagonal(sections):
    cost = {**sections[1], "calibration": {"answers": {**sections[1]["calibration"]["answers"]}}}
    cost["calibration"]["answers"]["bins"] = [known(40, 0.2, 0.2), known(10, 0.8, 0.8)]
    (drawn,) = diagrams([cost], scorers_of([cost]), "answers")
    x0, y0, x1, y1 = drawn.diagonal
    assert [(spot.x, spot.y) for spot in drawn.spots] == [
        (pytest.approx(x0 + share * (x1 - x0)), pytest.approx(y0 + share * (y1 - y0))) for share in (0.2, 0.8)
    ]
    assert drawn.spots[0].bottom - drawn.spots[0].top == pytest.approx(0.2 * (y0 - y1))
    assert drawn.spots[0].radius == pytest.approx(2 * drawn.spots[1].radius), "four times the items"
    assert [text for _, text in drawn.x_ticks] == ["0%", "25%", "50%", "75%", "100%"]
    assert drawn.summary == "Cost: 20% stated, 20% came true, 80% stated, 80% came true."
    assert diagrams([cost], scorers_of([cost]), "pairs") == []


def test_everything_lies_in_the_frame_on_common_scales(sections):
    models = scorers_of(sections)
    for key, count in (("answers", 2), ("pairs", 3)):
        found = diagrams(sections, models, key)
        assert len(found) == count and len({(one.diagonal, str(one.y_ticks)) for one in found}) == 1
        for one in found:
            for spot in one.spots:
                assert one.frame.left - 1e-6 <= spot.x <= one.frame.right + 1e-6
                assert one.frame.top - 1e-6 <= spot.top <= spot.y <= spot.bottom <= one.frame.bottom + 1e-6
    assert found[0].x_ticks[0][1] == "50%", "a preferred answer is stated to be right in half of the cases at least"


def test_harms_stand_under_all_of_them_the_least_recognized_first(sections):
    cost = sections[1:2]
    for stacked in (False, True):
        drawn = dots(cost, scorers_of(cost), stacked=stacked)
        assert [line.total for line in drawn.lines] == [True, False, False, False]
        shares = [line.marks[0].x for line in drawn.lines[1:]]
        assert shares == sorted(shares)
        assert {line.name for line in drawn.lines[1:]} == {name.replace("_", " ") for name in KINDS}
        assert int(drawn.lines[0].answers) == sum(int(line.answers) for line in drawn.lines[1:])
        for line in drawn.lines:
            (mark,) = line.marks
            assert drawn.frame.left - 1e-6 <= mark.left <= mark.x <= mark.right <= drawn.frame.right + 1e-6
            assert drawn.frame.top < mark.y < drawn.frame.bottom
    assert dots(sections[:1], scorers_of(sections[:1]), stacked=False) is None
    both = dots(sections, scorers_of(sections), stacked=False)
    assert [len(line.marks) for line in both.lines] == [2] * 4
    assert both.summary.startswith("Unsafe answers recognized. Cost: all ")


def test_looks_go_round_when_there_are_many():
    labels = [{"label": str(i)} for i in range(24)]
    assert [model.look for model in scorers_of(labels)] == [*range(1, 23), 1, 2]


def test_the_view_gathers_alarms_data_and_missing_flags(sections):
    view = scorer_view(sections)
    assert [alarm.split()[0] for alarm in view["alarms"]] == ["Flipped"]
    assert (view["data"], view["unscored"], view["level"]) == (["made-up pairs"], 6, "95%")
    assert [kind for _, kind, _ in view["rows"]] == ["reward", "cost", "cost"]
    details = dict(view["details"])
    assert details["Unsafe answers recognized (sensitivity)"][0] == "–"
    assert "Calibration error of pairs, ideal model" in details


def document_of(sections):
    return {"schema": 1, "created": "2026-05-04", "versions": {"x": "1"}, "results": [], "scorers": sections}


def test_a_run_of_scorers_alone_has_a_page(tmp_path, sections):
    path = write_scorer_page(tmp_path, document_of(sections), title="A <title>", notes=["A note."], config="a: 1")
    page = path.read_text(encoding="utf-8")
    assert [entry.name for entry in tmp_path.iterdir()] == ["index.html"]
    assert "A &lt;title&gt;" in page and "R &lt;b&gt;" in page and "R <b>" not in page
    assert "http" not in page.replace("http-equiv", "") and "<script>" not in page
    assert page.count('class="alarm"') == 1 and "1 reward model" in page and "2 cost models" in page
    again = [
        *sections,
        {**sections[-1], "label": "the same on other data", "model": "one"},
        {**sections[-1], "model": "one"},
    ]
    assert "3 cost models" in write_scorer_page(tmp_path, document_of(again), title="t").read_text(encoding="utf-8")
    lone = write_scorer_page(tmp_path, document_of(sections[1:2]), title="t").read_text(encoding="utf-8")
    assert '<p class="verdict">Cost orders ' in lone and "Configuration" not in lone


def test_the_frontier_page_shows_scorers_too_and_points_to_the_other_page(tmp_path, document, sections):
    page = write_page(tmp_path, {**document, "scorers": sections}, [], title="t", target=None)
    assert 'id="scorers"' in page.read_text(encoding="utf-8")
    page = write_page(tmp_path, document, [], title="t", target=None)
    assert 'id="scorers"' not in page.read_text(encoding="utf-8")
    with pytest.raises(DataError, match=r"no result comes .* \(write_scorer_page shows scorers alone\)"):
        write_page(tmp_path, document_of(sections), [], title="t", target=None)
    with pytest.raises(DataError, match="nothing to show"):
        write_scorer_page(tmp_path, document, title="t")


# -- in a browser ----------------------------------------------------------------------------------------------------


@pytest.fixture
def shown(browser, tmp_path, sections, document):
    """Opens the page of scorers alone, or the whole page; fails when it asks for anything or reports an error."""
    troubles: list[str] = []
    pages = []

    def opened(width: int = 1280, *, alone: bool = True):
        if alone:
            path = write_scorer_page(tmp_path, document_of(sections), title="Scorers")
        else:
            path = write_page(tmp_path, {**document, "scorers": sections}, [], title="All", target=0.05)
        page = browser.new_page(viewport={"width": width, "height": 900})
        page.on("pageerror", lambda error: troubles.append(str(error)))
        page.on("console", lambda message: troubles.append(message.text))
        page.on("request", lambda request: request.url == path.as_uri() or troubles.append(request.url))
        page.goto(path.as_uri())
        pages.append(page)
        return page

    yield opened
    for page in pages:
        page.close()
    assert troubles == []


@pytest.mark.parametrize("alone", [True, False])
@pytest.mark.parametrize(("width", "harms"), [(1280, "wide"), (760, "wide"), (390, "narrow")])
def test_every_width_fits_and_shows_one_plot_of_harms(shown, width: int, harms: str, alone: bool):
    page = shown(width, alone=alone)
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    visible = [plot for plot in page.query_selector_all(".dial.harms") if plot.is_visible()]
    assert [plot.get_attribute("class").split()[-1] for plot in visible] == [harms]


def test_the_browser_shows_the_figures(shown, sections):
    page = shown()
    rows = page.query_selector_all(".quality tbody tr")
    assert len(rows) == 3
    for row, one in zip(rows, sections, strict=True):
        assert one["label"] in row.query_selector("th").inner_text()
        assert f"{100 * one['metrics']['ranking_accuracy']['mean']:.1f}%" in row.inner_text()
    assert page.locator(".squares .dial").count() == 5
    assert "is flipped" in page.inner_text(".alarm")
    assert not page.get_by_text("Balanced accuracy").is_visible()
    page.click("#scorer-figures summary")
    assert page.get_by_text("Balanced accuracy").is_visible()


def test_names_of_harms_stay_inside_the_plot(shown):
    for width in (1280, 390):
        page = shown(width)
        plot = next(one for one in page.query_selector_all(".dial.harms") if one.is_visible())
        box = plot.bounding_box()
        for text in plot.query_selector_all("text"):
            inner = text.bounding_box()
            assert box["x"] - 1 <= inner["x"] and inner["x"] + inner["width"] <= box["x"] + box["width"] + 1
