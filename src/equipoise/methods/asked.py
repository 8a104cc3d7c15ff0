"""Prompts that a base is asked before training: files by kind -> prompt rows, then answers to them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

from equipoise.config import Config, Execution, Later
from equipoise.data.prompt_lists import CONTRAST, XSTEST
from equipoise.data.sources import DataEntry, read_rows, sniff
from equipoise.errors import DataError, SettingError, nearest
from equipoise.generate import Sampling, prompt_ids
from equipoise.methods.align import DataUse
from equipoise.methods.scratch import data_use
from equipoise.records import read_jsonl, write_jsonl
from equipoise.stages import GenerateConfig, artefact, generate, model_path
from equipoise.store import Input, Work, stage
from equipoise.types import Artefact, Dropped, SourceRow

KINDS = ("harmful", "borderline", "benign")


class AskedConfig(Config):
    """Entries by kind of prompt; in a `suite`, XSTest's prompts are of the kinds that XSTest says, whatever theirs."""

    kinds: dict[str, tuple[dict[str, Any], ...]]
    suite: bool = Later(False)
    paths: dict[str, tuple[str, ...]] = Execution({})


@stage(version=1)
def asked(work: Work, config: AskedConfig, *, files: Input) -> None:
    """`prompts.jsonl`: every distinct prompt of the entries, once, with its kind and category."""
    rows: list[dict[str, Any]] = []
    dropped: list[Dropped] = []
    seen: set[tuple[str, str]] = set()
    for kind, entries in config.kinds.items():
        unread, found, name = len(dropped), False, f"{'evaluate' if config.suite else 'prompts'}.{kind}"
        for entry, path in zip(entries, config.paths[kind], strict=True):
            given = DataEntry(**{**entry, "path": path, "name": name})
            told = config.suite and sniff(given) == XSTEST
            for row in read_rows(given, dropped=dropped):
                words = "\n".join(f"{turn['role']}: {turn['content']}" for turn in row.prompt)
                own = _xstest_kind(row) if told else kind
                found = found or bool(words)
                if words and (own, words) not in seen:
                    seen.add((own, words))
                    prompt = [dict(turn) for turn in row.prompt]
                    rows.append({"id": f"{own}-{row.id}", "prompt": prompt, "kind": own, "category": row.category})
        if not found and len(dropped) > unread:
            first = dropped[unread]
            raise DataError(
                f"{name}: no prompt was found in {', '.join(config.paths[kind])} (the first: {first.detail}, "
                f"{first.reason})"
            )
        if not found:
            raise DataError(
                f"{name}: no prompt was found in {', '.join(config.paths[kind])}; where each line or document "
                "is one, say so: `map: {prompt: text}`"
            )
    write_jsonl(work.path / "prompts.jsonl", rows)
    work.summary.update(prompts=len(rows), unreadable=len(dropped))


def _xstest_kind(row: SourceRow) -> str:
    """Unsafe prompts are there for contrast; the safe ones look like them."""
    return "harmful" if (row.category or "").startswith(CONTRAST) else "borderline"


def prompt_uses(given: Mapping[str, Any], base_dir: Path, *, key: str = "prompts") -> dict[str, DataUse]:
    """The entries of a config's `prompts:` (or of another `key`), by kind; a kind that nobody evaluates is refused."""
    for kind in given:
        if kind not in KINDS:
            shape = f", write {key}: {{harmful: {{path: ...}}}}" if kind == "path" else ""
            raise SettingError(f"{key}: the kind '{kind}' is unknown{nearest(kind, KINDS)}{shape}")
    named = {kind: entry for kind, entry in given.items() if entry is not None}
    return {kind: data_use(f"{key}.{kind}", entry, base_dir) for kind, entry in named.items()}


def check_prompts(entry: DataEntry) -> None:
    """Read the first prompts of an entry; raises DataError where there are none, or what it cannot mean."""
    dropped: list[Dropped] = []
    for row in islice(read_rows(entry, dropped=dropped), PEEK):
        if row.prompt:
            return
    first = f" (the first: {dropped[0].detail}, {dropped[0].reason})" if dropped else ""
    raise DataError(f"{entry.shown}: none of its first rows is a prompt{first}")


PEEK = 20


def asked_prompts(uses: Mapping[str, DataUse], *, suite: bool = False) -> Artefact:
    """The prompts of all kinds, in the order of `KINDS`; for a `suite` as `AskedConfig` says."""
    ordered = {kind: uses[kind] for kind in KINDS if kind in uses}
    config = AskedConfig(
        kinds={kind: use.meanings for kind, use in ordered.items()},
        suite=suite,
        paths={kind: use.paths for kind, use in ordered.items()},
    )
    return asked(config, files=tuple(use.files for use in ordered.values()))


def sampled(model: Input, prompts: Artefact, sampling: Sampling, *, chat_template: str | None = None) -> Artefact:
    """`sampling.repeats` answers of a model to every prompt."""
    return generate(GenerateConfig(sampling=sampling, chat_template=chat_template), model=model, prompts=prompts)


class Room(Config):
    """How many tokens a dialogue and its answer may have."""

    max_length: int
    max_new_tokens: int
    chat_template: str | None = None

    def fits(self, model: Input) -> Callable[[Sequence[Mapping[str, str]]], bool]:
        """Whether a prompt leaves room for an answer of a model."""
        from equipoise.models.load import load_tokenizer

        tokenizer, most = load_tokenizer(model_path(model), self.chat_template), self.tokens(model)
        return lambda prompt: len(prompt_ids(tokenizer, list(prompt))) <= most  # type: ignore[arg-type]

    def tokens(self, model: Input) -> int:
        """Tokens that a prompt may have."""
        from equipoise.models.load import positions_of

        positions = positions_of(model_path(model))
        return min(self.max_length, positions or self.max_length) - self.max_new_tokens


class FittingConfig(Room):
    """The same, and which share of prompts may leave too few."""

    max_dropped: float


@stage(version=1)
def fitting(work: Work, config: FittingConfig, *, model: Input, prompts: Input) -> None:
    """The prompts that leave room for an answer: `prompts.jsonl`; `dropped.jsonl` names the others.

    Raises DataError where more than `max_dropped` of them are too long.
    """
    from equipoise.models.load import load_tokenizer

    tokenizer = load_tokenizer(model_path(model), config.chat_template)
    room = config.tokens(model)
    rows = read_jsonl(artefact(prompts).path / "prompts.jsonl")
    lengths = [len(prompt_ids(tokenizer, row["prompt"])) for row in rows]
    kept = [row for row, n in zip(rows, lengths, strict=True) if n <= room]
    long = [{"id": row["id"], "tokens": n} for row, n in zip(rows, lengths, strict=True) if n > room]
    if len(long) > config.max_dropped * len(rows):
        raise DataError(
            f"prompts: {len(long)} of {len(rows)} have more than {room} tokens (the longest {max(lengths)}), "
            "which is what max_length and the model leave beside max_new_tokens: more than max_dropped "
            f"{config.max_dropped:g} allows"
        )
    if long:
        work.note(f"{len(long)} of {len(rows)} prompts were left out: longer than {room} tokens")
    write_jsonl(work.path / "prompts.jsonl", kept)
    write_jsonl(work.path / "dropped.jsonl", long)
    work.summary.update(prompts=len(kept), too_long=len(long))
