"""Do raters agree beyond chance? Kappa and alpha with intervals bootstrapped over items (or the prompts they share).

Every coefficient is 1 - observed / expected disagreement. Where only one category occurs, nothing was expected to
differ, and the coefficient is undefined: `mean` is None and `undefined` says why.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from numbers import Real
from typing import Literal, TypeAlias

import numpy as np

from equipoise.errors import DataError, SettingError, nearest
from equipoise.statistics.intervals import Array, clopper_pearson
from equipoise.statistics.resampling import by_cluster, redrawn_totals

Rating: TypeAlias = Hashable | None
Ratings: TypeAlias = Sequence[Sequence[Rating]]
Parts: TypeAlias = tuple[Array, Array, Array]
"""Observed, expected and largest conceivable disagreement, each (draws,)."""


@dataclass(frozen=True, slots=True)
class Agreement:
    """An agreement coefficient, with `Estimate`'s field names so that reports treat both alike.

    `n` items came from `n_prompts` prompts (the units of the bootstrap); `undefined` is empty where `mean` is a number.
    """

    mean: float | None
    low: float | None
    high: float | None
    n: int
    n_prompts: int
    kind: Literal["agreement"]
    level: float
    undefined: str


def percent_agreement(
    ratings: Ratings, *, prompts: Sequence[Hashable] | None = None, level: float = 0.95, seed: int = 0
) -> Agreement:
    """Share of pairs of ratings of one item that are equal; `ratings` is items x raters, None or nan is a gap.

    Each rating of an item with m of them counts 1 / (m - 1) per pair, as in Krippendorff's alpha; with a constant
    number of raters that is the plain share.
    """
    tables, kept = _counted(ratings)
    sizes = tables.sum(axis=1)
    apart = (np.square(sizes) - np.square(tables).sum(axis=1)) / (sizes - 1)
    features = np.column_stack([apart, sizes])

    def parts(totals: Array) -> Parts:
        one = np.ones(len(totals))
        return totals[:, 0] / totals[:, 1], one, one

    return _estimate("percent agreement", features, _kept(prompts, kept, len(ratings)), parts, level=level, seed=seed)


def cohen_kappa(
    first: Sequence[Rating],
    second: Sequence[Rating],
    *,
    weights: Literal["linear", "quadratic"] | None = None,
    order: Sequence[Hashable] | None = None,
    prompts: Sequence[Hashable] | None = None,
    level: float = 0.95,
    seed: int = 0,
) -> Agreement:
    """Agreement of two raters beyond chance (Cohen 1960; weighted: Cohen 1968).

    Weights grow with the distance in `order`, the categories from lowest to highest; without it they must be numbers,
    of which only the ranks count.
    """
    if len(first) != len(second):
        raise DataError(f"Cohen's kappa needs both raters on every item, got {len(first)} and {len(second)} ratings")
    if any(map(_gap, [*first, *second])):
        raise DataError("Cohen's kappa needs both raters on every item, got a gap (krippendorff_alpha allows gaps)")
    if weights not in (None, "linear", "quadratic"):
        raise SettingError(f"weights must be None, linear or quadratic, got {weights!r}")
    codes = _codes([*first, *second], order=order, ordered=weights is not None)
    k, n = int(codes.max()) + 1, len(first)
    features = np.zeros((n, k * k))
    features[np.arange(n), codes[:n] * k + codes[n:]] = 1.0
    steps = np.abs(np.subtract.outer(np.arange(k), np.arange(k))) / max(1, k - 1)
    cost = (steps > 0).astype(float) if weights is None else steps if weights == "linear" else np.square(steps)

    def parts(totals: Array) -> Parts:
        table = totals.reshape(-1, k, k) / totals.sum(axis=1)[:, None, None]
        chance = table.sum(axis=2)[:, :, None] * table.sum(axis=1)[:, None, :]
        return (table * cost).sum(axis=(1, 2)), (chance * cost).sum(axis=(1, 2)), np.ones(len(totals))

    return _estimate("Cohen's kappa", features, prompts, parts, level=level, seed=seed)


def fleiss_kappa(
    ratings: Ratings, *, prompts: Sequence[Hashable] | None = None, level: float = 0.95, seed: int = 0
) -> Agreement:
    """Agreement of several raters beyond chance (Fleiss 1971); `ratings` is items x raters without gaps.

    The raters of one item may differ from those of another, only their number may not.
    """
    numbers = {sum(not _gap(rating) for rating in row) for row in ratings}
    if len(numbers) > 1:
        raise DataError(
            f"Fleiss' kappa needs the same number of raters on every item, got {min(numbers)} to {max(numbers)} "
            "(krippendorff_alpha allows gaps)"
        )
    tables, _ = _counted(ratings)
    size = float(tables[0].sum())
    apart = (size * size - np.square(tables).sum(axis=1)) / (size * (size - 1))
    features = np.column_stack([apart, tables])

    def parts(totals: Array) -> Parts:
        items = totals[:, 1:].sum(axis=1) / size
        shares = totals[:, 1:] / (items * size)[:, None]
        return totals[:, 0] / items, 1 - np.square(shares).sum(axis=1), np.ones(len(totals))

    return _estimate("Fleiss' kappa", features, prompts, parts, level=level, seed=seed)


def krippendorff_alpha(
    ratings: Ratings,
    *,
    scale: Literal["nominal", "ordinal", "interval"] = "nominal",
    order: Sequence[Hashable] | None = None,
    prompts: Sequence[Hashable] | None = None,
    level: float = 0.95,
    seed: int = 0,
) -> Agreement:
    """Agreement of any number of raters with gaps (Krippendorff 2011); `ratings` is items x raters, None or nan a gap.

    Items with fewer than two ratings say nothing and are left out of `n`. `order` lists the categories of the ordinal
    scale from lowest to highest; without it they must be numbers, as for the interval scale.
    """
    if scale not in ("nominal", "ordinal", "interval"):
        raise SettingError(f"scale '{scale}' is unknown{nearest(scale, ('nominal', 'ordinal', 'interval'))}")
    if scale == "interval":
        features, kept, parts = _interval_scale(ratings)
    else:
        tables, kept = _counted(ratings, order=order, ordered=scale == "ordinal")
        features, parts = _category_scale(tables, ordinal=scale == "ordinal")
    clusters = _kept(prompts, kept, len(ratings))
    return _estimate("Krippendorff's alpha", features, clusters, parts, level=level, seed=seed)


def _category_scale(tables: Array, *, ordinal: bool) -> tuple[Array, Callable[[Array], Parts]]:
    """Coincidences of categories per item, (I, K * K), and the disagreement in their sums."""
    k = tables.shape[1]
    pairs = tables[:, :, None] * tables[:, None, :] - tables[:, :, None] * np.eye(k)
    features = (pairs / (tables.sum(axis=1) - 1)[:, None, None]).reshape(len(tables), k * k)

    def parts(totals: Array) -> Parts:
        table = totals.reshape(-1, k, k)
        each = table.sum(axis=2)
        n = each.sum(axis=1)
        # Two ranks are as far apart as the ratings between their middles; two names are apart or not.
        middle = np.cumsum(each, axis=1) - each / 2 if ordinal else np.zeros_like(each)
        gap = np.square(middle[:, :, None] - middle[:, None, :]) if ordinal else np.ones_like(table) - np.eye(k)
        observed = (table * gap).sum(axis=(1, 2)) / n
        expected = (each[:, :, None] * each[:, None, :] * gap).sum(axis=(1, 2)) / (n * (n - 1))
        return observed, expected, gap.max(axis=(1, 2))

    return features, parts


def _interval_scale(ratings: Ratings) -> tuple[Array, list[int], Callable[[Array], Parts]]:
    """Moments per item: the disagreement within it, number, sum and sum of squares of its ratings, (I, 4)."""
    kept = [i for i, row in enumerate(ratings) if sum(not _gap(rating) for rating in row) > 1]
    rows = [[_number(rating) for rating in ratings[i] if not _gap(rating)] for i in kept]
    if not rows:
        raise DataError("agreement needs at least one item with two ratings, got none")
    values = np.array([value for row in rows for value in row])
    centre, reach = float(values.mean()), float(np.ptp(values)) ** 2
    features = np.empty((len(rows), 4))
    for i, row in enumerate(rows):
        x = np.array(row) - centre
        within = 2 * (len(x) * float(np.square(x).sum()) - float(x.sum()) ** 2) / (len(x) - 1)
        features[i] = (0.0 if len(set(row)) == 1 else within, len(x), x.sum(), np.square(x).sum())

    def parts(totals: Array) -> Parts:
        n = totals[:, 1]
        expected = 2 * (n * totals[:, 3] - np.square(totals[:, 2])) / (n * (n - 1))
        expected = np.where(expected > 1e-12 * reach, expected, 0.0)  # what rounding leaves of equal numbers
        return totals[:, 0] / n, expected, np.full(len(totals), reach)

    return features, kept, parts


def _estimate(
    name: str,
    features: Array,
    prompts: Sequence[Hashable] | None,
    parts: Callable[[Array], Parts],
    *,
    level: float,
    seed: int,
) -> Agreement:
    """1 - observed / expected with a percentile bootstrap over prompts.

    Draws in which a single category is left are undefined and left out. When no draw differs (all raters agree
    everywhere) the exact bound on the share of prompts that could disagree takes the bootstrap's place.
    """
    if not 0 < level < 1:
        raise SettingError(f"level must lie between 0 and 1, got {level:g}")
    clustered = by_cluster(features, prompts)
    n, clusters = len(features), len(clustered)
    observed, expected, worst = (float(part[0]) for part in parts(clustered.sum(axis=0, keepdims=True)))
    if expected == 0:
        why = f"{name} is undefined: all ratings fall into one category, so no disagreement could be expected"
        return Agreement(None, None, None, n, clusters, "agreement", level, why)
    value = 1 - observed / expected
    low: float | None = None
    high: float | None = None
    if clusters > 1:
        drawn_observed, drawn_expected, _ = parts(redrawn_totals(clustered, seed=seed))
        usable = drawn_expected > 0
        drawn = 1 - drawn_observed[usable] / drawn_expected[usable]
        if np.ptp(drawn_observed[usable]) < 1e-12:
            reach = clopper_pearson(0, clusters, level=level)[1] * worst / expected
            low, high = value - reach, value + reach
        elif usable.mean() >= 0.5:
            drawn = value + (drawn - value) * math.sqrt(clusters / (clusters - 1))
            low, high = (float(x) for x in np.quantile(drawn, ((1 - level) / 2, (1 + level) / 2)))
        if low is not None and high is not None:
            low, high = max(-1.0, low), min(1.0, high)
    return Agreement(value, low, high, n, clusters, "agreement", level, "")


def _counted(
    ratings: Ratings, *, order: Sequence[Hashable] | None = None, ordered: bool = False
) -> tuple[Array, list[int]]:
    """How often each category was given to each item with two ratings or more, (I, K), and which items those are."""
    kept = [i for i, row in enumerate(ratings) if sum(not _gap(rating) for rating in row) > 1]
    if not kept:
        raise DataError("agreement needs at least one item with two ratings, got none")
    rows = [[rating for rating in ratings[i] if not _gap(rating)] for i in kept]
    codes = _codes([rating for row in rows for rating in row], order=order, ordered=ordered)
    tables = np.zeros((len(rows), int(codes.max()) + 1))
    np.add.at(tables, (np.repeat(np.arange(len(rows)), [len(row) for row in rows]), codes), 1.0)
    return tables, kept


def _codes(
    values: Sequence[Rating], *, order: Sequence[Hashable] | None, ordered: bool
) -> np.ndarray[tuple[int], np.dtype[np.intp]]:
    """Place of each value among the categories; only ranks need them sorted."""
    if not values:
        raise DataError("agreement needs ratings, got none")
    known: Sequence[Rating]
    if order is not None:
        known = list(order)
    elif ordered:
        if not all(isinstance(value, Real) for value in values):
            raise SettingError(
                "categories that are not numbers have no order of their own: give order=[lowest, ..., highest]"
            )
        known = sorted(set(values), key=_number)
    else:
        known = list(dict.fromkeys(values))
    place = {value: i for i, value in enumerate(known)}
    for value in values:
        if value not in place:
            raise DataError(f"rating {value!r} is not in order{nearest(str(value), map(str, known))}")
    return np.array([place[value] for value in values], dtype=np.intp)


def _gap(rating: Rating) -> bool:
    return rating is None or (isinstance(rating, Real) and math.isnan(rating))


def _number(rating: Rating) -> float:
    if not isinstance(rating, Real):
        raise DataError(f"the interval scale needs numbers, got {rating!r}")
    return float(rating)


def _kept(prompts: Sequence[Hashable] | None, kept: list[int], n: int) -> list[Hashable] | None:
    if prompts is None:
        return None
    if len(prompts) != n:
        raise DataError(f"every item needs its prompt, got {n} items and {len(prompts)} prompts")
    return [prompts[i] for i in kept]
