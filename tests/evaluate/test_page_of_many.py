"""The page with 10 and with 150 results: what it shows, how large it is, how long it takes to open."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import time

import pytest

from equipoise.errors import DataError
from equipoise.evaluate.report import write_one_page, write_page
from equipoise.evaluate.rerender import render_again
from equipoise.evaluate.results import read_results
from many_results import METHODS, answers, judges, many


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A folder with the page of 150 results and everything beside it."""
    document = {**many(150), "judges": judges(), "untested": ["Languages other than English."]}
    found = tmp_path_factory.mktemp("many")
    (found / "constitution.html").write_text("a page")
    write_page(found, document, [], title="Many", target=0.05, answers=answers(30), notes=["A note."])
    return found


@pytest.fixture
def page(browser, folder):
    found = browser.new_page(viewport={"width": 1280, "height": 800})
    troubles: list[str] = []
    found.on("pageerror", lambda error: troubles.append(str(error)))
    found.on("console", lambda message: troubles.append(message.text))
    found.goto((folder / "index.html").as_uri())
    yield found
    found.close()
    assert troubles == []


def test_everything_lies_beside_the_page(folder):
    names = {"index.html", "samples.html", "frontier.png", "results.csv", "results.json", "constitution.html"}
    assert {one.name for one in folder.iterdir()} == names
    assert len((folder / "results.csv").read_text(encoding="utf-8").splitlines()) == 152, "select is in there, too"


def test_the_page_is_small_and_opens_in_no_time(page, folder):
    assert (folder / "index.html").stat().st_size < 5_000_000
    taken = []
    for _ in range(3):  # the fastest: other work on the machine is not the page's
        started = time.monotonic()
        page.goto((folder / "index.html").as_uri(), wait_until="load")
        page.evaluate("new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(done)))")
        taken.append(time.monotonic() - started)
    assert min(taken) < 2


def test_a_crowd_is_dots_but_for_the_frontier_and_the_best_of_each_method(page):
    assert page.locator(".chart.wide .mark").count() == 150
    small = page.locator(".chart.wide .mark.small").count()
    assert small > 110 and f"Dots: {small} further results" in page.inner_text("figcaption")
    assert page.locator(".chart.wide .mark.small[tabindex]").count() == 0, "nobody tabs through a hundred dots"
    assert page.locator(".legend li").count() == len(METHODS) + 1
    for part in (".chart.wide", ".few", ".trust"):
        box = page.query_selector(part).bounding_box()
        assert box["y"] + box["height"] < 800, part
    assert page.locator(".few tbody tr").count() == 5
    assert "58.0%" in page.inner_text(".few tr.chosen") and "68 min, 2.4M tokens" in page.inner_text(".few tr.chosen")


def test_the_table_sorts_by_keyboard_and_filters_by_method(page):
    button = page.locator("thead button[data-sort='1']")
    button.focus()
    page.keyboard.press("Enter")
    assert page.get_attribute(".results th:nth-child(2)", "aria-sort") == "ascending"
    page.keyboard.press("Space")
    assert page.get_attribute(".results th:nth-child(2)", "aria-sort") == "descending"
    page.select_option("#method", "bfpo")
    rows = page.locator(".results tbody tr:visible")
    assert rows.count() == 14 and page.inner_text("#listed") == "14 of 150 results"
    assert {name.split()[0] for name in rows.locator("th").all_inner_texts()} == {"BFPO"}
    page.check("#best")
    assert page.locator(".results tbody tr:visible").count() == 1


def test_what_stands_below(page):
    text = page.inner_text("main")
    for words in (
        "One seed: training noise not measured.",
        "Languages other than English.",
        "Of 150 results those on the frontier",
        "Over-refusal by kind of prompt",
        "Cohen's kappa 0.82 [0.76, 0.88]",
        "Agreement with rubric v1: κ 0.74 [0.69, 0.79]",
        "Bias: prefers the longer answer. Of two answers as good as each other",
    ):
        assert words in text, words
    assert page.get_attribute(".further a[href='constitution.html']", "title").startswith("rules that were found")
    assert page.locator("#suites tbody tr").count() == 150 and page.locator("#suites th[scope=col]").count() == 3
    assert page.locator("#categories .heat").first.locator("thead th").count() == 17


@pytest.mark.parametrize("width", [1280, 760, 372])
def test_every_width_fits(page, width: int):
    page.set_viewport_size({"width": width, "height": 800})
    assert page.evaluate("document.documentElement.scrollWidth") <= width


def pages_of(pdf: bytes) -> int:
    return len(re.findall(rb"/Type\s*/Page\b(?!s)", pdf))


@pytest.mark.parametrize("paper", ["A4", "Letter"])
@pytest.mark.parametrize("count", [10, 25, 150])
def test_one_page_prints_on_one_sheet(browser, tmp_path, paper: str, count: int):
    long = "What nobody looked at, said at such length that it takes more than one line on any sheet of paper. " * 2
    document = {**many(count), "judges": judges(), "untested": [f"{n}. {long}" for n in range(12)]}
    path = write_one_page(tmp_path, document, title="A long title " * 8, target=0.05, notes=[long] * 3)
    assert path.stat().st_size < 1_000_000
    page = browser.new_page()
    page.goto(path.as_uri())
    text = page.inner_text("main")
    assert "more on index.html" in text and page.locator(".few tbody tr").count() == 5
    pdf = page.pdf(format=paper, print_background=True)
    page.close()
    assert pages_of(pdf) == 1 and len(pdf) < 1_000_000


def test_report_writes_the_same_page_again(folder, tmp_path):
    other = tmp_path / "again"
    path = render_again(folder, out=other)
    first, again = ((one / "index.html").read_text(encoding="utf-8") for one in (folder, other))
    assert path == other / "index.html"
    assert "Many" in again and "A note." in again and "target 5%" in again
    # answers.jsonl and the constitution lie elsewhere
    assert len(first) - len(again) < 400 and not (other / "samples.html").exists()
    assert read_results(other / "results.json") == read_results(folder / "results.json")
    strict = render_again(other / "results.json", target=0.01)
    assert "NOT MET" not in again and strict.parent == other and "target 1%" in strict.read_text(encoding="utf-8")
    assert render_again(folder, out=other, one_page=True) == other / "one-page.html"


def test_report_shows_answers_that_lie_beside(folder, tmp_path):
    (tmp_path / "results.json").write_bytes((folder / "results.json").read_bytes())
    rows = list(answers(6))
    (tmp_path / "answers.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    render_again(tmp_path)
    assert "Answer 0 of base" in (tmp_path / "samples.html").read_text(encoding="utf-8")
    del rows[0]["verdicts"]["guard v1"]["label"], rows[0]["verdicts"]["guard v1"]["reason"]
    rows[4]["verdicts"] = None
    (tmp_path / "answers.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    assert render_again(tmp_path).is_file()
    del rows[1]["verdicts"]["refusals v1"]["value"]
    (tmp_path / "answers.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    with pytest.raises(DataError, match=r"line 2: the verdict of 'refusals v1' has no value"):
        render_again(tmp_path)
    rows[1]["verdicts"] = {}
    del rows[3]["text"]
    (tmp_path / "answers.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    with pytest.raises(DataError, match=r"answers.jsonl, line 4 lacks text"):
        render_again(tmp_path)


def test_a_results_file_without_a_page_takes_its_folders_name(tmp_path, folder):
    document = read_results(folder / "results.json")
    del document["page"]
    (tmp_path / "results.json").write_text(json.dumps(document), encoding="utf-8")
    page = render_again(tmp_path).read_text(encoding="utf-8")
    assert f"<title>{tmp_path.name}</title>" in page and 'data-status="NO TARGET"' in page
    (tmp_path / "results.json").write_text('{"schema": 2}')
    with pytest.raises(DataError, match="has results schema 2, this version of equipoise reads 1"):
        render_again(tmp_path)
    with pytest.raises(DataError, match="does not exist"):
        render_again(tmp_path / "nowhere")


def test_the_command_says_where_the_page_is(folder, tmp_path):
    path = tmp_path / "out"
    found = subprocess.run(
        [sys.executable, "-m", "equipoise", "report", str(folder), "--one-page", "--out", str(path)],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert found.stdout.strip() == str(path / "one-page.html") and (path / "one-page.html").is_file()
    wrong = subprocess.run(
        [sys.executable, "-m", "equipoise", "report", str(tmp_path / "nowhere")], capture_output=True, text=True
    )
    assert wrong.returncode == 2 and "does not exist" in wrong.stderr
