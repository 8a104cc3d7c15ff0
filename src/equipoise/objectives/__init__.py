"""What a model is trained on: pure functions from log-probabilities and columns to one loss per example.

`OBJECTIVES` is the table of contents. `Objective.columns` and `.hyperparameters` are read off the signature, so that a
config is checked against the function itself before any model loads.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from equipoise.errors import SettingError, nearest
from equipoise.objectives.preference import dpo, ipo, kto, sft
from equipoise.objectives.safety import bfpo, bfpo_target, modpo, safedpo

if TYPE_CHECKING:
    from torch import Tensor

Layout = Literal["completion", "pair", "unpaired"]
Divisor = Literal["examples", "tokens"]

# What models give or the trainer computes; every other positional parameter is a column the data must have.
COMPUTED = ("logps", "ref_logps", "lengths", "kl", "margin")

# Hyperparameters by name: above what, up to what, in words.
_LIMITS = {
    "beta": (0.0, float("inf"), "be positive"),
    "tau": (0.0, float("inf"), "be positive"),
    "b1": (1.0, float("inf"), "be larger than 1"),
    "weight": (0.0, 1.0, "be larger than 0 and at most 1"),
}


@dataclass(frozen=True)
class Objective:
    """A loss and what the trainer must know to feed it.

    `target` gives the margin of log-ratios that a squared loss pulls to, from the same columns and hyperparameters.
    """

    name: str
    function: Callable[..., Tensor]
    layout: Layout
    divisor: Divisor = "examples"
    target: Callable[..., Tensor] | None = None

    @property
    def _parameters(self) -> Mapping[str, inspect.Parameter]:
        return inspect.signature(self.function).parameters

    @property
    def inputs(self) -> tuple[str, ...]:
        """Positional parameters, in order."""
        return tuple(n for n, p in self._parameters.items() if p.kind is not p.KEYWORD_ONLY)

    @property
    def columns(self) -> tuple[str, ...]:
        """Columns the training rows must have (`safe` of a pair means `chosen_safe` and `rejected_safe`)."""
        return tuple(n for n in self.inputs if n not in COMPUTED)

    @property
    def hyperparameters(self) -> dict[str, Any]:
        """Keyword-only parameters with their defaults."""
        return {n: p.default for n, p in self._parameters.items() if p.kind is p.KEYWORD_ONLY}

    @property
    def needs_reference(self) -> bool:
        """Whether reference log-probabilities must be computed before training."""
        return "ref_logps" in self.inputs

    @property
    def needs_mismatched(self) -> bool:
        """Whether each row carries another row's completion for a KL baseline."""
        return "kl" in self.inputs

    @property
    def needs_margin(self) -> bool:
        """Whether another model's implicit rewards of the answers must be computed before training."""
        return "margin" in self.inputs


OBJECTIVES: dict[str, Objective] = {
    "sft": Objective("sft", sft, "completion", divisor="tokens"),
    "dpo": Objective("dpo", dpo, "pair"),
    "ipo": Objective("ipo", ipo, "pair"),
    "kto": Objective("kto", kto, "unpaired"),
    "bfpo": Objective("bfpo", bfpo, "pair", target=bfpo_target),
    "modpo": Objective("modpo", modpo, "pair"),
    "safedpo": Objective("safedpo", safedpo, "pair"),
}


def objective(name: str) -> Objective:
    """Look `name` up in the table; `SettingError` names the nearest one."""
    if name not in OBJECTIVES:
        raise SettingError(f"objective '{name}' is unknown{nearest(name, OBJECTIVES)}")
    return OBJECTIVES[name]


def bind(chosen: Objective, settings: Mapping[str, Any]) -> dict[str, Any]:
    """Complete `settings` with the defaults of an objective, refusing what it does not take."""
    known = chosen.hyperparameters
    for name, value in settings.items():
        if name not in known:
            raise SettingError(f"objective '{chosen.name}' takes no '{name}'{nearest(name, known)}")
        if isinstance(value, bool) or not isinstance(value, (int, float)):
            raise SettingError(f"objective '{chosen.name}': {name} must be a number, got {value!r}")
        above, most, words = _LIMITS.get(name, (-float("inf"), float("inf"), ""))
        if not above < value <= most:
            raise SettingError(f"objective '{chosen.name}': {name} must {words}, got {value}")
    return {**known, **settings}


__all__ = ["OBJECTIVES", "Objective", "bfpo", "bind", "dpo", "ipo", "kto", "modpo", "objective", "safedpo", "sft"]
