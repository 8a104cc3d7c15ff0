"""The settings of a built-in method -> its steps."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from typing import Any

from equipoise.errors import SettingError, nearest
from equipoise.methods.align import DataUse, Prefer, Step, step_settings, use
from equipoise.methods.bfpo import bfpo_steps
from equipoise.methods.cpo import cpo_steps
from equipoise.methods.modpo import modpo_settings
from equipoise.methods.settings import (
    BfpoConfig,
    CpoConfig,
    DpoConfig,
    ModpoConfig,
    RunConfig,
    SacpoConfig,
    SafedpoConfig,
    several,
)
from equipoise.objectives import objective

# What a role means where the data's axis does not say it.
ROLE_AXIS: dict[str, Prefer] = {"helpful": "better", "safe": "safer"}


def steps_of(config: RunConfig, uses: Mapping[str, DataUse]) -> Sequence[Step]:
    """The steps that a config asks for, on the data of its roles."""
    if isinstance(config, BfpoConfig):
        settings = {"tau": config.tau, "b1": config.b1, "alpha": config.alpha}
        steps = bfpo_steps(uses, config.train_config, settings=settings, sft=config.sft, launch=config.launch)
        _check_continued(steps)
        return steps
    if isinstance(config, ModpoConfig):
        return _modpo_steps(config, uses)
    if isinstance(config, SafedpoConfig):
        data = _only_role(config, uses)
        chosen = use("safedpo", beta=config.beta, delta=config.delta)
        return [Step(data, chosen, config.train_config, prefer="better_if_safe", launch=config.launch)]
    if isinstance(config, SacpoConfig):
        return _sacpo_steps(config, uses)
    if isinstance(config, CpoConfig):
        given = {"sft": config.sft, "pairs": config.pairs, "launch": config.launch}
        steps = cpo_steps(uses, config.conditions, config.train_config, **given)
        _check_continued(steps)
        return steps
    return _one_step(config, uses)


def _sacpo_steps(config: SacpoConfig, uses: Mapping[str, DataUse]) -> list[Step]:
    written: Sequence[Mapping[str, Any]]
    if config.steps is not None:
        if config.first or config.second:
            raise SettingError("steps replaces first and second: give one or the other")
        written = config.steps
    else:
        if len(config.order) != 2:
            raise SettingError(f"order names the data of first and second, got {len(config.order)} names; use steps")
        written = [{"data": config.order[0], **config.first}, {"data": config.order[1], **config.second}]
    steps = []
    for number, given in enumerate(written, start=1):
        where = f"step {number}"
        role = given.get("data")
        if role not in uses:
            raise SettingError(f"{where}: data '{role}' is not one of the roles under data:{nearest(str(role), uses)}")
        rest = {k: v for k, v in given.items() if k not in ("data", "prefer")}
        chosen, train = step_settings(rest, config.train_config, where)
        prefer = given.get("prefer") or axis_of(uses[role], role, where)
        steps.append(Step(uses[role], chosen, train, prefer=prefer, launch=config.launch))
    _check_adapters(config, steps)
    return steps


def _modpo_steps(config: ModpoConfig, uses: Mapping[str, DataUse]) -> list[Step]:
    found = modpo_settings(config.first, config.second, config.train_config, weights=several(config.weights))
    steps = []
    for where, role, given, settings in zip(
        ("first", "second"), config.order, (config.first, config.second), found, strict=True
    ):
        if role not in uses:
            raise SettingError(f"{where}: data '{role}' is not one of the roles under data:{nearest(role, uses)}")
        prefer = given.get("prefer") or axis_of(uses[role], role, where)
        steps.append(Step(uses[role], *settings, prefer=prefer, launch=config.launch))
    return steps


def _check_continued(steps: Sequence[Step]) -> None:
    """A step over LoRA continues the adapter of the step before it: what it asks of an adapter must be the same."""
    for number, (before, step) in enumerate(itertools.pairwise(steps), start=2):
        for key in ("use_peft", "lora_r", "lora_alpha", "lora_target_modules", "load_in_4bit"):
            had, asked = (s.train.__dict__[key] for s in (before, step))
            if before.train.use_peft and asked != had:
                raise SettingError(
                    f"step {number}: {key} is {asked}, but the step continues the adapter of step {number - 1}, which "
                    f"was made with {key}: {had}"
                )


def _check_adapters(config: SacpoConfig, steps: Sequence[Step]) -> None:
    _check_continued(steps)
    if (config.mix or config.naive) and steps and steps[0].train.use_peft != steps[-1].train.use_peft:
        raise SettingError("merging needs the first and the last step both with use_peft or both without")


def _one_step(config: RunConfig, uses: Mapping[str, DataUse]) -> list[Step]:
    assert isinstance(config, DpoConfig)
    data = _only_role(config, uses)
    role = data.name
    given = {"objective": config.objective} | ({} if config.beta is None else {"beta": config.beta})
    chosen, train = step_settings(given, config.train_config, "config")
    prefer = None
    if objective(config.objective).layout != "completion":
        prefer = config.prefer or axis_of(data, role, "data")
    return [Step(data, chosen, train, prefer=prefer, choose=config.choose, launch=config.launch)]


def _only_role(config: RunConfig, uses: Mapping[str, DataUse]) -> DataUse:
    if len(uses) != 1:
        raise SettingError(f"method {config.method} trains on one data entry, got {', '.join(uses)}; use method: sacpo")
    (data,) = uses.values()
    return data


def axis_of(data: DataUse, role: str, where: str) -> Prefer:
    """What an order of two answers of a role means: its entries' axis, or what the role is called."""
    axes = {entry.axis for entry in data.entries} - {None}
    if len(axes) > 1:
        raise SettingError(f"{where}: the entries of '{role}' are ordered by different axes")
    axis = next(iter(axes), None) or ROLE_AXIS.get(role)
    if axis is None:
        raise SettingError(f"{where}: say what an order of two '{role}' answers means, prefer: better or prefer: safer")
    return axis
