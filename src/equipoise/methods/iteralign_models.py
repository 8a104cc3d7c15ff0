"""IterAlign from a config: its prompts, what is replayed, the rules it starts from, and the model it leaves."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from equipoise.config import Config
from equipoise.errors import SettingError, nearest
from equipoise.evaluate.constitution import read_given
from equipoise.methods.align import DataUse, Step, prepared, use
from equipoise.methods.asked import FittingConfig, asked_prompts, fitting, prompt_uses
from equipoise.methods.iteralign import Iterated, iteralign
from equipoise.methods.iteralign_settings import IterAlignConfig
from equipoise.methods.iteralign_stages import How, Said, own_replay, there
from equipoise.methods.iterating import NOTHING, Cost, Loop, Turn
from equipoise.methods.models import Made, Order
from equipoise.methods.self_correction import wrapped
from equipoise.records import read_jsonl, write_jsonl
from equipoise.stages import artefact
from equipoise.store import Input, Work, stage
from equipoise.types import Artefact

HARMLESS = ("benign", "borderline")


def iteralign_steps(config: IterAlignConfig, uses: Mapping[str, DataUse]) -> list[Step]:
    """What is imitated beside the revisions, so that its data are checked."""
    for role in uses:
        if role != "replay":
            raise SettingError(f"data: iteralign has no role '{role}'{nearest(role, ('replay',))}")
    prompt_uses(config.prompts, Path.cwd())
    return [
        Step(data, use("sft"), config.train_config, choose="better", launch=config.launch) for data in uses.values()
    ]


class OfKindsConfig(Config):
    """Kinds of prompts; `mixed` deals them out in turn."""

    kinds: tuple[str, ...]


@stage(version=1)
def of_kinds(work: Work, config: OfKindsConfig, *, prompts: Input) -> None:
    """The prompts of some kinds, `prompts.jsonl`, dealt out in turn while there are some of each."""
    rows = read_jsonl(artefact(prompts).path / "prompts.jsonl")
    by_kind = [[row for row in rows if row["kind"] == kind] for kind in config.kinds]
    places = [
        ((place + 0.5) / len(own), number, row) for number, own in enumerate(by_kind) for place, row in enumerate(own)
    ]
    write_jsonl(work.path / "prompts.jsonl", [row for _, _, row in sorted(places, key=lambda one: one[:2])])
    work.summary.update(prompts=len(places))


def iterated(
    order: Order[IterAlignConfig], *, hear: Callable[[Turn[Input, Said]], None] = lambda turn: None
) -> Iterated:
    """The whole run."""
    config, how = order.config, order.config.how()
    uses = prompt_uses(config.prompts, order.base_dir)
    room = FittingConfig(
        max_length=config.max_length,
        max_new_tokens=config.generate.max_new_tokens,
        max_dropped=config.max_dropped,
        chat_template=config.chat_template,
    )
    asked = fitting(room, model=order.base, prompts=asked_prompts({"harmful": uses["harmful"]}))
    harmless = _harmless({kind: uses[kind] for kind in HARMLESS if kind in uses}, room, order.base)
    given = () if config.constitution is None else read_given(_located(config.constitution, order.base_dir))
    if config.chain_of_utterances:
        asked = wrapped(how.room, prompts=asked, model=order.base)
    count = len(there(asked, "prompts.jsonl"))
    replay, before = _replay(order, how, harmless)
    return iteralign(
        order.base,
        asked,
        how,
        Loop(
            batches=math.ceil(count / config.batch),
            sweeps=config.sweeps,
            iterations=config.iterations,
            discover=config.discover,
            accumulate=config.accumulate,
            given=given,
        ),
        replay=replay,
        before=before,
        harmless=harmless,
        about={"base": config.model_name_or_path or "scratch", "prompts": count},
        hear=hear,
    )


def _harmless(uses: Mapping[str, DataUse], room: FittingConfig, base: Input) -> Artefact | None:
    """Prompts that deserve an answer, by turns benign and borderline."""
    if not uses:
        return None
    fit = fitting(room, model=base, prompts=asked_prompts(uses))
    return of_kinds(OfKindsConfig(kinds=tuple(uses)), prompts=fit)


def _replay(order: Order[IterAlignConfig], how: How, harmless: Artefact | None) -> tuple[Artefact | None, Cost]:
    if not order.config.replay:
        return None, NOTHING
    if order.steps:
        (step,) = order.steps
        return prepared(order.base, step), NOTHING
    assert harmless is not None
    return own_replay(order.base, harmless, how)


def _located(name: str, base_dir: Path) -> Path:
    local = base_dir / name
    return local if local.exists() else Path(name)


def iteralign_models(order: Order[IterAlignConfig]) -> list[Made]:
    """The model after the last iteration; none where nothing failed and the base stays as it is."""
    return made_by(order.config, iterated(order))


def made_by(config: IterAlignConfig, found: Iterated) -> list[Made]:
    """The model of a run under its label."""
    if not isinstance(found.model, Artefact) or all(not turn.learned for turn in found.turns):
        return []
    setting: dict[str, Any] = {
        "oracle": config.oracle.model,
        "filter": config.filter,
        "accumulate": config.accumulate,
        "discover": config.discover,
        "replay": config.replay,
        "iterations": len(found.turns),
    }
    return [Made("IterAlign" if config.discover else "Constitutional AI", found.model, setting)]
