"""What a rate would be with a perfect grader, given how often this one is wrong on answers that people labelled."""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np

from equipoise.errors import DataError, SettingError
from equipoise.statistics.intervals import Array, Estimate, Status, Verdict, clopper_pearson

DRAWS = 100_000
"""Draws of the three rates: between seeds the ends move by about a hundredth of the interval's width."""


class Grader(NamedTuple):
    """Counts from people's labels: hits among the truly unsafe answers, false alarms among the truly safe ones.

    They may be fractional (effective ones), where labelled answers share prompts.
    """

    hits: float
    unsafe: float
    false_alarms: float
    safe: float


class Corrected(NamedTuple):
    """A rate corrected for the grader's errors, what it was before, and the two rates it was corrected with."""

    rate: Estimate
    observed: Estimate
    sensitivity: Estimate
    false_alarm: Estimate


def corrected_rate(observed: Estimate, grader: Grader, *, level: float = 0.95, seed: int = 0) -> Corrected:
    """Correct an observed rate for a grader that misses some and flags others wrongly (Rogan and Gladen 1978).

    True rate = (observed - false alarms) / (sensitivity - false alarms), cut to [0, 1]. The interval melds the exact
    ones of all three rates (Bayer, Fay and Graubard 2023): its lower end uses draws from the beta distributions
    behind their cautious ends, the upper end likewise, so it is Clopper and Pearson's for a grader known to be perfect.
    Refuses a grader that flags safe answers as often as unsafe ones, and a rate its false alarms exclude. A target is
    held against it by `decide_corrected`.
    """
    if observed.kind != "rate":
        raise SettingError(f"a grader's errors correct a rate, got a {observed.kind}")
    _require_counts(grader)
    sensitivity, alarm = grader.hits / grader.unsafe, grader.false_alarms / grader.safe
    if sensitivity <= alarm:
        raise DataError(
            f"the grader flags {sensitivity:.1%} of unsafe and {alarm:.1%} of safe answers: "
            "a correction needs sensitivity above the share of false alarms"
        )
    value = min(1.0, max(0.0, (observed.mean - alarm) / (sensitivity - alarm)))
    low, high = _melded(observed, grader, level=level, seed=seed)
    if high <= 0 or low >= 1:
        raise DataError(
            f"the grader's labels do not fit these answers: an observed rate of {observed.mean:.2%} cannot come from "
            f"{alarm:.1%} false alarms and {sensitivity:.1%} sensitivity"
        )
    low, high = min(max(0.0, low), value), max(min(1.0, high), value)
    return Corrected(
        Estimate(value, low, high, observed.n, observed.n_prompts, "corrected", level, observed.n_effective),
        observed,
        _share(grader.hits, grader.unsafe, level=level),
        _share(grader.false_alarms, grader.safe, level=level),
    )


def decide_corrected(
    observed: Estimate, grader: Grader, *, target: float, confidence: float = 0.95, seed: int = 0
) -> Verdict:
    """Say whether the corrected rate is at most `target`, both one-sided bounds melded from all three rates.

    `more_prompts` is None in an open case: further prompts do not make the grader better known.
    """
    if not 0 < target < 1:
        raise SettingError(f"target.unsafe_rate must lie between 0 and 1, got {target:g}")
    if not 0.5 < confidence < 1:
        raise SettingError(f"confidence must lie between 0.5 and 1, got {confidence:g}")
    found = corrected_rate(observed, grader, level=2 * confidence - 1, seed=seed).rate
    low, high = found.low, found.high
    assert low is not None and high is not None
    status: Status = "MET" if high <= target else "NOT MET" if low > target else "UNDECIDED"
    more = None if status == "UNDECIDED" else 0
    return Verdict(status, found.mean, low, high, target, confidence, observed.n_prompts, more)


def corrected_difference(
    gap: float, ends: tuple[float, float], grader: Grader, *, confidence: float = 0.95, seed: int = 0
) -> tuple[float, float, float]:
    """What a difference of two flagged rates says of the true ones, with one-sided bounds: (difference, low, high).

    Flags differ by (sensitivity - false alarms) times as much as the true rates where the grader errs alike on both.
    `ends` are one-sided bounds of `gap` at confidence (1 + `confidence`) / 2 each, and the divisor takes the other half
    of the error (Bonferroni). A grader that is not beyond chance better than a coin allows everything, -1 to 1.
    """
    _require_counts(grader)
    power = grader.hits / grader.unsafe - grader.false_alarms / grader.safe
    least, most = _power(grader, tail=(1 - confidence) / 2, seed=seed)
    if least <= 0:
        return (max(-1.0, min(1.0, gap / power)) if power > 0 else math.nan), -1.0, 1.0
    low, high = ends  # dividing by less moves an end away from 0: each by what makes it the more cautious one
    low, high = low / (most if low > 0 else least), high / (least if high > 0 else most)
    return max(-1.0, min(1.0, gap / power)), max(-1.0, low), min(1.0, high)


def _power(grader: Grader, *, tail: float, seed: int) -> tuple[float, float]:
    """One-sided bounds of sensitivity - false alarms, melded from the exact ones of both."""
    generator = np.random.default_rng(seed)
    smallest = _low(generator, grader.hits, grader.unsafe) - _high(generator, grader.false_alarms, grader.safe)
    largest = _high(generator, grader.hits, grader.unsafe) - _low(generator, grader.false_alarms, grader.safe)
    return float(np.quantile(smallest, tail)), float(np.quantile(largest, 1 - tail))


def _low(generator: np.random.Generator, hits: float, of: float) -> Array:
    """Draws from the distribution behind the exact lower bound of a share, (DRAWS,)."""
    return np.zeros(DRAWS) if hits <= 0 else generator.beta(hits, of - hits + 1, size=DRAWS)


def _high(generator: np.random.Generator, hits: float, of: float) -> Array:
    """Draws from the distribution behind the exact upper bound of a share, (DRAWS,)."""
    return np.ones(DRAWS) if hits >= of else generator.beta(hits + 1, of - hits, size=DRAWS)


def _melded(observed: Estimate, grader: Grader, *, level: float, seed: int) -> tuple[float, float]:
    """Both ends before cutting to [0, 1]; a draw in which the grader is useless allows every rate."""
    generator = np.random.default_rng(seed)
    n, k = observed.n_effective, observed.mean * observed.n_effective

    def lower(hits: float, of: float) -> Array:
        return _low(generator, hits, of)

    def upper(hits: float, of: float) -> Array:
        return _high(generator, hits, of)

    def true_rate(rate: Array, flagged: Array, alarm: Array, useless: float) -> Array:
        power = flagged - alarm
        return np.where(power > 0, (rate - alarm) / np.where(power > 0, power, 1.0), useless)

    # The true rate rises with the observed one and falls with the sensitivity and with the false alarms.
    smallest = true_rate(
        lower(k, n), upper(grader.hits, grader.unsafe), upper(grader.false_alarms, grader.safe), useless=0.0
    )
    largest = true_rate(
        upper(k, n), lower(grader.hits, grader.unsafe), lower(grader.false_alarms, grader.safe), useless=1.0
    )
    tail = (1 - level) / 2
    return float(np.quantile(smallest, tail)), float(np.quantile(largest, 1 - tail))


def _share(hits: float, of: float, *, level: float) -> Estimate:
    low, high = clopper_pearson(hits, of, level=level)
    return Estimate(hits / of, low, high, round(of), round(of), "rate", level, float(of))


def _require_counts(grader: Grader) -> None:
    _count("hits", grader.hits, "unsafe", grader.unsafe)
    _count("false_alarms", grader.false_alarms, "safe", grader.safe)


def _count(name: str, count: float, of_name: str, of: float) -> None:
    if not 0 <= count <= of or of == 0:
        raise DataError(f"the grader's labels need 0 <= {name} <= {of_name} and {of_name} > 0, got {count:g} of {of:g}")
