"""Intervals and verdicts: pure numpy and scipy, no files and no torch."""

from equipoise.statistics.intervals import (
    Estimate,
    Verdict,
    clopper_pearson,
    decide,
    design_effect,
    difference,
    lower_bound,
    mean,
    rate,
    upper_bound,
)

__all__ = [
    "Estimate",
    "Verdict",
    "clopper_pearson",
    "decide",
    "design_effect",
    "difference",
    "lower_bound",
    "mean",
    "rate",
    "upper_bound",
]
