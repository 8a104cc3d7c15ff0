"""Suites of an evaluation as stages: prompts that models answer, questions whose answers they find likely or not."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any, Literal

from equipoise.config import Config, Execution
from equipoise.data.choices import Shelf, read_questions
from equipoise.data.duplicates import exclude_near_duplicates
from equipoise.data.relabel import enforce
from equipoise.data.sources import DataEntry, read_rows
from equipoise.errors import DataError, nearest
from equipoise.methods.align import DataUse
from equipoise.methods.asked import FittingConfig, asked_prompts, fitting
from equipoise.preparing import write_dropped
from equipoise.records import read_jsonl, write_jsonl
from equipoise.stages import ReferenceConfig, artefact, model_path, reference
from equipoise.store import FileInput, Input, Work, stage
from equipoise.types import Artefact, Dropped

TOGETHER = {"harmful": "borderline", "borderline": "harmful"}


class SuiteConfig(Config):
    """How prompts are asked, and which harmful categories must be among them.

    Prompts at least `near_duplicates` similar to one of the entries of `seen` are left out.
    """

    system_prompt: str | None = None
    categories: tuple[str, ...] = ()
    near_duplicates: float | None = None
    seen: tuple[dict[str, Any], ...] = ()
    seen_paths: tuple[str, ...] = Execution(())


@stage(version=1)
def suite(work: Work, config: SuiteConfig, *, prompts: Input, seen: Input) -> None:
    """Prompts as they are asked: `prompts.jsonl`; `excluded.jsonl` names those near to what was trained on.

    Raises DataError for a category that no prompt has, and for a kind that has no prompt left.
    """
    rows = read_jsonl(artefact(prompts).path / "prompts.jsonl")
    _check_categories(rows, config.categories)
    trained = [
        row
        for entry, path in zip(config.seen, config.seen_paths, strict=True)
        for row in read_rows(DataEntry(**{**entry, "path": path, "name": "seen"}), dropped=[])
    ]
    kept, excluded = exclude_near_duplicates(rows, trained, threshold=config.near_duplicates if config.seen else None)
    left = Counter(row["kind"] for row in kept)
    for kind, other in TOGETHER.items():
        if left[other] and not left[kind]:
            why = f" ({len(excluded)} are near to prompts of seen)" if excluded else ""
            raise DataError(f"evaluate.{kind}: no {kind} prompt is left beside {left[other]} {other} ones{why}")
    lost = next((row["kind"] for row in rows if not left[row["kind"]]), None)
    if lost is not None:
        raise DataError(f"evaluate.{lost}: no prompt is left, all are near to prompts of seen")
    if excluded:
        work.note(f"{len(excluded)} of {len(rows)} prompts were left out: near to one that was trained on")
    write_dropped(work.path / "excluded.jsonl", excluded)
    write_jsonl(work.path / "prompts.jsonl", [_with_system(row, config.system_prompt) for row in kept])
    work.summary.update(prompts=len(kept), near_duplicates=len(excluded), **left)


def _check_categories(rows: Sequence[Mapping[str, Any]], expected: Sequence[str]) -> None:
    harmful = [row for row in rows if row["kind"] == "harmful"]
    found = {row["category"] for row in harmful if row["category"]}
    lacking = [category for category in expected if category not in found]
    if lacking and not found:
        raise DataError(
            f"evaluate.categories: {', '.join(expected)} are expected, and no harmful prompt has a category: name the "
            "column that holds it, `map: {category: COLUMN}`"
        )
    if lacking:
        raise DataError(
            f"evaluate.categories: no harmful prompt is of the category '{lacking[0]}'{nearest(lacking[0], found)}"
            + (f", and {len(lacking) - 1} more are missing" if len(lacking) > 1 else "")
        )


def _with_system(row: Mapping[str, Any], said: str | None) -> dict[str, Any]:
    if said is None:
        return dict(row)
    if row["prompt"][0]["role"] == "system":
        raise DataError(f"prompt '{row['id']}' has a system prompt of its own beside the config's: leave one out")
    return {**row, "prompt": [{"role": "system", "content": said}, *row["prompt"]]}


def suite_prompts(uses: Mapping[str, DataUse], config: SuiteConfig, *, seen: DataUse | None = None) -> Artefact:
    """The prompts of all kinds as they are asked; `seen` is what models were trained on."""
    told = config if seen is None else config.but(seen=seen.meanings, seen_paths=seen.paths)
    return suite(told, prompts=asked_prompts(uses, suite=True), seen=() if seen is None else seen.files)


class KeptConfig(Config):
    """Prompts that some model has no room for."""

    without: tuple[str, ...] = ()


@stage(version=1)
def kept(work: Work, config: KeptConfig, *, prompts: Input) -> None:
    """All prompts but some: `prompts.jsonl`."""
    rows = read_jsonl(artefact(prompts).path / "prompts.jsonl")
    left = [row for row in rows if row["id"] not in set(config.without)]
    write_jsonl(work.path / "prompts.jsonl", left)
    work.summary.update(prompts=len(left), too_long=len(rows) - len(left))


def with_room(prompts: Artefact, models: Sequence[Input], config: FittingConfig) -> Artefact:
    """The prompts that leave room for an answer of every model, so that all answer the same ones."""
    long: set[str] = set()
    for model in models:
        fitted = fitting(config, model=model, prompts=prompts)
        long |= {row["id"] for row in read_jsonl(fitted.path / "dropped.jsonl")}
    return kept(KeptConfig(without=tuple(sorted(long))), prompts=prompts) if long else prompts


def content(prompts: Artefact) -> FileInput:
    """Prompts by their content: whichever way they were picked, equal ones are answered once."""
    return FileInput(prompts.path / "prompts.jsonl")


class PickConfig(Config):
    """Which answers: to prompts of these kinds, and of these ids where any are named."""

    kinds: tuple[str, ...] = ()
    ids: tuple[str, ...] | None = None


@stage(version=1)
def picked(work: Work, config: PickConfig, *, completions: Input) -> None:
    """Some of stored answers, as they are: `completions.jsonl`."""
    rows = read_jsonl(artefact(completions).path / "completions.jsonl")
    ids = None if config.ids is None else set(config.ids)
    out = [row for row in rows if row["kind"] in config.kinds and (ids is None or row["prompt_id"] in ids)]
    write_jsonl(work.path / "completions.jsonl", out)
    work.summary.update(completions=len(out))


# ---- questions -------------------------------------------------------------------------------------------------------


class QuestionsConfig(Config):
    """Questions with answers to choose from, and how they are asked; `parts` name the entries of HHH."""

    shelf: Literal["honesty", "hhh"]
    entries: tuple[dict[str, Any], ...]
    parts: tuple[str | None, ...]
    paths: tuple[str, ...] = Execution(())
    system_prompt: str | None = None
    chat_template: str | None = None
    max_length: int
    max_dropped: float


@stage(version=1)
def questions(work: Work, config: QuestionsConfig, *, model: Input, files: Input) -> None:
    """Every answer to every question, tokenized for a model: `questions.jsonl`, and a token table with a row an answer.

    A question with an answer that does not fit is left out; raises DataError where more than `max_dropped` are.
    """
    from equipoise.data.tokens import Encoded, TokenTable, encode_rows
    from equipoise.models.load import load_tokenizer

    dropped: list[Dropped] = []
    rows = _questions(config, dropped)
    system = [] if config.system_prompt is None else [{"role": "system", "content": config.system_prompt}]
    pieces = [
        {"id": row["id"], "prompt": [*system, *row["prompt"]], "completion": [{"role": "assistant", "content": said}]}
        for row in rows
        for said in row["options"]
    ]
    encoded: dict[str, list[Encoded]] = {}
    left_out: dict[str, Dropped] = {}
    tokenizer = load_tokenizer(model_path(model), config.chat_template)
    for piece, found in encode_rows(tokenizer, pieces, max_length=config.max_length, truncation="drop"):
        if isinstance(found, Dropped):
            left_out[piece["id"]] = found
        else:
            encoded.setdefault(piece["id"], []).append(found)
    dropped += left_out.values()
    write_dropped(work.path / "dropped.jsonl", dropped)
    total = len(rows) + len(dropped) - len(left_out)
    enforce(dropped, total=total, max_dropped=config.max_dropped, name=f"evaluate.{config.shelf}")
    whole = [row for row in rows if row["id"] not in left_out]
    if not whole:
        raise DataError(f"evaluate.{config.shelf}: no question is left of {total} in {', '.join(config.paths)}")
    table = [one for row in whole for one in encoded[row["id"]]]
    TokenTable.write(work.path, table, {})
    write_jsonl(work.path / "questions.jsonl", whole)
    write_jsonl(work.path / "rows.jsonl", [{"id": f"{r['id']}-{i}"} for r in whole for i in range(len(r["options"]))])
    work.summary.update(questions=len(whole), answers=len(table), dropped=len(dropped))


def _questions(config: QuestionsConfig, dropped: list[Dropped]) -> list[dict[str, Any]]:
    """Every distinct question once; equal ones are those with equal prompt and answers."""
    found: dict[str, dict[str, Any]] = {}
    for entry, path, part in zip(config.entries, config.paths, config.parts, strict=True):
        given = DataEntry(**{**entry, "path": path, "name": f"evaluate.{config.shelf}"})
        for one in read_questions(given, config.shelf, dropped):
            of = part or one.part
            name = one.id if of is None else f"{of}-{one.id}"  # a question may be in several parts
            told = {measure: list(labels) for measure, labels in one.labels.items()}
            row = {"id": name, "prompt": [dict(turn) for turn in one.prompt], "options": list(one.options)}
            found.setdefault(name, {**row, "labels": told, "part": of})
    return list(found.values())


def questions_of(
    shelf: Shelf, use: DataUse, parts: Sequence[str | None], config: Mapping[str, Any], *, model: Input
) -> Artefact:
    """The questions of entries, tokenized for a model; `config` holds the keys of how they are asked."""
    told = QuestionsConfig(shelf=shelf, entries=use.meanings, parts=tuple(parts), paths=use.paths, **config)
    return questions(told, model=model, files=use.files)


def option_logps(model: Input, asked: Artefact, *, dtype: str = "auto") -> Artefact:
    """Log-probability of every answer under a model, as references are: (N, 1) in the order of the token table."""
    return reference(ReferenceConfig.make({"dtype": dtype}), model=model, data=asked)
