"""Questions with several answers of which some are right, for a model to find likely: honesty and HHH sets.

    {"Question", "Best Answer", "Correct Answers", "Incorrect Answers", ...}         TruthfulQA's CSV, parted by ";"
    {"question", "mc1_targets": {"choices", "labels"}, "mc2_targets": ...}           TruthfulQA on the hub
    {"question", "knowledge", "right_answer", "hallucinated_answer"}                 HaluEval, question answering
    {"user_query", "chatgpt_response", "hallucination": "yes" | "no", ...}           HaluEval, general: one answer each
    {"examples": [{"input", "target_scores": {answer: 0 | 1}}], ...}                 BIG-bench, HHH alignment
    {"input", "targets": {"choices", "labels"}}                                      the same on the hub

Lin et al. 2022, arXiv:2109.07958; Li et al. 2023, arXiv:2305.11747; Askell et al. 2021, arXiv:2112.00861.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from equipoise.data.columns import BadRow, Reason
from equipoise.data.files import Record
from equipoise.data.formats import digest
from equipoise.data.sources import DataEntry, read_records
from equipoise.data.values import flag, is_transcript, text, transcript
from equipoise.errors import DataError, SettingError
from equipoise.types import Dropped, Message

Cells = Mapping[str, Any]
Shelf = Literal["honesty", "hhh"]
Labels = tuple[bool | None, ...]

MC1, MC2, HALUEVAL, GENERAL, HHH = "honesty/mc1", "honesty/mc2", "honesty/halueval", "honesty/halueval_general", "hhh"
_ANY = ("path", "revision", "split", "subfolder", "where", "limit", "name")  # keys of an entry that mean something here


@dataclass(frozen=True, slots=True)
class Question:
    """A prompt, its answers, and for each measure which of them are right; None: an answer has no part in it."""

    id: str
    prompt: tuple[Message, ...]
    options: tuple[str, ...]
    labels: Mapping[str, Labels]
    part: str | None = None


def read_questions(entry: DataEntry, shelf: Shelf, dropped: list[Dropped]) -> Iterator[Question]:
    """Yield the questions of an entry; what cannot be read is appended to `dropped`.

    Raises SettingError for keys without effect here, DataError for a file of another kind.
    """
    idle = [key for key in DataEntry.model_fields if key not in _ANY and entry.__dict__[key]]
    if idle:
        raise SettingError(f"{entry.shown}: {idle[0]} has no effect on questions with answers to choose from")
    for record in read_records(entry):
        for place, cells in _unfolded(record):
            read = _READERS[shelf](cells, place)
            try:
                yield read(cells, record)
            except BadRow as problem:
                dropped.append(Dropped(digest(cells), problem.reason, f"{place}: {problem}"))


def _unfolded(record: Record) -> Iterator[tuple[str, Cells]]:
    """A record, or the examples of a task file that is one record."""
    if not isinstance(record.value, Mapping):
        raise DataError(f"{record.where} is a {type(record.value).__name__}, expected an object with named columns")
    examples = record.value.get("examples")
    if not isinstance(examples, list):
        yield record.where, record.value
        return
    for number, example in enumerate(examples, 1):
        if not isinstance(example, Mapping):
            raise DataError(f"{record.where}: example {number} is a {type(example).__name__}, expected an object")
        yield f"{record.where} example {number}", example


def _honesty(cells: Cells, where: str) -> Callable[[Cells, Record], Question]:
    for needs, read in _HONEST:
        if needs <= cells.keys():
            return read
    raise DataError(_unknown(where, cells, "TruthfulQA (CSV, mc1_targets, mc2_targets), HaluEval (qa, general)"))


def _hhh(cells: Cells, where: str) -> Callable[[Cells, Record], Question]:
    if "input" in cells and cells.keys() & {"target_scores", "targets"}:
        return _read_hhh
    raise DataError(
        _unknown(where, cells, "BIG-bench's examples (input, target_scores) and the hub's (input, targets)")
    )


def _unknown(where: str, cells: Cells, known: str) -> str:
    return f"{where} has columns of no known set ({', '.join(sorted(map(str, cells)))[:120]}); known are {known}"


# ---- readers ---------------------------------------------------------------------------------------------------------


def _read_truthful_csv(cells: Cells, record: Record) -> Question:
    best = text(cells["Best Answer"], "Best Answer").strip()
    right, wrong = (_parted(text(cells[f"{side} Answers"], side)) for side in ("Correct", "Incorrect"))
    options = tuple(dict.fromkeys([best, *right, *wrong]))
    first = tuple(True if one == best else None if one in right else False for one in options)
    return _question(cells["Question"], options, {MC1: first, MC2: tuple(one not in wrong for one in options)})


def _parted(cell: str) -> list[str]:
    return [one.strip() for one in cell.split(";") if one.strip()]


def _read_truthful_targets(cells: Cells, record: Record) -> Question:
    found = {name: _targets(cells[key], key) for key, name in _TARGETS.items() if cells.get(key) is not None}
    options = tuple(dict.fromkeys(option for labelled in found.values() for option in labelled))
    return _question(
        cells["question"], options, {name: tuple(map(labelled.get, options)) for name, labelled in found.items()}
    )


_TARGETS = {"mc1_targets": MC1, "mc2_targets": MC2}


def _targets(value: Any, column: str) -> dict[str, bool]:
    """{"choices": [...], "labels": [...]} or {answer: 0 | 1} as {answer: right}."""
    if isinstance(value, Mapping) and {"choices", "labels"} <= value.keys():
        choices, labels = list(value["choices"]), list(value["labels"])
        if len(choices) != len(labels):
            raise BadRow(Reason.BAD_LABEL, f"{column} has {len(choices)} choices and {len(labels)} labels")
        value = dict(zip(choices, labels, strict=True))
    if not isinstance(value, Mapping):
        raise BadRow(Reason.BAD_LABEL, f"{column} is no list of choices with labels")
    told = {text(choice, column).strip(): flag(label, column) for choice, label in value.items()}
    if None in told.values():
        raise BadRow(Reason.BAD_LABEL, f"{column} does not say of every choice whether it is right")
    return {choice: bool(label) for choice, label in told.items()}


def _read_qa(cells: Cells, record: Record) -> Question:
    options = tuple(text(cells[name], name).strip() for name in ("right_answer", "hallucinated_answer"))
    parts = (text(cells.get(name), name).strip() for name in ("knowledge", "question"))
    return _question("\n\n".join(part for part in parts if part), options, {HALUEVAL: (True, False)})


def _read_general(cells: Cells, record: Record) -> Question:
    hallucinates = flag(cells["hallucination"], "hallucination")
    if hallucinates is None:
        raise BadRow(Reason.BAD_LABEL, "hallucination is empty, expected yes or no")
    options = (text(cells["chatgpt_response"], "chatgpt_response").strip(),)
    return _question(cells["user_query"], options, {GENERAL: (not hallucinates,)})


def _read_hhh(cells: Cells, record: Record) -> Question:
    column = "target_scores" if cells.get("target_scores") is not None else "targets"
    told = _targets(cells[column], column)
    right = sum(told.values())
    if len(told) != 2 or right != 1:
        raise BadRow(Reason.BAD_LABEL, f"{column} has {len(told)} answers, {right} of them right, expected 1 of 2")
    folder = record.file.split("/")[0] if "/" in record.file else None
    return _question(cells["input"], tuple(told), {HHH: tuple(told.values())}, part=folder)


def _question(
    asked: object, options: tuple[str, ...], labels: Mapping[str, Labels], *, part: str | None = None
) -> Question:
    said = text(asked, "question").strip("\r\n")
    prompt = _dialogue(said)
    if not said.strip():
        raise BadRow(Reason.EMPTY_PROMPT, "the question is empty")
    if not all(options):
        raise BadRow(Reason.EMPTY_COMPLETION, "one of the answers is empty")
    for name, told in labels.items():
        if name != GENERAL and not {True, False} <= set(told):
            raise BadRow(Reason.BAD_LABEL, f"{name} needs a right and a wrong answer, and there is only one kind")
    return Question(digest([prompt, options]), prompt, options, labels, part)


def _dialogue(said: str) -> tuple[Message, ...]:
    """HHH's dialogues leave out the mark of their first turn."""
    whole = f"\n\nHuman: {said}"
    if "\n\nAssistant:" in said and is_transcript(whole):
        return transcript(whole, "input")
    return (Message(role="user", content=said),)


_HONEST: tuple[tuple[frozenset[str], Callable[[Cells, Record], Question]], ...] = (
    (frozenset({"Question", "Best Answer", "Correct Answers", "Incorrect Answers"}), _read_truthful_csv),
    (frozenset({"question", "mc1_targets"}), _read_truthful_targets),
    (frozenset({"question", "mc2_targets"}), _read_truthful_targets),
    (frozenset({"question", "right_answer", "hallucinated_answer"}), _read_qa),
    (frozenset({"user_query", "chatgpt_response", "hallucination"}), _read_general),
)
_READERS: Mapping[Shelf, Callable[[Cells, str], Callable[[Cells, Record], Question]]] = {
    "honesty": _honesty,
    "hhh": _hhh,
}
