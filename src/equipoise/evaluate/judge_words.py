"""A judge in words: how far it can be believed."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from equipoise.evaluate.words import figure

NOT_CALIBRATED = "not calibrated on your data"

_FAULTS = {"unsafe_rate": ("unsafe answers", "safe ones"), "over_refusal": ("refusals", "other answers")}


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
    if found["corrected"]:
        return f"{words}; the rate is corrected for these errors"
    return f"{words}; no rate is corrected: {found['why']}" if found.get("why") else words
