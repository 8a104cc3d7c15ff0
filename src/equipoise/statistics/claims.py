"""Claims such as "A is more helpful than B": a p-value per claim, and a family of them judged together."""

from __future__ import annotations

import math
from collections.abc import Hashable, Mapping, Sequence
from typing import Literal, NamedTuple

import numpy as np

from equipoise.errors import DataError, SettingError, nearest
from equipoise.statistics.intervals import BLOCK, Array, prompt_means

EXACT = 16
"""Up to so many prompts that differ, all 2^16 patterns of signs are counted instead of drawn."""

FLIPS = 20_000
"""Patterns drawn otherwise: the smallest p-value is 1 / 20,001."""

ALTERNATIVES = ("greater", "less", "two-sided")


class Claim(NamedTuple):
    """A named claim of a family: its own p-value, the one adjusted for the family, and whether it is established."""

    name: str
    p: float
    adjusted: float
    holds: bool


def holm(p_values: Mapping[str, float], *, alpha: float = 0.05) -> dict[str, Claim]:
    """Judge a family of claims so that with probability 1 - `alpha` no false one is among those that hold (Holm 1979).

    Keys keep their order. The k-th smallest of m p-values counts (m - k + 1) times, never less than its predecessor.
    """
    if not 0 < alpha < 1:
        raise SettingError(f"alpha must lie between 0 and 1, got {alpha:g}")
    for name, p in p_values.items():
        if not 0 <= p <= 1:
            raise DataError(f"the p-value of claim '{name}' must lie between 0 and 1, got {p:g}")
    adjusted: dict[str, float] = {}
    reached = 0.0
    for rank, name in enumerate(sorted(p_values, key=p_values.__getitem__)):
        reached = max(reached, min(1.0, (len(p_values) - rank) * p_values[name]))
        adjusted[name] = reached
    return {name: Claim(name, p, adjusted[name], adjusted[name] <= alpha) for name, p in p_values.items()}


def paired_p(
    first: Sequence[float] | Array,
    first_prompts: Sequence[Hashable],
    second: Sequence[float] | Array,
    second_prompts: Sequence[Hashable],
    *,
    alternative: Literal["greater", "less", "two-sided"] = "greater",
    seed: int = 0,
) -> float:
    """p-value of "the mean of first - second is `alternative` than 0", by flipping signs of prompts' differences.

    Fisher 1935. Prompts that both answered count once each, as in `difference`. Exact with up to 16 prompts that
    differ; beyond that 20,000 random patterns and the observed one.
    """
    if alternative not in ALTERNATIVES:
        raise SettingError(f"alternative '{alternative}' is unknown{nearest(alternative, ALTERNATIVES)}")
    a, b = prompt_means(first, first_prompts), prompt_means(second, second_prompts)
    gaps = np.array([a[prompt] - b[prompt] for prompt in a if prompt in b])
    if not len(gaps):
        raise DataError("a paired p-value needs prompts that both models answered, got none in common")
    if not np.isfinite(gaps).all():
        raise DataError("a paired p-value needs finite values, got nan or inf (leave unscored answers out)")
    if alternative == "less":
        gaps = -gaps
    gaps = gaps[gaps != 0]  # a flipped zero changes nothing
    two_sided, seen = alternative == "two-sided", math.fsum(gaps)
    slack = 1e-9 * float(np.abs(gaps).sum())  # equal sums must not differ by their rounding
    if len(gaps) <= EXACT:
        return float(_reaches(_all_sums(gaps), seen, slack, two_sided=two_sided) / 2 ** len(gaps))
    generator = np.random.default_rng(seed)
    rows = max(1, BLOCK // len(gaps))
    hits = 0
    for start in range(0, FLIPS, rows):
        signs = generator.integers(0, 2, size=(min(rows, FLIPS - start), len(gaps)), dtype=np.int8)
        sums = 2 * (signs @ gaps) - gaps.sum()
        hits += _reaches(sums, seen, slack, two_sided=two_sided)
    return (hits + 1) / (FLIPS + 1)


def _all_sums(gaps: Array) -> Array:
    """Sums under all 2^n patterns of signs."""
    sums = np.zeros(1)
    for gap in gaps:
        sums = np.concatenate([sums + gap, sums - gap])
    return sums


def _reaches(sums: Array, seen: float, slack: float, *, two_sided: bool) -> int:
    if two_sided:
        return int((np.abs(sums) >= abs(seen) - slack).sum())
    return int((sums >= seen - slack).sum())
