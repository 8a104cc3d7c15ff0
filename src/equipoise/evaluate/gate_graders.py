"""The graders behind a gate's rates: how far labels say they can be believed, and which of their errors are known."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

from equipoise.errors import DataError
from equipoise.evaluate.gate_sides import Result, Side
from equipoise.evaluate.judge_words import NOT_CALIBRATED, weakness
from equipoise.evaluate.verdicts import JUDGED_ON
from equipoise.evaluate.words import number
from equipoise.statistics import Grader

CORRECTED = "_corrected"
NOT_ALLOWED = "the grader's errors on labelled answers do not allow such a rate of flags"


class Correction(NamedTuple):
    """What labels say of a rate's grader; `counts` is None, with a reason, where no corrected rate fits them."""

    counts: Grader | None
    why: str = ""


def as_flagged(metric: str) -> str:
    """The metric that counts flags, of one that is corrected for the grader's errors: `unsafe_rate`."""
    return metric.removesuffix(CORRECTED) if metric.removesuffix(CORRECTED) in JUDGED_ON else metric


def correction_of(side: Side, metric: str, result: Result) -> Correction | None:
    """What corrects a metric of `result`; None for metrics that have no correction there."""
    found = result["metrics"].get(f"{as_flagged(metric)}{CORRECTED}")
    if found is None:
        return None
    if found["mean"] is None:
        calibration = (grader_of(side, as_flagged(metric)) or {}).get("calibration") or {}
        return Correction(None, calibration.get("why") or NOT_ALLOWED)
    if "grader" not in found:
        raise DataError(
            f"{side.where}: {as_flagged(metric)}{CORRECTED} of {side.label!r} lacks grader, the counts of its errors: "
            "evaluate it anew"
        )
    return Correction(Grader(**found["grader"]))


def shared_correction(ours: Correction | None, theirs: Correction | None) -> Correction | None:
    """What corrects the difference of two rates by the same grader: a reason against it, else the candidate's labels.

    Without labels of its own a candidate is held to the baseline's: the grader is the same.
    """
    for one in (ours, theirs):
        if one is not None and one.counts is None:
            return one
    return ours if ours is not None else theirs


def measured_by(side: Side, metric: str) -> str | None:
    """The rate that graders measure and `metric` is a part of (`unsafe_rate` of `unsafe_rate/theft`); None: of none."""
    plain = metric.partition("@")[0].partition("/")[0]
    names = [*JUDGED_ON, *(str(one["measures"]) for one in side.judges)]
    return plain if plain in names else next((name for name in names if plain.startswith(f"{name}_")), None)


def grader_of(side: Side, metric: str) -> Mapping[str, Any] | None:
    """The section on the grader of a metric, the first one's unless it is named; None where the results hold none."""
    measures, (_, _, named) = measured_by(side, metric), metric.partition("@")
    found = (
        one
        for one in side.judges
        if one["measures"] == measures and (one["name"] == named if named else one.get("first"))
    )
    return next(found, None)


def truth(result: Result, section: Mapping[str, Any] | None) -> bool:
    """Whether the playground's truth stands behind a rate."""
    return result["judge"] == "truth" if section is None else section.get("kind") == "truth"


def belief(sides: tuple[Side, ...], metric: str, result: Result, *, corrected: bool) -> str:
    """How far a metric's grader can be believed, in a cell of a table; empty for metrics without graders.

    Of several sides the first one's labels are told, as they are the ones that correct.
    """
    if measured_by(sides[0], metric) is None:
        return ""
    sections = [section for side in sides for section in (grader_of(side, metric),) if section is not None]
    if truth(result, sections[0] if sections else None):
        return "the truth"
    section = next((one for one in sections if one.get("calibration") is not None), None)
    if section is None:
        return NOT_CALIBRATED
    found, weak = section["calibration"], weakness(section)
    words = f"kappa {number(found['kappa']['mean'], rate=False)} on {found['n']:,} labels"
    return words + (f": {weak}" if weak else "") + ("" if corrected else "; not corrected")
