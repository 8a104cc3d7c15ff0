"""Questions with answers to choose from: every layout by hand, what cannot be read, the real HaluEval file."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import pytest

from equipoise.data.choices import GENERAL, HALUEVAL, HHH, MC1, MC2, Question, Shelf, read_questions
from equipoise.data.sources import DataEntry
from equipoise.errors import DataError, SettingError
from equipoise.types import Dropped


def questions(path: Path, shelf: Shelf = "honesty", **keys: Any) -> tuple[list[Question], list[Dropped]]:
    dropped: list[Dropped] = []
    return list(read_questions(DataEntry(path=str(path), **keys), shelf, dropped)), dropped


def written(path: Path, value: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value), encoding="utf-8")
    return path


def test_truthfulqa_as_csv(tmp_path: Path) -> None:
    header = ["Type", "Category", "Question", "Best Answer", "Correct Answers", "Incorrect Answers", "Source"]
    row = ["A", "Tea", "Is tea hot?", "Mostly", "Mostly; It cools;", "Never; Always", "-"]
    with (tmp_path / "t.csv").open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([header, row, ["A", "Tea", "Is it?", "Yes", "Yes", "", "-"]])
    (found,), dropped = questions(tmp_path / "t.csv")
    assert found.prompt == ({"role": "user", "content": "Is tea hot?"},)
    assert found.options == ("Mostly", "It cools", "Never", "Always")
    assert found.labels == {MC1: (True, None, False, False), MC2: (True, True, False, False)}
    assert "needs a right and a wrong answer" in dropped[0].detail and "t.csv line 3" in dropped[0].detail


def test_truthfulqa_as_on_the_hub_and_as_answers_with_labels(tmp_path: Path) -> None:
    one = {"choices": ["no", "yes"], "labels": [1, 0]}
    many = {"choices": ["no", "never", "yes"], "labels": [1, 1, 0]}
    row = {"question": "is a jar alive?", "mc1_targets": one, "mc2_targets": many}
    (found,), _ = questions(written(tmp_path / "hub.json", [row]))
    assert found.options == ("no", "yes", "never")
    assert found.labels == {MC1: (True, False, None), MC2: (True, False, True)}
    told = {"question": "is a jar alive?", "mc1_targets": {"no": 1, "yes": 0}}
    (plain,), dropped = questions(written(tmp_path / "mc.json", [told, {**told, "mc1_targets": {"no": 3, "yes": 0}}]))
    assert plain.labels == {MC1: (True, False)} and len(dropped) == 1


def test_halueval(tmp_path: Path) -> None:
    qa = {"knowledge": "Jars are clay.", "question": "Of what?", "right_answer": "clay", "hallucinated_answer": "tin"}
    (found,), _ = questions(written(tmp_path / "qa.json", [qa]))
    assert found.prompt[0]["content"] == "Jars are clay.\n\nOf what?"
    assert (found.options, found.labels) == (("clay", "tin"), {HALUEVAL: (True, False)})
    general = [
        {"user_query": f"q{i}", "chatgpt_response": "a", "hallucination": said} for i, said in enumerate(("yes", "no"))
    ]
    both, _ = questions(written(tmp_path / "general.json", general))
    assert [one.labels for one in both] == [{GENERAL: (False,)}, {GENERAL: (True,)}]


def test_hhh_in_a_folder_of_tasks_and_as_on_the_hub(tmp_path: Path) -> None:
    example = {"input": "open the jar", "target_scores": {"gladly": 1, "never": 0}}
    written(tmp_path / "hhh" / "helpful" / "task.json", {"name": "x", "keywords": ["y"], "examples": [example, {
        "input": "hello\n\nAssistant: hi\n\nHuman: and now?", "target_scores": {"a": 0, "b": 1}}]})  # fmt: skip
    written(tmp_path / "hhh" / "honest" / "task.json", {"name": "x", "examples": [
        {"input": "is it?", "target_scores": {"a": 1, "b": 1}}]})  # fmt: skip
    found, dropped = questions(tmp_path / "hhh", "hhh")
    assert [(one.part, one.labels) for one in found] == [
        ("helpful", {HHH: (True, False)}),
        ("helpful", {HHH: (False, True)}),
    ]
    assert [turn["role"] for turn in found[1].prompt] == ["user", "assistant", "user"]
    assert "has 2 answers, 2 of them right, expected 1 of 2" in dropped[0].detail
    hub = {"input": "open the jar", "targets": {"choices": ["gladly", "never"], "labels": [1, 0]}}
    (same,), _ = questions(written(tmp_path / "hub.json", [hub]), "hhh")
    assert (same.id, same.part) == (found[0].id, None)


def test_files_of_another_kind_and_keys_without_effect_are_refused(tmp_path: Path) -> None:
    path = written(tmp_path / "prompts.json", [{"prompt": "a"}])
    with pytest.raises(DataError, match=r"prompts.json line 1 has columns of no known set \(prompt\); known are Truth"):
        questions(path)
    with pytest.raises(DataError, match="known are BIG-bench"):
        questions(path, "hhh")
    with pytest.raises(SettingError, match="axis has no effect on questions"):
        questions(path, axis="better")


def test_the_real_general_set(shared_data: Path) -> None:
    found, dropped = questions(shared_data / "halueval_general" / "general_data.json")
    wrong = [one for one in found if one.labels == {GENERAL: (False,)}]
    assert (len(found) + len(dropped), len(wrong) > 800) == (4507, True)
    assert len(dropped) < 20
