"""`equipoise export`: a finished model as plain files, compared with what it was, with a card of what is known."""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from equipoise.carding import Carded, card_for
from equipoise.chosen_model import Chosen, choose_model
from equipoise.errors import DataError, SettingError, nearest
from equipoise.evaluate.model_card import render_card
from equipoise.store import LOCK, locked, write_text

DTYPES = ("bfloat16", "float16", "float32")
_LONG = {"bf16": "bfloat16", "fp16": "float16", "half": "float16", "fp32": "float32"}  # as others call them
_SPARE = 16 * 2**20  # bytes beside the weights: tokenizer, card


@dataclass(frozen=True)
class Export:
    """What is to be exported, where to and how; `licences` are those that the command line states, by part."""

    run: Path
    to: Path
    model: str | None = None
    adapter: bool = False
    merge: bool = False
    dtype: str | None = None
    licences: Sequence[str] = ()
    results: Sequence[Path] = ()
    allow_differences: bool = False


class _Form(NamedTuple):
    """How a model is written: `stored` is the type of its weights (of an adapter's base), `dtype` the exported one."""

    name: str  # model, adapter, merged
    stored: str
    dtype: str

    @property
    def same(self) -> bool:
        """Whether the files are copies."""
        return self.name != "merged" and self.stored == self.dtype


def export(asked: Export, *, say: Callable[[str], None]) -> Path:
    """Write a model to a directory of its own, whole or not at all; returns the directory.

    Raises SettingError for what cannot be meant, DataError where the exported model does not answer as the model did.
    """
    if os.path.lexists(asked.to):
        raise SettingError(f"--to {asked.to} is there already: choose another directory")
    chosen = choose_model(asked.run, asked.model)
    form = _form(chosen, asked)
    told = Carded.of(chosen, asked.licences, asked.results)
    _check_room(chosen, form, asked.to)
    from equipoise.evaluate.lineage import evaluation_prompts
    from equipoise.evaluate.same_answers import PROMPTS, compare, harmless_prompts
    from equipoise.models.export import cast_model, copy_model, merge_adapter

    known = evaluation_prompts(chosen.artefact, count=PROMPTS) if chosen.artefact is not None else []
    asked.to.parent.mkdir(parents=True, exist_ok=True)
    with whole_or_not_at_all(asked.to) as partial:
        if form.name == "merged":
            merge_adapter(chosen.folder, partial, form.dtype)
        elif form.same:
            copy_model(chosen.folder, partial)
        else:
            cast_model(chosen.folder, partial, form.dtype)
        found = compare(
            chosen.folder,
            partial,
            known or harmless_prompts(),
            dtype=form.dtype,
            same=form.same,
            known=bool(known),
        )
        if not found.passes and not asked.allow_differences:
            expected = f"at most {found.allowed:g}" if found.allowed else "equal answers, the weights being equal"
            raise DataError(
                f"{chosen.folder} as {form.name} in {form.dtype}: {found.sentence()}, expected {expected}: nothing was "
                "written (--allow-differences exports it all the same)"
            )
        sentence = found.sentence() + ("" if found.passes else ", which is more than is allowed without being asked")
        card = card_for(told, name=asked.to.name, form=form.name, dtype=form.dtype, answers=f"{sentence}.")
        write_text(partial / "README.md", render_card(card))
    say(f"{sentence}.")
    for note in card.notes:
        say(note)
    if not card.results:
        why = "" if card.unfit is None else f" ({card.unfit})"
        say(f"No evaluation is on the card{why}: equipoise evaluate makes one, --results FILE puts it there.")
    unknown = [one.source.name for one in card.data if one.licence.text is None]
    unknown = [*(["the base"] if card.base_licence.text is None else []), *dict.fromkeys(unknown)]
    if unknown:
        say(f"Licence unknown: {', '.join(unknown)}; the card says so (--license base=..., --license DATA=...).")
    say(f"exported to {asked.to}")
    return asked.to


def _form(chosen: Chosen, asked: Export) -> _Form:
    """How the model is to be written; what cannot be meant is refused before anything is read or written."""
    from equipoise.models.beaver import is_beaver
    from equipoise.models.export import base_dtype, stored_dtype, weights_of
    from equipoise.models.load import ModelName

    if asked.dtype is not None and asked.dtype not in DTYPES:
        raise SettingError(f"--dtype {asked.dtype} is unknown{nearest(_LONG.get(asked.dtype, asked.dtype), DTYPES)}")
    name = ModelName.parse(str(chosen.folder))
    weights_of(chosen.folder)
    if name.adapter_base is None:
        for flag, given in (("--adapter", asked.adapter), ("--merge", asked.merge)):
            if given:
                raise SettingError(f"{flag}: {chosen.folder} is a whole model, not an adapter: leave {flag} out")
        if is_beaver(name):
            raise SettingError(
                f"{chosen.folder} is of Safe RLHF's own model class, which plain transformers cannot load"
            )
        stored = stored_dtype(chosen.folder)
        return _Form("model", stored, asked.dtype or stored)
    if asked.adapter == asked.merge:
        raise SettingError(
            f"{chosen.folder} is an adapter over {name.adapter_base}: say --adapter to export it as it is, or "
            "--merge to export its base with the adapter added" + (", not both" if asked.adapter else "")
        )
    stored = base_dtype(ModelName.parse(name.adapter_base))
    if asked.merge:
        if asked.dtype is None and stored not in DTYPES:
            raise SettingError(f"--merge: the base is stored as {stored}: name one of {', '.join(DTYPES)} by --dtype")
        return _Form("merged", stored, asked.dtype or stored)
    if asked.dtype is not None:
        raise SettingError(
            f"--dtype {asked.dtype}: an adapter is exported as it is; --merge writes weights of another type"
        )
    return _Form("adapter", stored, stored)


def _check_room(chosen: Chosen, form: _Form, to: Path) -> None:
    """Refuse to begin where the disk has no room for the weights."""
    from equipoise.models.export import bytes_of
    from equipoise.models.load import ModelName

    if form.name == "merged":
        base = ModelName.parse(str(ModelName.parse(str(chosen.folder)).adapter_base))
        if not base.is_local:
            return  # a hub's model is downloaded first, and says itself where there is no room
        needed = bytes_of(Path(base.location), stored=form.stored, dtype=form.dtype)
    else:
        needed = bytes_of(chosen.folder, stored=form.stored, dtype=form.dtype)
    there = next(parent for parent in to.absolute().parents if parent.is_dir())
    free = shutil.disk_usage(there).free
    if free < needed + _SPARE:
        raise DataError(
            f"--to {to} needs {(needed + _SPARE) / 1e9:.2f} GB, and the disk of {there} has {free / 1e9:.2f} GB free"
        )


@contextlib.contextmanager
def whole_or_not_at_all(to: Path) -> Iterator[Path]:
    """A hidden directory beside `to` that gets its name when all is in it; what a killed attempt left is removed.

    Raises BusyError while another process writes the same directory.
    """
    partial = to.with_name(f".{to.name}.partial")
    partial.mkdir(exist_ok=True)
    with locked(partial / LOCK, wait=False):
        try:
            _empty(partial)
            yield partial
            _flush(partial)
            (partial / LOCK).unlink()
            partial.rename(to)
        finally:
            shutil.rmtree(partial, ignore_errors=True)


def _empty(folder: Path) -> None:
    for child in folder.iterdir():
        if child.is_dir():
            shutil.rmtree(child)
        elif child.name != LOCK:
            child.unlink()


def _flush(folder: Path) -> None:
    """Have everything on the disk before it gets its name."""
    for file in folder.rglob("*"):
        if file.is_file():
            with file.open("rb") as handle:
                os.fsync(handle.fileno())
