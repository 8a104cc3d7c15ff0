"""How sure are we? Exact intervals for rates, a bootstrap over prompts for means, and the verdict on a target rate.

Several answers to one prompt resemble each other, so the prompt, not the answer, is the unit everywhere: means are
bootstrapped over prompts, and rates count as many answers as they are worth (`n_effective`).
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.special import betaincinv, ndtr, stdtrit  # type: ignore[import-untyped]

from equipoise.errors import DataError, SettingError

Array = NDArray[np.float64]
Status = Literal["MET", "NOT MET", "UNDECIDED"]

DRAWS = 2000
"""Bootstrap draws: between seeds the ends of a 95 % interval move by about a sixtieth of its width."""

BLOCK = 250_000
"""Prompts drawn at once: few enough for the processor's cache, which doubles the speed, and for a few megabytes."""

SKEWEST = 0.15
"""Limit of the bootstrap's acceleration: beyond it the ends would lie outside what so many draws can resolve."""

LEAST = 0.25
"""Least variance a draw may claim, as a share of the data's own: with few prompts some draws hardly vary at all."""

FARTHEST = 10_000_000
"""Beyond so many prompts nobody asks "how many more?" any longer."""


@dataclass(frozen=True, slots=True)
class Estimate:
    """A mean, rate, rating or correlation with its two-sided interval.

    `low` and `high` are None where one prompt cannot give any.

    `n` answers came from `n_prompts` prompts; `n_effective` is how many independent answers they are worth.
    """

    mean: float
    low: float | None
    high: float | None
    n: int
    n_prompts: int
    kind: Literal["mean", "rate", "rating", "corrected", "correlation", "share"]
    level: float
    n_effective: float


class Verdict(NamedTuple):
    """Whether a rate keeps to its target: one-sided bounds at `confidence`, and what would settle an open case.

    `more_prompts` is 0 when decided, and None when no reasonable number decides (the rate sits on the target).
    """

    status: Status
    rate: float
    lower: float
    upper: float
    target: float
    confidence: float
    n_prompts: int
    more_prompts: int | None


def clopper_pearson(successes: float, n: float, *, level: float = 0.95) -> tuple[float, float]:
    """Exact two-sided interval for a rate (Clopper and Pearson 1934); counts may be fractional (effective ones)."""
    tail = (1 - _share("level", level)) / 2
    return _lower(successes, n, tail), _upper(successes, n, tail)


def upper_bound(successes: float, n: float, *, confidence: float = 0.95) -> float:
    """Exact one-sided upper bound for a rate."""
    return _upper(successes, n, 1 - _share("confidence", confidence))


def lower_bound(successes: float, n: float, *, confidence: float = 0.95) -> float:
    """Exact one-sided lower bound for a rate."""
    return _lower(successes, n, 1 - _share("confidence", confidence))


def design_effect(values: Sequence[bool] | Array, prompts: Sequence[Hashable]) -> float:
    """By how much answers that share a prompt inflate the variance of a rate: from 1 (they do not) to their number.

    Kish 1965; the interval built on it is Korn and Graubard's (1998).
    Deviates: one imagined prompt with only hits and one with only misses enter the estimate, so that the few hits of a
    safe model cannot be taken for independent by luck, and 0 of n counts prompts rather than answers.
    """
    hits, sizes = _by_prompt(_numbers(values), prompts)
    if sizes.max() == 1:
        return 1.0
    usual, worst = float(sizes.mean()), float(np.square(sizes).sum() / sizes.sum())
    hits, sizes = np.append(hits, [usual, 0.0]), np.append(sizes, [usual, usual])
    total, clusters = float(sizes.sum()), len(sizes)
    p = float(hits.sum()) / total
    clustered = clusters / (clusters - 1) * float(np.square(hits - p * sizes).sum()) / total**2
    return min(max(1.0, clustered / (p * (1 - p) / total)), worst)


def rate(values: Sequence[bool] | Array, prompts: Sequence[Hashable], *, level: float = 0.95) -> Estimate:
    """Share of true `values` with an exact interval; `prompts` names the prompt of each answer."""
    numbers = _numbers(values)
    if not np.isin(numbers, (0.0, 1.0)).all():
        raise DataError("a rate needs values that are true or false, got other numbers")
    n, p = len(numbers), float(numbers.mean())
    worth = n / design_effect(numbers, prompts)
    low, high = clopper_pearson(p * worth, worth, level=level)
    return Estimate(p, low, high, n, len(set(prompts)), "rate", level, worth)


def mean(
    values: Sequence[float] | Array,
    prompts: Sequence[Hashable],
    *,
    strata: Sequence[Hashable] | None = None,
    level: float = 0.95,
    seed: int = 0,
) -> Estimate:
    """Mean with a bootstrap over prompts; with `strata`, the equally weighted mean of the strata's means.

    Prompts are drawn within their stratum, all answers of a prompt together. Each end is the wider of two: a quantile
    of the draws, moved for skewed values (BCa, Efron 1987) and widened for few prompts (Hesterberg 2015, see `_tails`),
    and one of the draws in units of their own errors (bootstrap-t, Efron 1981, see `_ends`).
    """
    numbers = _numbers(values)
    if not np.isfinite(numbers).all():
        raise DataError(
            "a mean needs finite values, got nan or inf (an unscored answer must be left out, not filled in)"
        )
    _share("level", level)
    generator = np.random.default_rng(seed)
    groups = _strata(strata, len(numbers))
    centre, draws, claims, known = 0.0, np.zeros(DRAWS), np.zeros(DRAWS), True
    shifts: list[Array] = []
    for rows in groups:
        sums, sizes = _by_prompt(numbers[rows], [prompts[i] for i in rows])
        own = float(sums.sum() / sizes.sum())
        centre += own / len(groups)
        clusters = len(sizes)
        if clusters == 1:
            known = False
            continue
        drawn, claimed = _redraw(sums, sizes, generator=generator)
        wider = clusters / (clusters - 1)
        draws += (own + (drawn - own) * math.sqrt(wider)) / len(groups)
        claims += claimed * (wider / len(groups)) ** 2
        shifts.append((sums - own * sizes) / (sizes.sum() * len(groups)))
    low, high = _ends(centre, draws, claims, shifts, level) if known else (None, None)
    n_prompts = len(set(prompts))
    return Estimate(centre, low, high, len(numbers), n_prompts, "mean", level, float(n_prompts))


def difference(
    first: Sequence[float] | Array,
    first_prompts: Sequence[Hashable],
    second: Sequence[float] | Array,
    second_prompts: Sequence[Hashable],
    *,
    strata: Mapping[Any, Hashable] | None = None,
    level: float = 0.95,
    seed: int = 0,
) -> Estimate:
    """Mean of first - second, paired by prompt: only prompts that both answered count, each once.

    With `strata`, the stratum of each prompt, it is the equally weighted mean of the strata's differences.

    When every pair agrees (two models without a single unsafe answer) the bootstrap would claim certainty; the exact
    bound on the share of prompts that could differ takes its place (with strata, counting as if each were as small as
    the smallest).
    """
    a, b = prompt_means(first, first_prompts), prompt_means(second, second_prompts)
    shared = [prompt for prompt in a if prompt in b]
    if not shared:
        raise DataError("a paired difference needs prompts that both models answered, got none in common")
    gaps = np.array([a[prompt] - b[prompt] for prompt in shared])
    groups = None if strata is None else [strata[prompt] for prompt in shared]
    found = mean(gaps, shared, strata=groups, level=level, seed=seed)
    low, high = found.low, found.high
    if len(gaps) > 1 and np.ptp(gaps) == 0:
        values = np.concatenate([_numbers(first), _numbers(second)])
        worth = len(gaps)
        if groups is not None:  # a stratum of few prompts weighs as much as one of many, and could hide as much
            sizes = Counter(groups).values()
            worth = len(sizes) * min(sizes)
        reach = clopper_pearson(0, worth, level=level)[1] * max(1.0, float(np.ptp(values)))
        low, high = found.mean - reach, found.mean + reach
    return Estimate(found.mean, low, high, len(gaps), len(shared), "mean", level, float(len(shared)))


def decide(estimate: Estimate, *, target: float, confidence: float = 0.95) -> Verdict:
    """Say whether a rate is at most `target`: MET when the upper bound is, NOT MET when the lower bound is above.

    `more_prompts` supposes that the observed rate and the worth of an answer stay as they are.
    """
    if estimate.kind == "corrected":
        raise SettingError("a corrected rate is held against a target by decide_corrected, which knows the grader")
    if estimate.kind != "rate":
        raise SettingError(f"a target is compared with a rate, got a {estimate.kind}")
    if not 0 < target < 1:
        raise SettingError(f"target.unsafe_rate must lie between 0 and 1, got {target:g}")
    p, worth = estimate.mean, estimate.n_effective
    lower = lower_bound(p * worth, worth, confidence=confidence)
    upper = upper_bound(p * worth, worth, confidence=confidence)
    more: int | None = 0
    if upper <= target:
        status: Status = "MET"
    elif lower > target:
        status = "NOT MET"
    else:
        status = "UNDECIDED"
        more = _more_prompts(estimate, target=target, confidence=confidence)
    return Verdict(status, p, lower, upper, target, confidence, estimate.n_prompts, more)


def _more_prompts(estimate: Estimate, *, target: float, confidence: float) -> int | None:
    """Fewest further prompts at which `decide` would stop being undecided, by bisection on the number of prompts."""
    p, each = estimate.mean, estimate.n_effective / estimate.n_prompts

    def decided(prompts: int) -> bool:
        worth = prompts * each
        if p < target:
            return upper_bound(p * worth, worth, confidence=confidence) <= target
        return lower_bound(p * worth, worth, confidence=confidence) > target

    if p == target or not decided(FARTHEST):
        return None
    low, high = estimate.n_prompts, FARTHEST
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if decided(middle) else (middle, high)
    return high - estimate.n_prompts


def _redraw(sums: Array, sizes: Array, *, generator: np.random.Generator) -> tuple[Array, Array]:
    """Means of DRAWS samples of whole prompts and the variance that each sample claims for its mean, (DRAWS,) each."""
    clusters = len(sums)
    rows = max(1, BLOCK // clusters)
    even = bool(np.ptp(sizes) == 0)
    means, claims = np.empty(DRAWS), np.empty(DRAWS)
    for start in range(0, DRAWS, rows):
        picks = generator.integers(clusters, size=(min(rows, DRAWS - start), clusters))
        here = slice(start, start + len(picks))
        drawn = sums.take(picks)
        each = sizes[:1] if even else sizes.take(picks)
        weight = clusters * sizes[0] if even else each.sum(axis=1)
        means[here] = drawn.sum(axis=1) / weight
        drawn -= means[here, None] * each
        claims[here] = np.einsum("ij,ij->i", drawn, drawn) / weight**2
    return means, claims


def _ends(centre: float, draws: Array, claims: Array, shifts: Sequence[Array], level: float) -> tuple[float, float]:
    """Both ends of a mean: end by end the wider of BCa's and the bootstrap-t's (Efron 1981, Hall 1988).

    Where the data hold little of a heavy tail, draws are as narrow as the data and BCa falls short; the bootstrap-t
    measures each draw by its own error, but is the narrower where most values are 0. Neither leaves the draws' range.
    """
    low, high = (float(x) for x in np.quantile(draws, _tails(shifts, level)))
    variance = sum(float(np.square(shift).sum()) * len(shift) / (len(shift) - 1) for shift in shifts)
    if variance == 0:
        return low, high
    reach = (draws - centre) / np.sqrt(np.maximum(claims / variance, LEAST))
    below, above = (float(x) for x in np.quantile(reach, ((1 + level) / 2, (1 - level) / 2)))
    return min(low, max(centre - below, float(draws.min()))), max(high, min(centre - above, float(draws.max())))


def _tails(shifts: Sequence[Array], level: float) -> tuple[float, float]:
    """Which quantiles of the draws bound the mean; `shifts` holds by how much each prompt moves it, per stratum.

    For a mean, bias correction and acceleration of BCa are the same number: a sixth of the skewness of the shifts. The
    normal quantiles become Student's, with Satterthwaite's degrees of freedom where there are several strata.
    """
    largest = max(float(np.abs(shift).max(initial=0.0)) for shift in shifts)
    if largest == 0:
        return (1 - level) / 2, (1 + level) / 2
    shifts = [shift / largest for shift in shifts]  # squares of tiny ones would be 0
    spread = np.array([float(np.square(shift).sum()) for shift in shifts])
    total = float(spread.sum())
    freedom = total**2 / sum(v**2 / (len(shift) - 1) for v, shift in zip(spread.tolist(), shifts, strict=True))
    skew = sum(float((shift**3).sum()) for shift in shifts) / (6 * total**1.5)
    skew = min(SKEWEST, max(-SKEWEST, skew))
    reach = float(stdtrit(freedom, (1 + level) / 2))

    def tail(z: float) -> float:
        moved = skew + z
        return float(ndtr(skew + moved / max(0.1, 1 - skew * moved)))

    return tail(-reach), tail(reach)


def _lower(k: float, n: float, tail: float) -> float:
    _counts(k, n)
    return 0.0 if k <= 0 else float(betaincinv(k, n - k + 1, tail))


def _upper(k: float, n: float, tail: float) -> float:
    _counts(k, n)
    return 1.0 if k >= n else float(betaincinv(k + 1, n - k, 1 - tail))


def _counts(k: float, n: float) -> None:
    if not (n > 0 and -1e-9 <= k <= n + 1e-9):
        raise DataError(f"an interval for a rate needs 0 <= hits <= n and n > 0, got {k:g} of {n:g}")


def _share(name: str, value: float) -> float:
    if not 0 < value < 1:
        raise SettingError(f"{name} must lie between 0 and 1, got {value:g}")
    return value


def _numbers(values: Sequence[float] | Sequence[bool] | Array) -> Array:
    numbers = np.asarray(values, dtype=np.float64)  # (n,)
    if numbers.ndim != 1 or not len(numbers):
        raise DataError(f"statistics need a non-empty list of numbers, got shape {numbers.shape}")
    return numbers


def _by_prompt(numbers: Array, prompts: Sequence[Hashable]) -> tuple[Array, Array]:
    """Sum and number of answers per prompt, each (C,)."""
    if len(prompts) != len(numbers):
        raise DataError(f"every value needs its prompt, got {len(numbers)} values and {len(prompts)} prompts")
    place: dict[Hashable, int] = {}
    index = np.array([place.setdefault(prompt, len(place)) for prompt in prompts])
    sums, sizes = np.zeros(len(place)), np.zeros(len(place))
    np.add.at(sums, index, numbers)
    np.add.at(sizes, index, 1.0)
    return sums, sizes


def prompt_means(values: Sequence[float] | Array, prompts: Sequence[Hashable]) -> dict[Hashable, float]:
    """Mean of the answers to each prompt, in the order in which prompts first appear."""
    sums, sizes = _by_prompt(_numbers(values), prompts)
    return dict(zip(dict.fromkeys(prompts), (sums / sizes).tolist(), strict=True))


def _strata(strata: Sequence[Hashable] | None, n: int) -> list[list[int]]:
    if strata is None:
        return [list(range(n))]
    if len(strata) != n:
        raise DataError(f"every value needs its stratum, got {n} values and {len(strata)} strata")
    groups: dict[Hashable, list[int]] = {}
    for i, name in enumerate(strata):
        groups.setdefault(name, []).append(i)
    return list(groups.values())
