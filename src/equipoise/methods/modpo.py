"""MODPO (Zhou et al. 2023, arXiv:2310.03708): DPO on one objective with a margin from a model aligned for another.

A first model is trained by DPO on the margin's objective; its implicit reward m = beta * (log pi_m - log pi_ref) of the
answers of the second data set enters the second step as a column. Every weight starts from the base, refers to it and
shares the margin. The optimum is pi_ref * exp((weight * r + (1 - weight) * m) / beta).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from equipoise.config import Config, TrainConfig
from equipoise.errors import SettingError
from equipoise.methods.align import Step, align, logps, prepared, step_settings, use
from equipoise.stages import artefact
from equipoise.store import Input, Work, stage
from equipoise.types import Artefact


@dataclass(frozen=True)
class Modpo:
    """What a run leaves: the model that gives the margin, and a model for each weight."""

    margin: Artefact
    weighted: Mapping[float, Artefact]


class ImplicitRewardsConfig(Config):
    """What the rewards are called as columns, and their scale."""

    name: str = "margin"
    beta: float


@stage(version=1)
def implicit_rewards(work: Work, config: ImplicitRewardsConfig, *, policy: Input, reference: Input) -> None:
    """beta * (log pi - log pi_ref) of both answers of every row, as columns: the reward that DPO taught a model.

    Rafailov et al. 2023, arXiv:2305.18290, eq. 5 up to a constant per prompt. Both inputs are of stage `reference`.
    """
    ratio = np.load(artefact(policy).path / "logps.npy") - np.load(artefact(reference).path / "logps.npy")
    rewards = (config.beta * ratio).astype(np.float32)
    np.savez(
        work.path / "columns.npz", **{f"{s}_{config.name}": rewards[:, i] for i, s in enumerate(("chosen", "rejected"))}
    )
    margins = rewards[:, 0] - rewards[:, 1]
    work.summary.update(mean_margin=round(float(margins.mean()), 4), agrees=round(float((margins > 0).mean()), 4))


def modpo(base: Input, margin: Step, step: Step, *, weights: Sequence[float]) -> Modpo:
    """Train the margin's model, then `base` on `step` once for each weight (that of the step's own objective)."""
    if margin.objective.objective != "dpo" or step.objective.objective != "modpo":
        raise SettingError(
            f"modpo: the margin comes from dpo and the other step is modpo, got {margin.objective.objective} and "
            f"{step.objective.objective}"
        )
    if not weights:
        raise SettingError("modpo: give at least one weight")
    uses = {weight: use("modpo", **{**step.objective.settings, "weight": weight}) for weight in weights}
    guide = align(base, margin)
    data = prepared(base, step)
    scale = ImplicitRewardsConfig(beta=margin.objective.settings["beta"])
    columns = implicit_rewards(scale, policy=logps(guide, data, step), reference=logps(base, data, step))
    models = {w: align(base, replace(step, objective=used), columns=columns) for w, used in uses.items()}
    return Modpo(guide, models)


def modpo_settings(
    first: Mapping[str, Any], second: Mapping[str, Any], train: TrainConfig, *, weights: Sequence[float]
) -> list[tuple[Any, TrainConfig]]:
    """Objective and training of both steps of a config, checked with every weight."""
    found = []
    for where, given, name in (("first", first, "dpo"), ("second", second, "modpo")):
        if given.get("objective", name) != name:
            raise SettingError(f"{where}: this step of modpo is {name}, got objective: {given['objective']}")
        if "weight" in given:
            raise SettingError(f"{where}: list the weights under weights, outside of the steps")
        rest = {key: value for key, value in given.items() if key != "prefer"}
        found.append(step_settings({**rest, "objective": name}, train, where))
    for weight in weights:
        use("modpo", weight=weight)
    return found
