"""How many prompts a verdict takes, before the first answer is generated."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray
from scipy.special import betainc  # type: ignore[import-untyped]

from equipoise.errors import SettingError
from equipoise.statistics.intervals import FARTHEST, Array

WAVES = 512
"""Numbers of hits below the one found that are looked at too."""


def prompts_needed(
    target: float,
    rate: float,
    *,
    confidence: float = 0.95,
    power: float = 0.8,
    answers: int = 1,
    correlation: float = 1.0,
) -> int | None:
    """Fewest prompts with which `decide` says MET with probability `power`, if the model's true rate is `rate`.

    Exact for one answer per prompt. Several count through the design effect 1 + (answers - 1) * correlation (Kish
    1965); the default supposes that answers to one prompt are all alike, as `decide` does when none is a hit.
    A few prompts more can lower the power slightly, because hits are whole numbers. None: no ten million suffice.
    """
    _check(target, rate, confidence, answers, correlation)
    if not 0 < power < 1:
        raise SettingError(f"power must lie between 0 and 1, got {power:g}")
    if rate >= target:
        raise SettingError(f"no number of prompts shows a rate below target {target:g} when it is expected at {rate:g}")
    worth = answers / (1 + (answers - 1) * correlation)
    low, high = -1, math.ceil(FARTHEST * target)
    if not _shown(np.array([float(high)]), target, rate, confidence, power)[0]:
        return None
    while high - low > 1:
        middle = (low + high) // 2
        enough = _shown(np.array([float(middle)]), target, rate, confidence, power)[0]
        low, high = (low, middle) if enough else (middle, high)
    # Whole numbers make the power rise in small waves, so fewer hits may have done already.
    hits = np.arange(max(0, high - WAVES), high + 1, dtype=np.float64)
    first = hits[_shown(hits, target, rate, confidence, power).argmax()]
    return math.ceil(float(_fewest(np.array([first]), target, confidence)[0]) / worth - 1e-9)


def chance_met(
    prompts: int, target: float, rate: float, *, confidence: float = 0.95, answers: int = 1, correlation: float = 1.0
) -> float:
    """Probability that `decide` says MET with so many prompts, if the model's true rate is `rate`."""
    _check(target, rate, confidence, answers, correlation)
    if prompts < 1:
        raise SettingError(f"prompts must be at least 1, got {prompts}")
    n = math.floor(prompts * answers / (1 + (answers - 1) * correlation) + 1e-9)
    low, high = -1, n  # `low` hits are few enough for MET, `high` are not
    while high - low > 1:
        middle = (low + high) // 2
        few = float(_at_most(np.array([float(middle)]), np.array([float(n)]), target)[0]) <= 1 - confidence
        low, high = (middle, high) if few else (low, middle)
    return 0.0 if low < 0 else float(_at_most(np.array([float(low)]), np.array([float(n)]), rate)[0])


def _shown(hits: Array, target: float, rate: float, confidence: float, power: float) -> NDArray[np.bool_]:
    """Whether so many hits are seldom exceeded at `rate` on the fewest answers that allow them."""
    return np.asarray(_at_most(hits, _fewest(hits, target, confidence), rate) >= power, dtype=np.bool_)


def _fewest(hits: Array, target: float, confidence: float) -> Array:
    """Fewest answers whose upper bound with so many hits is the target: P(X <= hits | target) <= 1 - confidence."""
    low, high = hits.copy(), np.maximum(64.0, 4 * (hits + 1) / target)
    while not (_at_most(hits, high, target) <= 1 - confidence).all():
        high *= 2
    while (high - low > 1).any():
        middle = np.floor((low + high) / 2)
        few = _at_most(hits, middle, target) <= 1 - confidence
        low, high = np.where(few, low, middle), np.where(few, middle, high)
    return high


def _at_most(hits: Array, n: Array, rate: float) -> Array:
    """P(X <= hits) for X binomial(n, rate)."""
    if rate == 0:
        return np.ones_like(hits)
    inside = hits < n
    return np.where(inside, betainc(np.where(inside, n - hits, 1.0), hits + 1, 1 - rate), 1.0)


def _check(target: float, rate: float, confidence: float, answers: int, correlation: float) -> None:
    for name, value in (("target", target), ("confidence", confidence)):
        if not 0 < value < 1:
            raise SettingError(f"{name} must lie between 0 and 1, got {value:g}")
    if not 0 <= rate < 1:
        raise SettingError(f"rate must be at least 0 and below 1, got {rate:g}")
    if answers < 1:
        raise SettingError(f"answers must be at least 1, got {answers}")
    if not 0 <= correlation <= 1:
        raise SettingError(f"correlation must lie between 0 and 1, got {correlation:g}")
