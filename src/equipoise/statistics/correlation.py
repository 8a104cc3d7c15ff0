"""Rank correlation with an interval that draws whole prompts again."""

from __future__ import annotations

import math
from collections.abc import Hashable, Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

from equipoise.errors import DataError, SettingError
from equipoise.statistics.intervals import DRAWS, Array, Estimate

Codes = NDArray[np.int64]  # items as the places of their values among all values of that side


def spearman(
    first: ArrayLike, second: ArrayLike, prompts: Sequence[Hashable], *, level: float = 0.95, seed: int = 0
) -> Estimate | None:
    """Spearman's rank correlation (1904), ties at their middle rank; None where one side never varies.

    The interval is the percentile bootstrap over prompts on Fisher's scale, widened for few prompts as `mean` is; ranks
    are taken anew in every draw, and draws in which a side does not vary are left out. None for ends where no draw, or
    one prompt alone, could vary.
    """
    x, y = (np.asarray(values, dtype=np.float64) for values in (first, second))
    if x.ndim != 1 or x.shape != y.shape or len(prompts) != len(x):
        raise DataError(f"a correlation needs two values and a prompt each, got {x.shape}, {y.shape}, {len(prompts)}")
    if not (np.isfinite(x).all() and np.isfinite(y).all()):
        raise DataError("a correlation needs finite values, got nan or inf (unscored answers must be left out)")
    if not 0 < level < 1:
        raise SettingError(f"level must lie between 0 and 1, got {level:g}")
    place: dict[Hashable, int] = {}
    cluster = np.array([place.setdefault(name, len(place)) for name in prompts], dtype=np.int64)
    codes = [np.unique(values, return_inverse=True)[1].astype(np.int64) for values in (x, y)]
    value = _weighted(codes[0], codes[1], np.ones(len(x)))
    if value is None:
        return None
    low = high = None
    if len(place) > 1:
        generator = np.random.default_rng(seed)
        drawn = []
        for _ in range(DRAWS):
            times = np.bincount(generator.integers(len(place), size=len(place)), minlength=len(place))
            found = _weighted(codes[0], codes[1], times[cluster].astype(np.float64))
            if found is not None:
                drawn.append(_fisher(found))
        if len(drawn) > DRAWS / 2:
            centre = _fisher(value)
            spread = centre + (np.array(drawn) - centre) * math.sqrt(len(place) / (len(place) - 1))
            low, high = (float(z) for z in np.tanh(np.quantile(spread, ((1 - level) / 2, (1 + level) / 2))))
    return Estimate(value, low, high, len(x), len(place), "correlation", level, float(len(place)))


def _weighted(first: Codes, second: Codes, weights: Array) -> float | None:
    """Pearson's correlation of middle ranks, every item counting `weights` times; None where a side does not vary."""
    total = weights.sum()
    ranks = []
    for codes in (first, second):
        mass = np.bincount(codes, weights=weights)
        middle = (np.cumsum(mass) - mass / 2)[codes]
        ranks.append(middle - (weights * middle).sum() / total)
    a, b = ranks
    scale = math.sqrt(float((weights * a * a).sum()) * float((weights * b * b).sum()))
    return None if scale <= 1e-12 * total**3 else float((weights * a * b).sum()) / scale


def _fisher(value: float) -> float:
    """The scale on which a correlation spreads evenly; a perfect one is held just short of infinity."""
    return math.atanh(max(-1 + 1e-9, min(1 - 1e-9, value)))
