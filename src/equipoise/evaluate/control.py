"""Controllability: what was asked for against what came, objective by objective.

Guo et al. 2024, arXiv:2402.19085, report means by condition; rank correlation and the figures on objectives that nobody
asked for are ours.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from equipoise.data.conditions import Objective, check_condition
from equipoise.errors import DataError
from equipoise.statistics.correlation import spearman
from equipoise.statistics.intervals import Estimate, mean


@dataclass(frozen=True)
class Controlled:
    """How far a model does as it is asked in one objective.

    `correlation` is of requested and achieved levels (None where either never varies); `error` the mean distance
    |achieved - requested|; `achieved` the mean by requested level; `unasked` the mean where others were asked for and
    this was not; `plain` where nothing was. A part without answers is None.
    """

    objective: str
    correlation: Estimate | None
    error: Estimate | None
    achieved: dict[float, Estimate]
    unasked: Estimate | None
    plain: Estimate | None
    unscored: int


def controllability(
    rows: Sequence[Mapping[str, Any]], objectives: Sequence[Objective], *, level: float = 0.95, seed: int = 0
) -> dict[str, Controlled]:
    """Compare what prompts asked for with how the answers are rated, per objective; intervals are over prompts.

    `rows` hold `prompt_id` (the prompt without tokens), `condition` (levels by name) and `achieved` (ratings by name; a
    rating that is absent or None is unscored and counted).
    """
    if not rows:
        raise DataError("controllability needs answers, got none")
    for row in rows:
        check_condition(row["condition"], objectives)
    return {objective.name: _controlled(rows, objective.name, level, seed) for objective in objectives}


def _controlled(rows: Sequence[Mapping[str, Any]], name: str, level: float, seed: int) -> Controlled:
    scored = [row for row in rows if row["achieved"].get(name) is not None]
    asked = [row for row in scored if name in row["condition"]]

    def average(some: Sequence[Mapping[str, Any]], *, distance: bool = False) -> Estimate | None:
        if not some:
            return None
        values = [abs(r["achieved"][name] - r["condition"][name]) if distance else r["achieved"][name] for r in some]
        return mean(values, [r["prompt_id"] for r in some], level=level, seed=seed)

    requested = [row["condition"][name] for row in asked]
    by_level = {one: average([row for row in asked if row["condition"][name] == one]) for one in sorted(set(requested))}
    return Controlled(
        objective=name,
        correlation=spearman(
            requested,
            [row["achieved"][name] for row in asked],
            [row["prompt_id"] for row in asked],
            level=level,
            seed=seed,
        )
        if asked
        else None,
        error=average(asked, distance=True),
        achieved={one: found for one, found in by_level.items() if found is not None},
        unasked=average([row for row in scored if row["condition"] and name not in row["condition"]]),
        plain=average([row for row in scored if not row["condition"]]),
        unscored=len(rows) - len(scored),
    )
