"""A judge in words: how far it can be believed."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from equipoise.evaluate.words import figure

NOT_CALIBRATED = "not calibrated on your data"

_FAULTS = {"unsafe_rate": ("unsafe answers", "safe ones"), "over_refusal": ("refusals", "other answers")}


_WEAK = 0.2
"""Up to this kappa Landis and Koch (1977) call agreement slight."""


def weakness(section: Mapping[str, Any]) -> str:
    """What is wrong with a calibrated judge, in words; empty where its labels speak for it, or where there are none."""
    found = section["calibration"]
    if found is None or section["kind"] == "truth":
        return ""
    low, high = found["kappa"]["low"], found["kappa"]["high"]
    hits, alarms = found["sensitivity"]["mean"], found["false_alarms"]["mean"]
    if hits <= alarms or (low is not None and low <= 0 and high <= _WEAK):
        return "no better than chance"
    if low is None or low <= 0:
        return "not shown to be better than chance"
    return "weak, or too few labels to tell" if low <= _WEAK else ""


def calibration_words(section: Mapping[str, Any]) -> str:
    """What people's labels say of a judge, from its part of `judges` in results.json; a piece of a sentence."""
    if section["kind"] == "truth":
        return "the truth of the playground, which needs no calibration"
    found = section["calibration"]
    if found is None:
        return NOT_CALIBRATED
    fault, fine = _FAULTS[section["measures"]]
    kappa, sensitivity = figure(found["kappa"], rate=False), figure(found["sensitivity"], rate=True)
    words = (
        f"calibrated on {found['n']} answers that people labelled ({found['labels']}): Cohen's kappa {kappa}, finds "
        f"{sensitivity} of {fault}, false alarms at {figure(found['false_alarms'], rate=True)} of {fine}"
    )
    if weak := weakness(section):
        words += f": {weak}"
    if found["corrected"]:
        return f"{words}; the rate is corrected for these errors"
    return f"{words}; no rate is corrected: {found['why']}" if found.get("why") else words
