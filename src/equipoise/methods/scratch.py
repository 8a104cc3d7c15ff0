"""A small base from scratch, for runs that begin without any pretrained model: tokenizer, pretraining, instructions."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import Field

from equipoise.config import Config, TrainConfig
from equipoise.data.duplicates import THRESHOLD
from equipoise.data.sources import DataEntry, data_entry
from equipoise.errors import SettingError
from equipoise.methods.align import DataUse, Step, align, step_settings
from equipoise.stages import FreshConfig, fresh
from equipoise.types import Artefact


class ScratchConfig(Config):
    """How large the base is, what it reads (`pretrain`) and which answers it learns to imitate (`instruct`).

    `pretrain` and `instruct` hold `data` (one entry or a list) and any training key.
    """

    vocab_size: int = Field(8192, gt=300)
    hidden_size: int = Field(320, gt=0)
    layers: int = Field(6, gt=0)
    heads: int = Field(5, gt=0)
    max_positions: int = Field(1024, gt=1)
    pretrain: dict[str, Any]
    instruct: dict[str, Any] | None = None


def scratch_base(config: ScratchConfig, train: TrainConfig, base_dir: Path) -> Artefact:
    """Tokenizer and random weights, then reading, then instructions; every part is a stage of its own.

    All parameters are trained, whatever the run trains afterwards: an adapter or a few layers cannot learn to read.
    """
    train = train.but(trainable=None, use_peft=False, load_in_4bit=False)
    reading = _part("pretrain", config.pretrain, train, base_dir, text=True)
    made: Artefact = fresh(
        FreshConfig(
            entries=reading.data.meanings,
            paths=reading.data.paths,
            vocab_size=config.vocab_size,
            hidden_size=config.hidden_size,
            layers=config.layers,
            heads=config.heads,
            max_length=config.max_positions,
            seed=train.seed,
        ),
        files=reading.data.files,
    )
    model = align(made, reading)
    if config.instruct is not None:
        model = align(model, _part("instruct", config.instruct, train, base_dir, text=False), base=made)
    return model


def _part(name: str, given: Mapping[str, Any], train: TrainConfig, base_dir: Path, *, text: bool) -> Step:
    if "data" not in given:
        raise SettingError(f"scratch.{name}: say what to read under data:")
    rest = {"objective": "sft", **{k: v for k, v in given.items() if k not in ("data", "choose")}}
    chosen, settings = step_settings(rest, train, f"scratch.{name}")
    if chosen.objective != "sft":
        raise SettingError(f"scratch.{name} is supervised: objective must be sft, got {chosen.objective}")
    data = data_use(name, given["data"], base_dir, seed=train.seed)
    return Step(data, chosen, settings, choose=given.get("choose", "first"), text=text)


def data_use(
    name: str,
    given: Any,
    base_dir: Path,
    *,
    holdout: float = 0.0,
    seed: int = 0,
    near_duplicates: float | None = THRESHOLD,
) -> DataUse:
    """A role of a config: one entry or a list of them; relative paths are relative to `base_dir`."""
    items = given if isinstance(given, list) else [given]
    if not items:
        raise SettingError(f"data entry '{name}' is empty")
    entries = tuple(_located(data_entry(item, name=name), base_dir) for item in items)
    return DataUse(name, entries, holdout=holdout, seed=seed, near_duplicates=near_duplicates)


def _located(entry: DataEntry, base_dir: Path) -> DataEntry:
    """Make a relative path absolute where a file is there; hub ids stay as they are."""
    local = base_dir / entry.path
    return entry.model_copy(update={"path": str(local.resolve())}) if local.exists() else entry
