"""Two answers to a prompt, shown to a judge in both orders, as stages: every reply is asked for once."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from equipoise.config import Config
from equipoise.data.files import Record, read_files
from equipoise.data.formats import digest
from equipoise.errors import DataError
from equipoise.judges.completions import Ask
from equipoise.judges.http import Reply
from equipoise.judges.pairs import ORDERS, OrderRubric
from equipoise.methods.judged import Judge, replies_of
from equipoise.records import read_jsonl, write_jsonl
from equipoise.stages import artefact
from equipoise.store import FileInput, Input, Work, stage

Rows = list[dict[str, Any]]

_SAME = "both answers are the same"


class Comparing(Judge):
    """What the stages of comparison are told: a judge, and how often it is asked about each order."""

    repeats: int = 1


class Match(NamedTuple):
    """Two answers to one prompt: the one asked about, and the other."""

    prompt_id: str
    repeat: int
    prompt: Sequence[Mapping[str, str]]
    texts: tuple[str, str]


@stage(version=1)
def compared(work: Work, config: Comparing, *, completions: Input, against: Input) -> None:
    """Two models' answers to the same prompts, judged in both orders: `verdicts.jsonl`, None where none can be read.

    The n-th answer to a prompt meets the other model's n-th; where that has fewer, they begin again.
    """
    own, other = (read_jsonl(artefact(one).path / "completions.jsonl") for one in (completions, against))
    _judge(work, config, _matches(own, other))


@stage(version=1)
def judged_pairs(work: Work, config: Comparing, *, pairs: Input) -> None:
    """Pairs whose better answer is known, judged in both orders: `verdicts.jsonl`, the better answer in first place."""
    assert isinstance(pairs, FileInput)
    _judge(work, config, labelled_matches(pairs.path))


class Brought(Config):
    """Outputs of a file, put in the place of a model's answers."""


@stage(version=1)
def brought(work: Work, config: Brought, *, outputs: Input, completions: Input) -> None:
    """Outputs by `instruction` -> `completions.jsonl` for those prompts of `completions` that are one of them."""
    assert isinstance(outputs, FileInput)
    texts = {_key(row["instruction"]): row["output"] for row in reference_outputs(outputs.path)}
    found: Rows = []
    seen: set[str] = set()
    for row in read_jsonl(artefact(completions).path / "completions.jsonl"):
        asked = [turn["content"] for turn in row["prompt"] if turn["role"] != "system"]
        if row["prompt_id"] in seen or len(asked) != 1 or _key(asked[0]) not in texts:
            continue
        seen.add(row["prompt_id"])
        about: dict[str, Any] = {n: row[n] for n in ("prompt_id", "prompt", "kind", "category") if n in row}
        found.append({**about, "repeat": 0, "text": texts[_key(asked[0])], "finish_reason": "stop"})
    if not found:
        raise DataError(
            f"none of the {len(texts)} instructions of {outputs.path} is one of the prompts that were answered: they "
            "are compared word by word"
        )
    write_jsonl(work.path / "completions.jsonl", found)
    work.summary.update(completions=len(found))


def reference_outputs(file: Path) -> Rows:
    """Records of a file in AlpacaEval's layout, `instruction`, `output` and perhaps `generator`; raises DataError."""
    rows: Rows = []
    for record in _records(file):
        value = record.value
        if not (isinstance(value, dict) and isinstance(value.get("instruction"), str)) or not isinstance(
            value.get("output"), str
        ):
            raise DataError(f"{record.where}: reference outputs need the texts instruction and output in every record")
        rows.append(value)
    if not rows:
        raise DataError(f"{file} holds no reference outputs")
    return rows


def _records(file: Path) -> Iterator[Record]:
    if not file.exists():
        raise DataError(f"pairwise: there is no file at {file}")
    return read_files(file)


def _key(text: str) -> str:
    return " ".join(text.split())


def _matches(own: Rows, other: Rows) -> list[Match]:
    answers: dict[str, Rows] = {}
    for row in sorted(other, key=lambda row: row["repeat"]):
        answers.setdefault(row["prompt_id"], []).append(row)
    found = []
    for row in own:
        theirs = answers.get(row["prompt_id"])
        if theirs is None:
            continue
        if theirs[0]["prompt"] != row["prompt"]:
            raise DataError(
                f"prompt {row['prompt_id']} does not have the same words on both sides: answers to different prompts "
                "cannot be compared"
            )
        texts = row["text"], theirs[row["repeat"] % len(theirs)]["text"]
        found.append(Match(row["prompt_id"], row["repeat"], row["prompt"], texts))
    if not found:
        raise DataError(f"no prompt was answered by both models, of {len(own)} answers here and {len(other)} there")
    return found


def labelled_matches(pairs: Path) -> list[Match]:
    """The pairs of a file, the better answer first; raises DataError for a record of another kind, or none."""
    found = [_labelled_match(n, record) for n, record in enumerate(_records(pairs))]
    if not found:
        raise DataError(f"{pairs} holds no pairs")
    return found


def _labelled_match(number: int, record: Record) -> Match:
    value = record.value
    if not isinstance(value, dict):
        raise DataError(f"{record.where}: a pair needs prompt, chosen and rejected")
    prompt = value.get("prompt")
    prompt = [{"role": "user", "content": prompt}] if isinstance(prompt, str) else prompt
    sides = [_text(value.get(name)) for name in ("chosen", "rejected")]
    if not isinstance(prompt, list) or sides[0] is None or sides[1] is None:
        raise DataError(f"{record.where}: a pair needs prompt, chosen and rejected, as texts or messages")
    return Match(digest(prompt), number, prompt, (sides[0], sides[1]))


def _text(value: Any) -> str | None:
    """An answer that is a text, or the one message of a list."""
    if isinstance(value, list) and len(value) == 1 and isinstance(value[0], Mapping):
        value = value[0].get("content")
    return value if isinstance(value, str) else None


def _judge(work: Work, config: Comparing, matches: Sequence[Match]) -> None:
    rubric = _rubric(config)
    asked = [one for one in matches if one.texts[0] != one.texts[1]]
    shown = [(one, order, time) for one in asked for order in (0, 1) for time in range(config.repeats)]
    asks = [
        Ask(rubric.messages(one.prompt, one.texts[::-1] if order else one.texts), time) for one, order, time in shown
    ]
    replies, spent = replies_of(work, config.endpoint, asks, "compare", config.account)
    rows = [
        _row(config, rubric, one, order, time, reply) for (one, order, time), reply in zip(shown, replies, strict=True)
    ]
    same = [_same(config, rubric, one, order) for one in matches if one.texts[0] == one.texts[1] for order in (0, 1)]
    write_jsonl(work.path / "verdicts.jsonl", [*rows, *same])
    work.summary.update(pairs=len(matches), same=len(same) // 2, **counts_of(rows), **spent)
    config.check_unscored(rows)


def _rubric(config: Comparing) -> OrderRubric:
    rubric = next(one for axis, one in ORDERS.items() if axis == config.rubric)
    if rubric.version != config.version:
        raise DataError(
            f"rubric {config.rubric} is at version {rubric.version} here, and version {config.version} is asked for: "
            "these verdicts were begun with another release"
        )
    return rubric


def _row(config: Comparing, rubric: OrderRubric, one: Match, order: int, time: int, reply: Reply) -> dict[str, Any]:
    """A line of `verdicts.jsonl`: `value` is the share of the answer asked about, shown first where `order` is 0."""
    said = rubric.read(reply.text) if reply.text is not None else None
    value = None if said is None else 0.5 if said.first is None else float(said.first == order)
    return {
        **_line(config, rubric, one, order),
        "time": time,
        "value": value,
        "verdict": None if said is None else "tie" if said.first is None else ("first", "second")[said.first],
        "reason": None if said is None else said.reason,
        "fault": None if said is not None else reply.fault or "no verdict in the reply",
        "request": reply.key,
    }


def _same(config: Comparing, rubric: OrderRubric, one: Match, order: int) -> dict[str, Any]:
    said = {"time": 0, "value": 0.5, "verdict": "tie", "reason": _SAME, "fault": None, "request": None}
    return {**_line(config, rubric, one, order), **said}


def _line(config: Comparing, rubric: OrderRubric, one: Match, order: int) -> dict[str, Any]:
    return {
        "prompt_id": one.prompt_id,
        "repeat": one.repeat,
        "prompt": [dict(turn) for turn in one.prompt],
        "texts": list(one.texts),
        "order": order,
        "judge": config.endpoint.model,
        "rubric": rubric.versioned,
    }


def counts_of(rows: Sequence[Mapping[str, Any]]) -> dict[str, int]:
    """Verdicts that were asked for, those that cannot be read, and pairs of the same words."""
    asked = [row for row in rows if row["request"] is not None]
    return {
        "verdicts": len(asked),
        "unscored": sum(row["value"] is None for row in asked),
        "identical": (len(rows) - len(asked)) // 2,
    }
