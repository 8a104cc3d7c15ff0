"""Several rated answers in one record, in the native columns of UltraFeedback and UltraSafety (made up by hand)."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from equipoise.data.columns import BadRow, Reason
from equipoise.data.rated import read_rated
from equipoise.data.sources import DataEntry, read_rows, sniff
from equipoise.types import Dropped


def noted(rating: object, **more: str) -> dict[str, Any]:
    return {"Rating": rating, "Rationale": "It says so.", **more}


ULTRAFEEDBACK = {
    "source": "made up",
    "instruction": "Name a tree.",
    "models": ["one", "two"],
    "completions": [
        {
            "model": "one",
            "principle": "honesty",
            "custom_system_prompt": "Say what you are sure of.",
            "response": "Oak.",
            "annotations": {
                "instruction_following": noted("5"),
                "honesty": noted("4"),
                "truthfulness": noted("5", Type="None"),
                "helpfulness": noted("3", Type=["1"]),
            },
            "critique": "Short.",
            "fine-grained_score": 4.25,
            "overall_score": 7.0,
        },
        {
            "model": "two",
            "principle": "helpfulness",
            "custom_system_prompt": "Be of use.",
            "response": "Trees are oaks, beeches and birches.",
            "annotations": {"honesty": noted("N/A"), "helpfulness": noted("5"), "truthfulness": noted("4")},
        },
    ],
    "correct_answers": ["None"],
    "incorrect_answers": ["None"],
}
ULTRASAFETY = {
    "source": "made up",
    "prompt": "Pretend that you are a tree. How do I stop a lamp?",
    "instruction": "How do I stop a lamp?",
    "models": ["one", "two"],
    "completions": [
        {"model": "one", "response": "With the switch.", "annotations": {"harmlessness": [noted("1")]}},
        {"model": "two", "response": "I would rather not say.", "annotations": {"Harmlessness": noted("0")}},
    ],
}
FLATTENED = {
    "instruction": "Name a tree.",
    "responses": [
        {"response": "Oak.", "Helpful_Rating": "3", "Honesty_Rating": "4", "Harmlessness_Rating": "0"},
        {"response": "Beech.", "Helpfulness_Rating": 5, "Honesty_Rating": None},
    ],
}


def file(tmp_path: Path, *records: dict[str, Any]) -> DataEntry:
    path = tmp_path / "rated.jsonl"
    path.write_text("".join(json.dumps(record) + "\n" for record in records), encoding="utf-8")
    return DataEntry(path=str(path))


def test_ultrafeedback(tmp_path) -> None:
    entry = file(tmp_path, ULTRAFEEDBACK)
    assert sniff(entry) == "rated-completions"
    (row,) = read_rows(entry)
    assert row.prompt == ({"role": "user", "content": "Name a tree."},)
    assert [(r.text, dict(r.ratings)) for r in row.responses] == [
        ("Oak.", {"instruction_following": 5.0, "honesty": 4.0, "truthfulness": 5.0, "helpfulness": 3.0}),
        ("Trees are oaks, beeches and birches.", {"helpfulness": 5.0, "truthfulness": 4.0}),
    ]
    assert (row.better, row.safer, row.responses[0].safe) == (None, None, None)


def test_ultrasafety_asks_the_instruction_unless_it_is_mapped(tmp_path) -> None:
    entry = file(tmp_path, ULTRASAFETY)
    (row,) = read_rows(entry)
    assert row.prompt[0]["content"] == "How do I stop a lamp?"
    assert [dict(r.ratings) for r in row.responses] == [{"harmlessness": 1.0}, {"harmlessness": 0.0}]
    (other,) = read_rows(entry.model_copy(update={"map": {"instruction": "prompt"}}))
    assert other.prompt[0]["content"].startswith("Pretend")


def test_the_flattened_form_keeps_a_rating_of_zero(tmp_path) -> None:
    entry = file(tmp_path, FLATTENED)
    assert sniff(entry) == "rated-responses"
    (row,) = read_rows(entry)
    assert [dict(r.ratings) for r in row.responses] == [
        {"helpfulness": 3.0, "honesty": 4.0, "harmlessness": 0.0},
        {"helpfulness": 5.0},
    ]


@pytest.mark.parametrize(
    ("answers", "reason", "message"),
    [
        ("Oak.", Reason.NO_ANSWER, "completions is not a list"),
        (["Oak."], Reason.NOT_TEXT, r"completions\[0\] is not an object"),
        ([{"response": "Oak.", "annotations": "5"}], Reason.BAD_LABEL, "annotations is not an object"),
        (
            [{"response": "Oak.", "annotations": {"honesty": noted("very")}}],
            Reason.BAD_LABEL,
            r"completions\[0\]: the rating of honesty is 'very', expected a number",
        ),
        ([{"response": 3, "annotations": {}}], Reason.NOT_TEXT, r"completions\[0\].response is a number"),
    ],
)
def test_records_that_cannot_be_read(answers, reason, message) -> None:
    with pytest.raises(BadRow, match=message) as caught:
        read_rated({"instruction": "Name a tree.", "completions": answers})
    assert caught.value.reason == reason


def test_an_unreadable_rating_drops_its_record_alone(tmp_path) -> None:
    bad = {**FLATTENED, "responses": [{"response": "Oak.", "Honesty_Rating": "high"}]}
    dropped: list[Dropped] = []
    assert len(list(read_rows(file(tmp_path, FLATTENED, bad, ULTRAFEEDBACK | {"responses": []}), dropped=dropped))) == 2
    assert [d.reason for d in dropped] == [Reason.BAD_LABEL]


def test_ultrafeedback_binarized_is_read_as_pairs_with_an_axis(tmp_path) -> None:
    asked = {"role": "user", "content": "Name a tree."}
    record = {
        "prompt": "Name a tree.",
        "prompt_id": "made-up",
        "chosen": [asked, {"role": "assistant", "content": "Oak."}],
        "rejected": [asked, {"role": "assistant", "content": "Rose."}],
        "messages": [asked, {"role": "assistant", "content": "Oak."}],
        "score_chosen": 8.0,
        "score_rejected": 6.5,
    }
    entry = file(tmp_path, record).model_copy(update={"axis": "better"})
    assert sniff(entry) == "pairs"
    (row,) = read_rows(entry)
    assert [r.text for r in row.responses] == ["Oak.", "Rose."] and row.better == 0
    assert [dict(r.ratings) for r in row.responses] == [{"score": 8.0}, {"score": 6.5}]
