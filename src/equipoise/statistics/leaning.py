"""Does a judge of pairs lean on something that should not count: the place of an answer, or a trait of it?

Half is fair. 0.5 + b / 2 is what a judge shows who decides by the trait alone in a share b of cases, and fairly in the
others.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Sequence
from typing import NamedTuple

import numpy as np
from scipy.special import stdtr, stdtrit  # type: ignore[import-untyped]

from equipoise.errors import DataError
from equipoise.statistics.claims import paired_p
from equipoise.statistics.intervals import Array, Estimate, clopper_pearson, prompt_means
from equipoise.statistics.resampling import by_cluster, redrawn_totals
from equipoise.statistics.wins import share_of_prompts

FAIR = 0.5
LEAST = 5
"""Fewest prompts on either side: below that nothing can be said about a trait."""


class Leaning(NamedTuple):
    """How often what should not count wins (fair: 0.5), and the two-sided p-value of that being fair."""

    estimate: Estimate
    p: float


def place(first: Sequence[float], prompts: Sequence[Hashable], *, level: float = 0.95, seed: int = 0) -> Leaning | None:
    """How often the answer shown first wins; `first` is its share in pairs shown in both orders, ties one half.

    A judge who goes by the answers gives every pair 0.5 on average, whichever is the better one, so that flipping the
    signs of what prompts differ from it is an exact test. None without a pair.
    """
    if not first:
        return None
    by_prompt = prompt_means(first, prompts)
    names = list(by_prompt)
    estimate = share_of_prompts(list(by_prompt.values()), level=level, seed=seed)
    return Leaning(estimate, paired_p(list(first), prompts, [FAIR] * len(names), names, alternative="two-sided"))


def trait(
    won: Sequence[float],
    has: Sequence[bool],
    prompts: Sequence[Hashable],
    *,
    groups: Sequence[Hashable] | None = None,
    level: float = 0.95,
    seed: int = 0,
) -> Leaning | None:
    """How often the answer with a trait wins, cases where it deserves to and where it does not counting alike.

    Of each pair one answer is the one asked about (the right one, or a model's): `won` is its share, `has` whether it
    has the trait, which the other one has where it has not. A judge who errs, but as often with the trait as without,
    shows 0.5, however unevenly the trait and the better answers go together. `groups` (models) are compared within
    themselves and weigh as in a regression with an effect of each. Each end of the interval is the wider of two: the
    percentile of draws of whole prompts, and Student's with their standard error, which is the test as well. None
    where fewer than `LEAST` prompts are on either side.
    """
    own, flags = np.asarray(won, dtype=np.float64), np.asarray(has, dtype=np.bool_)
    if not len(own) == len(flags) == len(prompts):
        raise DataError(f"every pair needs its trait and prompt, got {len(own)}, {len(flags)} and {len(prompts)}")
    names = [""] * len(own) if groups is None else list(groups)
    scarce = min(len({prompt for prompt, flag in zip(prompts, flags, strict=True) if flag == side}) for side in (0, 1))
    columns = _columns(own, flags, names)
    clustered = by_cluster(columns, prompts) if len(own) else columns
    centre = float(_balanced(clustered.sum(axis=0, keepdims=True))[0])
    if scarce < LEAST or math.isnan(centre):
        return None
    drawn = _balanced(redrawn_totals(clustered, seed=seed))
    drawn = drawn[~np.isnan(drawn)]
    clusters = len(clustered)
    error = float(drawn.std()) * math.sqrt(clusters / (clusters - 1))
    if error < 1e-12:
        reach = clopper_pearson(0, scarce, level=level)[1]
        low, high = centre - reach, centre + reach
        p = 1.0 if abs(centre - FAIR) < 1e-12 else min(1.0, 2 * 0.5**scarce)
    else:
        freedom = scarce - 1
        widened = centre + (drawn - centre) * math.sqrt(clusters / (clusters - 1))
        ends = np.quantile(widened, ((1 - level) / 2, (1 + level) / 2))
        reach = float(stdtrit(freedom, (1 + level) / 2)) * error
        low, high = min(float(ends[0]), centre - reach), max(float(ends[1]), centre + reach)
        p = 2 * float(stdtr(freedom, -abs(centre - FAIR) / error))
    estimate = Estimate(centre, max(0.0, low), min(1.0, high), len(own), clusters, "share", level, float(clusters))
    return Leaning(estimate, p)


def _columns(own: Array, flags: np.ndarray[tuple[int], np.dtype[np.bool_]], groups: Sequence[Hashable]) -> Array:
    """Per pair: won with the trait, pairs with it, won without, pairs without; four columns a group, (N, 4 G)."""
    order = {name: at for at, name in enumerate(dict.fromkeys(groups))}
    columns = np.zeros((len(own), 4 * max(1, len(order))))
    for row, (value, flag, name) in enumerate(zip(own, flags, groups, strict=True)):
        at = 4 * order[name] + (0 if flag else 2)
        columns[row, at : at + 2] = value, 1.0
    return columns


def _balanced(totals: Array) -> Array:
    """Half and half the difference that the trait makes to winning, (draws,); nan where no group has both sides."""
    won, having, won_without, lacking = (totals[:, at::4] for at in range(4))
    both = having + lacking
    weight = np.divide(having * lacking, both, out=np.zeros_like(both), where=both > 0)
    gap = won / np.maximum(having, 1.0) - won_without / np.maximum(lacking, 1.0)
    total = weight.sum(axis=1)
    shift: Array = np.full(len(totals), np.nan)
    np.divide((gap * weight).sum(axis=1), 2 * total, out=shift, where=total > 0)
    return FAIR + shift
