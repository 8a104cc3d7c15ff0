"""samples.html: answers with their verdicts, filters, and harmful text that no search shows."""

from __future__ import annotations

import pytest

from equipoise.evaluate import samples_page
from equipoise.evaluate.report import write_page
from equipoise.evaluate.samples_page import Answer, from_answers, from_samples, view
from many_results import answers, judges, many


def test_first_answers_on_verdict_by_prompt_and_model():
    rows = [*answers(6), {**next(answers(1)), "split": "select", "prompt_id": "other"}]
    shown = from_answers(rows, first=("SACPO w 0.05", "not there"), judges=judges())
    assert shown.models == ["SACPO w 0.05", "base"]
    assert (len(shown.prompts), shown.all_prompts, shown.all_models) == (6, 6, 2)
    first = shown.prompts[0]
    assert [(one.model, one.unsafe, one.refused) for one in first.answers] == [(0, False, False), (1, True, False)]
    assert first.answers[1].text.startswith("Answer 0 of base, repeat 0,")
    assert first.answers[1].verdicts == (("guard v1", "unsafe", "reason 0"), ("refusals v1", "not refused", ""))
    assert [one.outcomes for one in shown.prompts[1].answers] == [["refused"], []]
    assert shown.prompts[1].answers[1].unsafe is None and shown.prompts[1].answers[1].verdicts[0].label == "no verdict"
    assert shown.prompts[2].answers[0].cut and first.category == "kind a"


def test_which_grader_counts_is_said_by_the_judges_or_guessed_from_names():
    row = next(answers(1, ("base",)))
    row["verdicts"]["other v1"] = {"value": 0.0, "label": "safe", "reason": None}
    row["verdicts"]["refusals v1"]["value"] = 1.0
    (guessed,) = from_answers([row]).prompts[0].answers
    assert (guessed.unsafe, guessed.refused) == (True, True), "any grader of harm"
    told = [{"name": "other v1", "measures": "unsafe_rate", "first": True}]
    (answer,) = from_answers([row], judges=told).prompts[0].answers
    assert (answer.unsafe, answer.refused) == (False, None) and len(answer.verdicts) == 3


def test_verdicts_on_prompts_that_a_rate_is_not_about_are_not_counted():
    rows = list(answers(3, ("base",)))
    for row in rows:
        row["verdicts"] = {"costs": {"value": 1.0}, "refusals v1": {"value": 1.0, "label": None}}
    told = [
        {"name": "costs", "measures": "unsafe_rate", "first": True},
        {"name": "refusals v1", "measures": "over_refusal", "first": True},
    ]
    shown = from_answers(rows, judges=told)
    outcomes = {one.kind: one.answers[0].outcomes for one in shown.prompts}
    assert outcomes == {
        "harmful": ["unsafe", "uncounted"], "borderline": ["refused", "uncounted"], "benign": ["uncounted"],
    }  # fmt: skip
    assert view(shown, title="t")["uncounted"] and not view(from_answers(rows[:0]), title="t")["uncounted"]


def test_one_grader_of_both_rates_says_of_a_prompt_what_its_kind_is_asked_about():
    rows = [row for row in answers(3, ("base",)) if row["repeat"] == 0]
    for row in rows:
        row["verdicts"] = {"truth": {"value": 1.0, "label": None, "reason": None}}
    told = [{"name": "truth", "measures": one, "first": True} for one in ("unsafe_rate", "over_refusal")]
    found = [one.answers[0] for one in from_answers(rows, judges=told).prompts]
    assert [(one.unsafe, one.refused) for one in found] == [(True, None), (None, True), (True, None)]
    assert [one.verdicts[0].label for one in found] == ["unsafe", "refused", "unsafe"]


def test_an_answer_without_any_verdict_is_unscored():
    assert Answer(0, "t", None, None).outcomes == ["unscored"]
    assert Answer(0, "t", False, None).outcomes == [] == Answer(0, "t", None, False).outcomes
    assert Answer(0, "t", True, True).outcomes == ["unsafe", "refused"]


def test_samples_are_read_the_same_way(samples):
    samples[0]["refused"] = {"Base": True}
    shown = from_samples(samples)
    assert shown.models == ["Base", "P-SACPO q 0.75"]
    assert [one.outcomes for one in shown.prompts[0].answers] == [["uncounted"], []], "an ordinary prompt"
    assert [one.unsafe for one in shown.prompts[1].answers] == [False, None]
    assert [one.unsafe for one in shown.prompts[2].answers] == [True, False]
    assert shown.prompts[1].turns == samples[1]["prompt"]


def test_the_page_is_capped_and_says_so(monkeypatch):
    monkeypatch.setattr(samples_page, "PROMPTS", 4)
    monkeypatch.setattr(samples_page, "MODELS", 1)
    found = view(from_answers(answers(30), judges=judges()), title="t")
    assert found["left"] == ["1 of 2 models", "4 of 30 prompts, those with an unsafe answer first"]
    (kind,) = found["groups"]
    assert kind[0] == "harmful" and all(one.answers[0].unsafe for one in kind[2])
    monkeypatch.setattr(samples_page, "LETTERS", 800)
    assert 0 < view(from_answers(answers(30)), title="t")["count"] < 4


def test_without_answers_there_is_no_page_and_an_old_one_goes(tmp_path):
    document = many(10)
    page = write_page(tmp_path, document, [], title="t", target=None, answers=answers(3))
    assert (tmp_path / "samples.html").is_file() and "3 prompts with answers" in page.read_text(encoding="utf-8")
    write_page(tmp_path, document, None, title="t", target=None)
    assert (tmp_path / "samples.html").is_file() and "Prompts with answers" in page.read_text(encoding="utf-8")
    write_page(tmp_path, document, [], title="t", target=None)
    assert not (tmp_path / "samples.html").exists() and "samples.html" not in page.read_text(encoding="utf-8")


@pytest.fixture
def opened(browser, tmp_path):
    document = {**many(10), "judges": judges()}
    written = write_page(tmp_path, document, [], title="Example", target=0.05, answers=answers(30))
    page = browser.new_page(viewport={"width": 390, "height": 800})
    troubles: list[str] = []
    page.on("pageerror", lambda error: troubles.append(str(error)))
    page.on("console", lambda message: troubles.append(message.text))
    page.goto(written.with_name("samples.html").as_uri())
    yield page
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
    assert page.evaluate("window.broken") is None and page.query_selector("img") is None
    page.close()
    assert troubles == []


def test_search_finds_closed_texts_without_opening_them(opened):
    page = opened
    page.fill("#search", "QUESTION word-6-word")
    assert page.inner_text("#found") == "1 of 30 prompts"
    card = page.locator("details.sample:visible")
    assert card.count() == 1 and page.get_by_text("Question 6").count() == 0
    card.locator("summary").focus()
    page.keyboard.press("Enter")
    page.get_by_text("Question 6").wait_for()
    assert page.get_by_text("Answer 6 of base").is_visible() and page.get_by_text("reason 6").is_visible()
    page.fill("#search", "answer question nothing-has-this")
    assert page.inner_text("#found") == "0 of 30 prompts" and not page.locator("section.kind:visible").count()


def test_what_is_not_counted_is_pale_and_found_apart(browser, tmp_path):
    rows = list(answers(6))
    for row in rows:
        row["verdicts"]["guard v1"] = {"value": 1.0}
    document = {**many(10), "judges": judges()}
    write_page(tmp_path, document, [], title="Example", target=0.05, answers=rows)
    page = browser.new_page()
    page.goto((tmp_path / "samples.html").as_uri())
    found = set(page.locator(".sample:not(details) .chip").all_text_contents())
    assert found == {"unsafe (not counted)", "refused"} and page.locator("summary .chip.bad").count() == 4
    page.select_option("#outcome", "unsafe")
    assert page.inner_text("#found") == "2 of 6 prompts"
    page.select_option("#outcome", "uncounted")
    assert page.inner_text("#found") == "4 of 6 prompts"
    page.close()


def test_filters_by_kind_verdict_and_model(opened):
    page = opened
    page.select_option("#outcome", "refused")
    assert page.inner_text("#found") == "10 of 30 prompts"
    page.select_option("#model", label="base")
    assert page.inner_text("#found") == "0 of 30 prompts"
    page.select_option("#outcome", "unsafe")
    assert page.inner_text("#found") == "5 of 30 prompts"
    page.select_option("#outcome", "")
    page.select_option("#kind", "benign")
    assert page.inner_text("#found") == "10 of 30 prompts"
    assert {one.text_content().split()[0] for one in page.locator(".answer:visible h4").all()} == {"base"}
