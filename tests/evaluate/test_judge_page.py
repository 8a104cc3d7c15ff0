"""The page of judges that compare answers: both biases by their names, nothing loaded, nothing trusted."""

from __future__ import annotations

from pathlib import Path

import pytest

from contests import judged
from equipoise.errors import DataError
from equipoise.evaluate.judge_bias import against_labels, biases, consistency
from equipoise.evaluate.judge_page import write_judge_page


def section(name: str, first: float, longer: float, n: int = 300) -> dict:
    contests = judged(n, first=first, longer=longer)
    return {
        "name": name, "kind": "pairwise", "model": name, "version": "better v1", "measures": "win_rate", "n": 2 * n,
        "unscored": 0, "first": True, "calibration": None, "agreement": [], "consistency": consistency(contests),
        "labels": against_labels(contests, source="made up"), "biases": biases(contests, labelled=True),
    }  # fmt: skip


def page(folder: Path, *judges: dict) -> str:
    document = {"schema": 1, "created": "2026-01-01T00:00:00", "versions": {}, "results": [], "judges": list(judges)}
    return write_judge_page(folder, document, title="Judges", notes=["planted"]).read_text(encoding="utf-8")


def test_both_biases_are_named(tmp_path):
    text = page(tmp_path, section("both", 0.3, 0.3))
    assert '<p class="verdict">both prefers the first answer and prefers the longer answer.</p>' in text
    assert text.count('<li class="found">') == 2
    assert "http" not in text.replace("http-equiv", "").split('<script type="application/json"')[0]


def test_several_judges_are_summed_up(tmp_path):
    text = page(
        tmp_path, section("one", 0.4, 0), section("two", 0.4, 0), section("three", 0, 0.4), section("four", 0, 0)
    )
    verdict = text.split('<p class="verdict">')[1].split("</p>")[0]
    assert verdict == "Of 4 judges, 2 prefer the first answer and 1 prefers the longer answer; 1 leans on neither."


def test_names_are_escaped_and_too_few_pairs_are_said(tmp_path):
    text = page(tmp_path, section("<b>judge</b>", 0, 0, n=4))
    assert "<b>judge</b>" not in text
    assert "cannot be told" in text


def test_a_page_without_such_a_judge_is_refused(tmp_path):
    with pytest.raises(DataError, match="no judge that compares answers"):
        page(tmp_path)


@pytest.mark.parametrize("width", [1280, 390])
def test_the_browser_shows_names_and_tracks(browser, tmp_path, width):
    page(tmp_path, section("both", 0.3, 0.3), section("few", 0, 0, n=4))
    shown, said = browser.new_page(viewport={"width": width, "height": 900}), []
    shown.on("console", lambda message: said.append(message.text))
    shown.goto((tmp_path / "index.html").as_uri())
    assert shown.locator("li.found b").all_inner_texts() == ["prefers the first answer", "prefers the longer answer"]
    # The interval ends right of what is fair; of four pairs nothing is drawn for the length.
    reach, middle = (shown.locator(f"li.found .{name}").first.bounding_box() for name in ("reach", "mid"))
    assert reach["x"] > middle["x"]
    assert shown.locator(".strip-track").count() == 3
    assert shown.evaluate("document.documentElement.scrollWidth") <= width
    assert said == []
    shown.close()
