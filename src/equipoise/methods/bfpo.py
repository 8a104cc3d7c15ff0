"""BFPO (Zhang et al. 2024, arXiv:2408.15313): one loss for helpfulness and safety, its label from both.

First the safer answers are imitated; that model is then trained by `objectives.bfpo` and is its reference. The loss on
a buffer of helpfulness pairs, all of whose answers count as safe, is added to each step's. Only layers named in
`trainable` move (the authors': down_proj), in both stages. The red-teaming variant starts from a model that is aligned
already, on pairs of its own answers: no imitation, no buffer.

Pairs that only `safer` orders serve where one answer is safe and the other is not: with alpha 1/2 the loss is the same
whichever of the two is the more helpful (the labels are 1/2 + 1/(b1 - 1) and its negative), so the order is not needed.

Deviates: where the released trainer begins the buffer anew with each epoch, here it goes on in a new order when it is
exhausted. Freezing holds for models given as a path or as an artefact alike.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from equipoise.config import TrainConfig
from equipoise.errors import SettingError, nearest
from equipoise.methods.align import DataUse, Step, align, step_settings, use
from equipoise.store import Input
from equipoise.types import Artefact

Choose = Literal["better", "safer", "all", "safe", "first"]
ROLES = ("pairs", "buffer", "chat")


@dataclass(frozen=True)
class Bfpo:
    """What a run leaves: the model that imitates (None where the run began without), and the aligned one."""

    sft: Artefact | None
    aligned: Artefact


def bfpo(base: Input, step: Step, *, sft: Step | None = None) -> Bfpo:
    """Train `base` on `sft` and then on `step`, whose reference is the model it starts from."""
    if step.objective.objective != "bfpo" or step.prefer not in ("better", "safer"):
        raise SettingError(
            f"bfpo: the step needs objective bfpo and prefer better (its label is of pairs by helpfulness) or safer, "
            f"got {step.objective.objective} and {step.prefer}"
        )
    if step.prefer == "safer":
        _check_alpha(step.objective.settings["alpha"])
    start = align(base, sft) if sft is not None else None
    return Bfpo(start, align(start if start is not None else base, step, base=base))


def bfpo_steps(
    uses: Mapping[str, DataUse],
    train: TrainConfig,
    *,
    settings: Mapping[str, float],
    sft: Mapping[str, Any] | None,
    launch: str | None = None,
) -> list[Step]:
    """Return the steps of a config: imitation (`sft`: its settings and `choose`; None: without) and BFPO.

    Roles: `pairs` (by helpfulness, each answer flagged; where its entries have axis: safer, one safe and one unsafe
    answer each, for alpha 1/2), `buffer` (by helpfulness), `chat` (answers to imitate too).
    """
    for role in uses:
        if role not in ROLES:
            raise SettingError(f"data: bfpo has no role '{role}'{nearest(role, ROLES)}")
    if "pairs" not in uses:
        raise SettingError("data: bfpo needs the role pairs, ordered by helpfulness, each answer with a safety flag")
    if "chat" in uses and sft is None:
        raise SettingError("data: chat is imitated in the sft stage, which is off: leave one of the two out")
    steps = [] if sft is None else [_imitation(uses, train, sft, launch)]
    objective = use("bfpo", **settings)
    prefer = _order_of(uses["pairs"])
    if prefer == "safer":
        _check_alpha(objective.settings["alpha"])
    return [*steps, Step(uses["pairs"], objective, train, prefer=prefer, buffer=uses.get("buffer"), launch=launch)]


def _order_of(data: DataUse) -> Literal["better", "safer"]:
    """What orders the pairs: helpfulness, unless the entries say `axis: safer`."""
    axes = {entry.axis for entry in data.entries}
    if "safer" not in axes:
        return "better"
    if len(axes) > 1:
        raise SettingError("data: the entries of pairs are ordered by different axes, and bfpo takes them by one")
    return "safer"


def _check_alpha(alpha: float) -> None:
    """Refuse pairs whose order by helpfulness is not known where the loss depends on it."""
    if alpha != 0.5:
        raise SettingError(
            f"alpha is {alpha:g}, but the pairs are ordered by safety alone (axis: safer), and which answer is the "
            "more helpful does not matter for alpha 0.5 only: set alpha: 0.5 or give pairs ordered by helpfulness"
        )


def _imitation(uses: Mapping[str, DataUse], train: TrainConfig, given: Mapping[str, Any], launch: str | None) -> Step:
    choose: Choose = given.get("choose", "safer")
    rest = {"objective": "sft", **{key: value for key, value in given.items() if key != "choose"}}
    chosen, training = step_settings(rest, train, "sft")
    if chosen.objective != "sft":
        raise SettingError(f"sft is supervised: objective must be sft, got {chosen.objective}")
    data = uses["pairs"]
    if "chat" not in uses:
        # The order is evaluated as well, where the data have one.
        return Step(data, chosen, training, choose=choose, launch=launch, prefer="safer" if choose == "safer" else None)
    chat = uses["chat"]
    both = DataUse("pairs and chat", data.entries + chat.entries, data.holdout, data.seed, data.near_duplicates)
    return Step(both, chosen, training, choose=choose, launch=launch)
