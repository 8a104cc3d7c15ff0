"""The same two answers in several raters' files, in the native columns of HelpSteer's annotators (made up by hand)."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from equipoise.data.columns import Reason
from equipoise.data.conditions import Conditions
from equipoise.data.controllable import conditioned_rows
from equipoise.data.raters import merge_raters
from equipoise.data.sources import DataEntry, read_rows, sniff
from equipoise.errors import DataError, SettingError
from equipoise.types import Dropped, SourceRow

SCALES = Conditions.make({"objectives": {"helpfulness": [0, 4], "verbosity": [0, 4]}})
LONG = "An oak, which grows slowly and lives for many centuries."


def rating(
    aspect: str, first: object, second: object, *, prompt: str = "Name a tree.", better: int = 0
) -> dict[str, Any]:
    return {
        "prompt": prompt,
        "response_0": "Oak.",
        "response_1": LONG,
        "better_response_id": better,
        f"{aspect}_score_0": first,
        f"{aspect}_score_1": second,
    }


def read(tmp_path: Path, **files: list[dict[str, Any]]) -> list[SourceRow]:
    rows: list[SourceRow] = []
    for name, records in files.items():
        path = tmp_path / f"{name}.jsonl"
        path.write_text("".join(json.dumps(record) + "\n" for record in records), encoding="utf-8")
        rows += read_rows(DataEntry(path=str(path), format="rated-pairs"))
    return rows


def ratings(row: SourceRow) -> list[dict[str, float]]:
    return [dict(answer.ratings) for answer in row.responses]


def merged(rows: list[SourceRow]) -> tuple[list[SourceRow], list[str]]:
    found, dropped = merge_raters(rows, SCALES.objectives)
    return found, [row.reason for row in dropped]


# -- one file --------------------------------------------------------------------------------------------------------


def test_ratings_are_read_without_their_order(tmp_path) -> None:
    (row,) = read(tmp_path, one=[rating("verbosity", 0, 3, better=1)])
    assert ratings(row) == [{"verbosity": 0.0}, {"verbosity": 3.0}]
    assert (row.better, row.safer, row.prompt[0]["content"]) == (None, None, "Name a tree.")


def test_the_layout_is_taken_only_where_it_is_named(tmp_path) -> None:
    read(tmp_path, one=[rating("verbosity", 0, 3)])
    entry = DataEntry(path=str(tmp_path / "one.jsonl"))
    with pytest.raises(SettingError, match=r"does not say by what(?s:.*)format: rated-pairs"):
        sniff(entry)
    assert sniff(entry.model_copy(update={"axis": "better"})) == "responses"
    assert sniff(entry.model_copy(update={"format": "rated-pairs"})) == "rated-pairs"
    with pytest.raises(SettingError, match="axis: better has no effect"):
        sniff(entry.model_copy(update={"format": "rated-pairs", "axis": "better"}))


@pytest.mark.parametrize(
    ("record", "reason", "message"),
    [
        (rating("verbosity", "long", 2), Reason.BAD_LABEL, "verbosity is 'long', expected a number"),
        (rating("verbosity", True, 2), Reason.BAD_LABEL, "verbosity is True, expected a number"),
        (rating("verbosity", None, None), Reason.NO_RATING, "no answer is rated"),
        ({**rating("verbosity", 1, 2), "response_1": 7}, Reason.NOT_TEXT, "response_1"),
    ],
)
def test_rows_that_cannot_be_read(tmp_path, record, reason, message) -> None:
    with pytest.raises(DataError, match=f"one.jsonl line 1: {message}.*{reason}"):
        read(tmp_path, one=[record])


# -- several files ---------------------------------------------------------------------------------------------------


def test_a_rating_is_the_mean_over_those_who_gave_one(tmp_path) -> None:
    rows = read(
        tmp_path,
        one=[rating("verbosity", 0, 3), rating("verbosity", 1, 2, prompt="Name a bird.")],
        two=[rating("verbosity", 1, 4, better=1)],
        three=[rating("helpfulness", 2, 4)],
    )
    found, dropped = merged(rows)
    assert dropped == []
    assert [ratings(row) for row in found] == [
        [{"verbosity": 0.5, "helpfulness": 2.0}, {"verbosity": 3.5, "helpfulness": 4.0}],
        [{"verbosity": 1.0}, {"verbosity": 2.0}],
    ]
    assert found[1] == rows[1]  # nobody else rated these answers
    assert found[0].id not in {row.id for row in rows}


def test_raters_who_agree_count_as_two_and_one_who_repeats_himself_as_one(tmp_path) -> None:
    same, other = rating("verbosity", 0, 3), rating("verbosity", 3, 3)
    found, dropped = merged(read(tmp_path, one=[same, same], two=[same], three=[other]))
    assert ratings(found[0]) == [{"verbosity": 1.0}, {"verbosity": 3.0}]
    assert dropped == [Reason.DUPLICATE]


def test_one_raters_row_stays_as_it_is(tmp_path) -> None:
    rows = read(tmp_path, one=[rating("verbosity", 9, 3)] * 2)
    assert merged(rows) == (rows[:1], [Reason.DUPLICATE])
    _, dropped = conditioned_rows(rows, SCALES, layout="completion")
    assert [row.reason for row in dropped] == [Reason.DUPLICATE, Reason.OFF_SCALE]


def test_a_rating_off_the_scale_enters_no_mean(tmp_path) -> None:
    rows = read(
        tmp_path, one=[rating("verbosity", 0, 3)], two=[rating("verbosity", 9, 3)], three=[rating("verbosity", 2, 3)]
    )
    found, dropped = merge_raters(rows, SCALES.objectives)
    assert [ratings(row) for row in found] == [[{"verbosity": 1.0}, {"verbosity": 3.0}]]
    assert dropped == [Dropped(rows[1].id, Reason.OFF_SCALE, "verbosity is 9, expected 0, 1, 2, 3, 4")]


def test_conditions_see_all_ratings_of_an_answer(tmp_path) -> None:
    rows = read(tmp_path, one=[rating("verbosity", 0, 3)], two=[rating("helpfulness", 4, 4)])
    used, dropped = conditioned_rows(rows, SCALES, layout="completion")
    assert [row["condition"] for row in used] == [
        {"helpfulness": 4.0, "verbosity": 0.0},
        {"helpfulness": 4.0, "verbosity": 3.0},
    ]
    assert dropped == []


# -- the public files ------------------------------------------------------------------------------------------------


def test_three_annotators_of_helpsteer(shared_data: Path) -> None:
    folder = shared_data / "helpsteer2_annotators"
    rows: list[SourceRow] = []
    for rater in (1, 2, 3):
        name = f"datasets__helpsteer__annotator_{rater}__verbosity_preference.jsonl"
        rows += read_rows(DataEntry(path=str(folder / name), format="rated-pairs"))
    helpful = folder / "datasets__helpsteer__annotator_integration__helpfulness_eval.jsonl"
    rows += read_rows(DataEntry(path=str(helpful), format="rated-pairs"))
    assert len(rows) == 422 + 450 + 424 + 382
    found, dropped = merged(rows)
    both = [row for row in found if {"helpfulness", "verbosity"} <= set(row.responses[0].ratings)]
    assert (len(found), len(both)) == (790, 249)
    assert dropped == [Reason.DUPLICATE] * 9
    assert all(0 <= rated <= 4 for row in found for answer in row.responses for rated in answer.ratings.values())
