"""The page in a real browser: one mark per row, the figures of results.json, keyboard, themes and escaped text."""

from __future__ import annotations

from pathlib import Path

import pytest

from equipoise.evaluate.advice_page import write_advice_page
from equipoise.evaluate.report import write_page

CONTRAST = """(selector) => {
  const luminance = (color) => {
    const parts = color.match(/[\\d.]+/g).slice(0, 3).map((v) => v / 255)
      .map((v) => v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4);
    return 0.2126 * parts[0] + 0.7152 * parts[1] + 0.0722 * parts[2];
  };
  const style = getComputedStyle(document.querySelector(selector));
  const ink = luminance(style.fill && selector.includes("tick") ? style.fill : style.color);
  const clear = style.backgroundColor === "rgba(0, 0, 0, 0)";
  const back = luminance((clear ? getComputedStyle(document.documentElement) : style).backgroundColor);
  return (Math.max(ink, back) + 0.05) / (Math.min(ink, back) + 0.05);
}"""
"""Contrast of a text with what lies behind it, as WCAG computes it."""


@pytest.fixture
def document(document, optimum, with_gap, control):
    """The example with everything a page can show."""
    return {**document, "optimum": optimum, "controllability": control}


@pytest.fixture
def open_page(browser, tmp_path, document, samples):
    """Write the example page, open it, and fail the test if the page asks for anything or reports an error."""
    yield from opening(
        browser, write_page(tmp_path, document, samples, title="Example", target=0.05, notes=["A note."])
    )


@pytest.fixture
def open_samples(browser, tmp_path, document, samples):
    """The same for the answers beside it."""
    page = write_page(tmp_path, document, samples, title="Example", target=0.05)
    yield from opening(browser, page.with_name("samples.html"))


@pytest.fixture
def open_advice(browser, tmp_path, advice):
    """The same for the adviser's page."""
    whole = {"schema": 1, "created": "2026-05-04T10:20:30+00:00", "versions": {}, "advice": advice}
    yield from opening(browser, write_advice_page(tmp_path, whole))


def opening(browser, path: Path):
    """Yield a function that opens a page at a width and in a scheme; what the page complains of fails at the end."""
    troubles: list[str] = []
    pages = []

    def opened(width: int = 1280, height: int = 800, scheme: str = "light"):
        page = browser.new_page(viewport={"width": width, "height": height}, color_scheme=scheme)
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


def visible_marks(page):
    return [mark for mark in page.query_selector_all(".mark") if mark.is_visible()]


def test_one_mark_per_result_with_its_figures(open_page, results):
    page = open_page()
    marks = visible_marks(page)
    rows = page.query_selector_all(".results tbody tr")
    assert len(marks) == len(rows) == len(results)
    for mark in marks:
        metrics = results[int(mark.get_attribute("data-result"))]["metrics"]
        assert float(mark.get_attribute("data-x")) == metrics["unsafe_rate"]["mean"]
        assert float(mark.get_attribute("data-y")) == metrics["reward"]["mean"]


def test_the_table_shows_the_figures_of_the_results(open_page, results):
    page = open_page()
    for row in page.query_selector_all(".results tbody tr"):
        one = results[int(row.get_attribute("data-result"))]
        assert one["label"] in row.query_selector("th").inner_text()
        for cell in row.query_selector_all("td[data-metric]"):
            if cell.get_attribute("data-metric") not in one["metrics"]:
                assert cell.query_selector(".value").inner_text() == "–"
                continue
            metric = one["metrics"][cell.get_attribute("data-metric")]
            for end in ("mean", "low", "high"):
                assert float(cell.get_attribute(f"data-{end}")) == metric[end]
            shown = cell.query_selector(".value").inner_text()
            scale = 100 if metric["kind"] == "rate" else 1
            assert float(shown.rstrip("%")) == pytest.approx(scale * metric["mean"], abs=0.051)


def test_verdict_plot_table_and_trust_are_above_the_fold(open_page):
    page = open_page()
    assert page.get_attribute("#verdict", "data-status") == "MET"
    assert "P-SACPO q 0.75" in page.inner_text("#verdict")
    rows = page.locator(".few tbody tr th").all_inner_texts()
    names = ["Base", "P-SACPO q 0.75\xa0chosen", "SACPO β/λ 0.025", "DPO safe", "Naive merge"]
    assert [name.replace(" chosen", "\xa0chosen") for name in rows] == names
    for part in (".chart.wide", ".few", ".trust"):
        box = page.query_selector(part).bounding_box()
        assert box["y"] + box["height"] < 800, part
    assert "1 seed: training noise not measured" in page.inner_text(".trust")
    assert "playground world 1, not your model" in page.inner_text(".trust")


def test_no_line_of_trust_begins_or_ends_with_a_dot(open_page):
    page = open_page(width=372)
    parts = """(all) => all.map((one) => [
      one.getBoundingClientRect().left - one.parentElement.getBoundingClientRect().left,
      getComputedStyle(one, "::before").left, getComputedStyle(one, "::after").content])"""
    found = page.eval_on_selector_all(".trust > *", parts)
    assert sum(left < 1 for left, _, _ in found) > 1, "it takes several lines"
    assert all((before, after) == ("-12px", "none") for _, before, after in found), "outside of what begins a line"
    assert page.eval_on_selector(".trust", "(one) => getComputedStyle(one).clipPath").startswith("inset(-2px 0")


def test_grey_marks_are_those_that_another_one_beats(open_page):
    page = open_page()
    quiet = "#8b939c"
    colors = page.eval_on_selector_all(
        ".chart.wide .mark", "(all) => all.map((one) => getComputedStyle(one).getPropertyValue('--c').trim())"
    )
    assert [n for n, color in enumerate(colors) if color == quiet] == [3, 9]


def test_hovering_and_the_keyboard_show_the_details(open_page):
    page = open_page()
    page.hover(".chart.wide .mark[data-result='3'] .shape")
    tip = page.query_selector("#tip-3")
    assert tip.is_visible()
    for words in ("SACPO β/λ 0.1", "beta_over_lambda 0.1", "18.6%", "[15.9, 21.6]", "9.4%", "14.90"):
        assert words in tip.inner_text()
    assert "lit" in page.get_attribute(".results tr[data-result='3']", "class")
    page.keyboard.press("Tab")  # the link that skips the plot
    page.keyboard.press("Tab")
    focused = page.evaluate("document.activeElement.dataset.result")
    assert page.query_selector(f"#tip-{focused}").is_visible()
    assert not tip.is_visible()
    page.keyboard.press("Escape")
    assert not page.query_selector(f"#tip-{focused}").is_visible()


def test_tips_stay_inside_the_window(open_page):
    page = open_page(width=420, height=900)
    for mark in visible_marks(page):
        mark.focus()
        box = page.query_selector(f"#tip-{mark.get_attribute('data-result')}").bounding_box()
        assert box["x"] >= 0
        assert box["x"] + box["width"] <= 420


def test_harmful_text_is_closed_until_asked_for(open_samples):
    page = open_samples()
    harmful = page.get_by_text("A question of the world's category privacy")
    assert harmful.count() == 0, "closed text is not in the document"
    assert page.get_by_text("How do I keep a sourdough starter").is_visible()
    page.click("#open-all")
    assert harmful.is_visible() and page.get_by_text("An answer of the harmful family").is_visible()
    page.click("#open-all")
    assert not harmful.is_visible()
    assert page.get_by_text("A question of the world's category privacy").count() == 1


def test_model_text_is_text(open_samples):
    page = open_samples()
    page.click("#open-all")
    assert page.evaluate("window.broken") is None
    assert page.query_selector(".answer b, .answer img, .prompt script") is None
    text = page.inner_text("main")
    assert "<b>lsof -i</b>" in text and "</script><img src=x" in text


def test_headings_sort_the_table(open_page, results):
    page = open_page()
    page.click("thead button[data-sort='1']")
    assert page.inner_text(".results tbody tr:first-child th") == "DPO safe"
    page.click("thead button[data-sort='1']")
    assert page.inner_text(".results tbody tr:first-child th") == "DPO helpful"
    page.click("thead button[data-sort='index']")
    assert page.inner_text(".results tbody tr:first-child th") == results[0]["label"]


@pytest.mark.parametrize(("width", "name"), [(1280, "wide"), (760, "middle"), (420, "narrow")])
def test_the_optimum_is_drawn_and_explained(open_page, width: int, name: str):
    page = open_page(width=width)
    pieces = page.query_selector_all(f".chart.{name} .optimum")
    assert [piece.get_attribute("class") for piece in pieces] == ["optimum thin", "optimum", "optimum thin"]
    dashes = page.eval_on_selector_all(
        ".chart .optimum", "(all) => all.map((one) => getComputedStyle(one).strokeDasharray)"
    )
    assert dashes[:3] == ["6px, 4px", "none", "6px, 4px"]
    assert page.text_content(f".chart.{name} .optimum-text") == "optimum, KL ≤ 19"
    plot, label = (page.query_selector(f".chart.{name}{part}").bounding_box() for part in ("", " .optimum-text"))
    assert plot["x"] <= label["x"] and label["x"] + label["width"] <= plot["x"] + plot["width"]
    assert "No policy within 19 nats of the base can be above this line; dashed where" in page.inner_text(
        "#optimum-line"
    )
    assert not page.get_by_text("Effective answers", exact=True).is_visible()
    page.click("#optimum-points summary")
    assert page.get_by_text("Effective answers", exact=True).is_visible()
    assert page.locator("#optimum-points tbody tr").count() == 18


def test_controllability_is_drawn_and_told(open_page, control):
    page = open_page()
    plots = page.query_selector_all("#controllability .dial")
    assert [plot.get_attribute("aria-label").split(".")[0] for plot in plots] == ["honesty", "help"]
    assert len(plots[0].query_selector_all(".shape")) == 8 and len(plots[0].query_selector_all(".shape.hollow")) == 2
    reading = page.inner_text("#controllability .reading >> nth=0")
    assert "0.90 [0.85, 0.95]" in reading and "0.50 [0.40, 0.60]" in reading
    assert page.locator(".sides tbody tr").count() == 1
    assert page.inner_text(".sides tbody tr").split()[:4] == ["honesty", "1", "or", "5"]
    assert "8 ratings are missing" in page.inner_text("#controllability")
    figures = page.locator("#control-figures table").first
    assert not figures.is_visible()
    page.click("#control-figures summary")
    assert figures.is_visible() and "asked for 3" in figures.inner_text()


@pytest.mark.parametrize("width", [1280, 760, 420])
def test_every_width_fits_and_shows_one_plot(open_page, results, width: int):
    page = open_page(width=width)
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    assert len(visible_marks(page)) == len(results)


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_text_has_enough_contrast(open_page, scheme: str):
    page = open_page(scheme=scheme)
    for selector in (
        "#verdict",
        ".status",
        ".price",
        ".ends",
        ".tick",
        "#optimum-line",
        ".dial .tick",
        ".sides .pale",
        ".tag",
        ".few .ends",
        ".trust .doubtful",
        ".further a",
    ):
        assert page.evaluate(CONTRAST, selector) >= 4.5, selector


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_text_of_answers_has_enough_contrast(open_samples, scheme: str):
    page = open_samples(scheme=scheme)
    for selector in (".price", ".chip.good", ".chip.bad", ".outcome", ".filters label", "#found"):
        assert page.evaluate(CONTRAST, selector) >= 4.5, selector


def test_the_advice_shows_its_answer_and_its_levels(open_advice, advice):
    page = open_advice()
    marks = visible_marks(page)
    assert len(marks) == page.locator(".results tbody tr").count() == len(advice["curve"]) + 3
    page.hover(".chart.wide .mark.answer .shape")
    number = page.get_attribute(".chart.wide .mark.answer", "data-result")
    tip = page.inner_text(f"#tip-{number}")
    assert "unsafe ≤ 2%" in tip and "extrapolated from few answers" in tip and "[2.1, ∞]" in tip
    assert "lit" in page.get_attribute(".results tr.answer", "class")
    dashes = page.eval_on_selector_all(
        ".chart.wide .predicted", "(all) => all.map((one) => getComputedStyle(one).strokeDasharray)"
    )
    assert dashes == ["6px, 4px", "none"]
    page.click("thead button[data-sort='6']")
    assert page.inner_text(".results tbody tr:first-child th") == "unsafe ≤ 0.5%"


def test_harmful_advice_is_closed_and_text_is_text(open_advice):
    page = open_advice()
    assert not page.get_by_text("A question of the world's category").is_visible()
    assert page.get_by_text("How do I keep a sourdough").is_visible()
    page.click("button[data-open='harmful']")
    assert "<i>privacy</i>" in page.inner_text("#samples")
    assert page.evaluate("window.broken") is None and page.query_selector(".answer b, .prompt i") is None


@pytest.mark.parametrize(("width", "scheme"), [(1280, "dark"), (760, "light"), (420, "light")])
def test_the_advice_fits_and_can_be_read(open_advice, width: int, scheme: str):
    page = open_advice(width=width, scheme=scheme)
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    assert sum(chart.is_visible() for chart in page.query_selector_all(".chart")) == 1
    for selector in ("#verdict", ".status", ".price", ".lights b", ".advice .ends", ".tick", ".limits dd", ".score"):
        assert page.evaluate(CONTRAST, selector) >= 4.5, selector
