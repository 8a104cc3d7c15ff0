"""Answers that people labelled, to hold graders against: each distinct answer once, by the majority of its labels."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

from equipoise.data.columns import PROMPTS, BadRow
from equipoise.data.files import Record, read_files
from equipoise.data.values import Dialogue, flag, is_transcript, messages, text, transcript
from equipoise.errors import DataError, nearest
from equipoise.types import Message

About = Literal["unsafe", "refused"]

RESPONSES = ("response", "completion", "answer", "output")
"""Columns that hold the labelled answer."""

ENOUGH = 50
"""Labelled answers below which no rate is corrected: its interval would say nothing."""

ENOUGH_OF_EACH = 10
"""The same of answers with and without the fault: 10 of 10 found leave a sensitivity of 69 % possible."""


class Labelled(NamedTuple):
    """Answers as completion rows, what people said of each, and what could not be used.

    `tied` answers have as many labels of one kind as of the other, `unlabelled` ones have none.
    """

    rows: list[dict[str, Any]]
    labels: list[bool]
    tied: int
    unlabelled: int


def read_labelled(path: Path, *, about: About, columns: Sequence[str] = ()) -> Labelled:
    """Read labels (0/1, true/false, yes/no, or a list of them) from `columns`, one for each annotator, or `about`.

    Rows with equal prompt and answer are one answer with the labels of all. Raises DataError for what cannot be read
    and for fewer than `ENOUGH` answers or `ENOUGH_OF_EACH` of a kind.
    """
    names = tuple(columns) or (about,)
    if not path.exists():
        raise DataError(f"labels: there is no file at {path}")
    votes: dict[tuple[str, str], list[bool]] = {}
    rows: dict[tuple[str, str], dict[str, Any]] = {}
    asked: dict[str, int] = {}
    for record in read_files(path):
        try:
            prompt, answer, said = _row(record, names)
        except BadRow as error:
            raise DataError(f"labels: {record.where}: {error}") from None
        prompt_id = hashlib.sha256(repr([(turn["role"], turn["content"]) for turn in prompt]).encode()).hexdigest()[:16]
        key = prompt_id, answer
        if key not in rows:
            repeat = asked[prompt_id] = asked.get(prompt_id, -1) + 1
            rows[key] = {"prompt_id": prompt_id, "repeat": repeat, "text": answer, "prompt": list(prompt)}
        votes.setdefault(key, []).extend(said)
    decided = {key: 2 * sum(said) > len(said) for key, said in votes.items() if said and 2 * sum(said) != len(said)}
    unlabelled = sum(not said for said in votes.values())
    _check_enough(path, about, list(decided.values()))
    return Labelled(
        [rows[key] for key in decided], list(decided.values()), len(votes) - len(decided) - unlabelled, unlabelled
    )


def _check_enough(path: Path, about: About, labels: Sequence[bool]) -> None:
    yes = sum(labels)
    if len(labels) < ENOUGH or min(yes, len(labels) - yes) < ENOUGH_OF_EACH:
        raise DataError(
            f"labels: {path.name} holds {len(labels)} answers with a label, {yes} of them {about}, expected at least "
            f"{ENOUGH} and {ENOUGH_OF_EACH} of either kind: with fewer a grader's errors are not known"
        )


def _row(record: Record, names: Sequence[str]) -> tuple[Dialogue, str, list[bool]]:
    """Prompt, answer and labels of one record."""
    cells = record.value
    if not isinstance(cells, dict):
        raise DataError(f"labels: {record.where} is not a row of columns, expected prompt, response and {names[0]}")
    prompt = _prompt(cells[_column(cells, PROMPTS, record)])
    if not any(turn["content"].strip() for turn in prompt):
        raise DataError(f"labels: {record.where} has an empty prompt")
    answer = text(cells[_column(cells, RESPONSES, record)], "response")
    said: list[bool] = []
    for name in names:
        if name not in cells:
            raise DataError(f"labels: {record.where} has no column '{name}'{nearest(name, cells)}")
        value = cells[name]
        flags = [flag(one, name) for one in (value if isinstance(value, list) else [value])]
        said += [one for one in flags if one is not None]
    return prompt, answer, said


def _column(cells: Mapping[str, Any], names: Sequence[str], record: Record) -> str:
    found = [name for name in names if name in cells]
    if len(found) != 1:
        got = " and ".join(found) or f"none of them{nearest(names[0], cells)}"
        raise DataError(f"labels: {record.where} needs one of the columns {', '.join(names)}, got {got}")
    return found[0]


def _prompt(value: object) -> Dialogue:
    if isinstance(value, list | dict):
        return messages(value, "prompt")
    if is_transcript(value):
        return transcript(value, "prompt")
    return (Message(role="user", content=text(value, "prompt")),)
