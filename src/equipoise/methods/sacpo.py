"""SACPO and P-SACPO (Wachi et al. 2024, arXiv:2404.11049): align for one thing after another.

Each step starts from the step before and refers to it, so that helpfulness with `beta` and then safety with
`beta/lambda` has the optimum of reward + lambda * safety in one step (Theorem 1). P-SACPO takes one conservative
(large) lambda and merges the weights of the last and the first step: theta(q) = q * last + (1 - q) * first.

Deviates: the released scripts change the batch size between the steps without saying so; here a step keeps what the
config says. KTO's class balance is corrected once (by weights), not twice.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from equipoise.errors import SettingError
from equipoise.methods.align import Step, align
from equipoise.stages import MergeConfig, merge
from equipoise.store import Input
from equipoise.types import Artefact


@dataclass(frozen=True)
class Sacpo:
    """What a run leaves: the model after each step, and the merges by q."""

    steps: tuple[Artefact, ...]
    merged: Mapping[float, Artefact]


def sacpo(base: Input, steps: Sequence[Step], *, mix: Sequence[float] = ()) -> Sacpo:
    """Align `base` step by step; `mix` lists the q of P-SACPO (0 is the first step's model, 1 the last one's).

    A step per constraint: two is the paper's method, more apply its operator repeatedly.
    """
    if not steps:
        raise SettingError("sacpo needs at least one step")
    for q in mix:
        if not 0 <= q <= 1:
            raise SettingError(f"mix: q must lie between 0 and 1, got {q}")
    if mix and len(steps) < 2:
        raise SettingError("mix merges the last step with the first, so sacpo needs two steps")
    models: list[Artefact] = []
    for step in steps:
        models.append(align(models[-1] if models else base, step, base=base))
    merged = {q: merge(MergeConfig(weights=(q, 1 - q)), models=(models[-1], models[0])) for q in mix}
    return Sacpo(tuple(models), merged)


def naive_merge(base: Input, helpful: Step, safe: Step, *, mix: Sequence[float]) -> Mapping[float, Artefact]:
    """The paper's baseline: merge two models, each aligned on one axis from the base (rewarded soups on DPO).

    Unlike P-SACPO it also dilutes the reward: (1 - q) * r + q * lambda * g.
    """
    one, other = align(base, helpful), align(base, safe)
    return {q: merge(MergeConfig(weights=(q, 1 - q)), models=(other, one)) for q in mix}
