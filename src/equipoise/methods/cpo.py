"""Controllable preference optimization (Guo et al. 2024, arXiv:2402.19085): levels of objectives, asked for by name.

CPSFT teaches what the tokens mean: each answer is imitated under its own ratings. CDPO then orders the answers to a
prompt by their value under a condition. Its reference is the CPSFT model; the tokens are in the prompt for both.
Docs and messages call it controllable, because three other methods go by CPO as well.

Deviates: an answer's value is the paper's formula (in the released scripts an exact match counts as the plain rating,
and controlled honesty as its negative); a token has one name in both steps; conditions in the harmful half of a scale
need `ask_for_harm`; rows with forged tokens are dropped, and a model that is asked never sees them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import islice
from typing import Any

from equipoise.config import TrainConfig
from equipoise.data.conditions import Conditions
from equipoise.data.controllable import check_ratings
from equipoise.data.sources import DataEntry, open_entry
from equipoise.errors import DataError, SettingError, nearest
from equipoise.methods.align import DataUse, Step, align, step_settings
from equipoise.objectives import objective
from equipoise.store import Input
from equipoise.types import Artefact, Dropped, SourceRow


@dataclass(frozen=True)
class Controllable:
    """What a run leaves: the model that knows the tokens, and the one trained on pairs under conditions."""

    cpsft: Artefact
    cdpo: Artefact


def cpo(base: Input, cpsft: Step, cdpo: Step) -> Controllable:
    """Imitate rated answers under their own ratings, then prefer by value under drawn conditions (reference: CPSFT)."""
    for name, step, layout in (("sft", cpsft, "completion"), ("pairs", cdpo, "pair")):
        if step.conditions is None:
            raise SettingError(f"cpo: the step {name} has no conditions")
        if objective(step.objective.objective).layout != layout:
            raise SettingError(
                f"cpo: the step {name} trains on {layout} rows, which {step.objective.objective} does not"
            )
    first = align(base, cpsft)
    return Controllable(first, align(first, cdpo, base=base))


def cpo_steps(
    uses: Mapping[str, DataUse],
    conditions: Conditions,
    train: TrainConfig,
    *,
    sft: Mapping[str, Any],
    pairs: Mapping[str, Any],
    launch: str | None = None,
) -> tuple[Step, Step]:
    """Return the steps CPSFT and CDPO of a config; `sft` and `pairs` hold a step's settings and the `data` it uses."""
    steps = []
    for name, given, default in (("sft", sft, "sft"), ("pairs", pairs, "dpo")):
        rest = {"objective": default, **{key: value for key, value in given.items() if key != "data"}}
        chosen, training = step_settings(rest, train, name)
        role = given.get("data", next(iter(uses)) if len(uses) == 1 else None)
        if role is None:
            raise SettingError(
                f"{name}: say which data it uses, data: {next(iter(uses))} (there are {', '.join(uses)})"
            )
        if role not in uses:
            raise SettingError(f"{name}: data '{role}' is not one of the roles under data:{nearest(str(role), uses)}")
        asked = for_imitation(conditions) if name == "sft" else conditions
        steps.append(Step(uses[role], chosen, training, launch=launch, conditions=asked))
    first, second = steps
    for step, name, layout in ((first, "sft", "completion"), (second, "pairs", "pair")):
        if objective(step.objective.objective).layout != layout:
            raise SettingError(f"{name}: objective {step.objective.objective} does not train on {layout} rows")
    return first, second


def for_imitation(conditions: Conditions) -> Conditions:
    """What CPSFT depends on: scales and what may be asked for. Weights and budgets are left out, so that runs which
    differ in these share its model."""
    plain = tuple(o.but(weight=1.0, strictness=1.0) for o in conditions.objectives)
    return Conditions(objectives=plain, ask_for_harm=conditions.ask_for_harm, partial=conditions.partial)


def check_rated(step: Step, entry: DataEntry, conditions: Conditions) -> None:
    """Refuse an entry whose first answers lack the ratings that a step under conditions needs."""
    opened = open_entry(entry)
    found = [located.row for located in islice(opened.rows, 50)]
    rows = [row for row in found if isinstance(row, SourceRow)]
    unreadable = [row for row in found if isinstance(row, Dropped)]
    if len(unreadable) > step.train.max_dropped * len(found):
        raise DataError(
            f"{entry.shown}: {unreadable[0].detail} ({len(unreadable)} such rows in the first {len(found)})"
        )
    check_ratings(rows, conditions, where=entry.shown, max_dropped=step.train.max_dropped)
    if objective(step.objective.objective).layout == "pair" and all(len(row.responses) < 2 for row in rows):
        raise SettingError(
            f"{entry.shown}: {step.objective.objective} under conditions needs several answers to a prompt, but the "
            f"first {len(rows)} rows have one each (layout {opened.layout.name})"
        )
