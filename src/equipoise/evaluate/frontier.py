"""Which points are worth looking at, and which setting is taken: chosen on select, reported on verdict."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from equipoise.errors import DataError
from equipoise.statistics import Estimate, decide

Result = Mapping[str, Any]


class Choice(NamedTuple):
    """Index of the chosen result and the reason, a sentence for the page."""

    index: int
    reason: str


def estimate_of(result: Result, name: str) -> Estimate | None:
    """Return a stored metric as an Estimate, or None when it is missing or nothing was scored.

    A metric written without `n_effective` counts its prompts, the cautious reading.
    """
    metric = result["metrics"].get(name)
    if metric is None or metric["mean"] is None:
        return None
    return Estimate(
        mean=metric["mean"],
        low=metric["low"],
        high=metric["high"],
        n=metric["n"],
        n_prompts=metric["n_prompts"],
        kind=metric["kind"],
        level=metric["level"],
        n_effective=metric.get("n_effective", metric["n_prompts"]),
    )


def point(result: Result) -> tuple[float, float] | None:
    """(unsafe rate, reward) of a result, or None when either was not scored."""
    unsafe, reward = estimate_of(result, "unsafe_rate"), estimate_of(result, "reward")
    return None if unsafe is None or reward is None else (unsafe.mean, reward.mean)


def non_dominated(results: Sequence[Result]) -> list[int]:
    """Indices, from safest on, of results that no other beats: none is as safe and as helpful and better in one."""
    points = {i: p for i, result in enumerate(results) if (p := point(result)) is not None}
    kept = [
        i
        for i, (unsafe, reward) in points.items()
        if not any(u <= unsafe and r >= reward and (u < unsafe or r > reward) for u, r in points.values())
    ]
    return sorted(kept, key=lambda i: points[i])


def choose(results: Sequence[Result], *, target: float, confidence: float = 0.95) -> Choice:
    """Choose a setting on the select split: the most helpful one whose upper bound keeps to the target.

    When select is too small for any bound to keep to it, the most helpful one whose observed rate does; failing that,
    the safest one.
    """
    _same_split(results, "select")
    scored = [(i, *p) for i, result in enumerate(results) if (p := point(result)) is not None]
    if not scored:
        raise DataError("no setting can be chosen: none has both unsafe_rate and reward on the select prompts")
    sure = [entry for entry in scored if _keeps(results[entry[0]], target=target, confidence=confidence)]
    near = [entry for entry in scored if entry[1] <= target]
    if sure:
        reason = f"the most helpful setting whose {confidence:.0%} bound on select is at most {target:.1%}"
        return Choice(_most_helpful(sure), reason)
    if near:
        reason = f"the most helpful setting whose observed rate on select is at most {target:.1%} (too few to bound it)"
        return Choice(_most_helpful(near), reason)
    safest = min(scored, key=lambda entry: (entry[1], -entry[2]))
    return Choice(safest[0], f"the safest setting, as none was unsafe in at most {target:.1%} of answers on select")


def verdict_results(
    results: Sequence[Result], *, target: float | None = None, confidence: float = 0.95
) -> tuple[list[dict[str, Any]], str | None]:
    """Return the verdict results, the one chosen on select marked, and why it was (None without target or select)."""
    chosen_on = [result for result in results if result["split"] == "select"]
    shown = [
        {key: result[key] for key in result if key != "chosen"} for result in results if result["split"] == "verdict"
    ]
    if not shown:
        raise DataError("there is nothing to report: no result comes from the verdict prompts")
    if target is None or not chosen_on:
        return shown, None
    choice = choose(chosen_on, target=target, confidence=confidence)
    wanted = identity(chosen_on[choice.index])
    matches = [result for result in shown if identity(result) == wanted]
    if len(matches) != 1:
        raise DataError(f"the setting chosen on select ({wanted}) has {len(matches)} results on verdict, expected 1")
    matches[0]["chosen"] = True
    return shown, choice.reason


def require_verdict(results: Sequence[Result]) -> None:
    """Refuse figures from the prompts that chose the setting: what is printed comes from verdict alone."""
    _same_split(results, "verdict")


def identity(result: Result) -> str:
    """What makes a result the same on select and on verdict: method, setting, seed and model."""
    return json.dumps([result["method"], result["setting"], result["seed"], result["model"]], sort_keys=True)


def _same_split(results: Sequence[Result], split: str) -> None:
    for result in results:
        if result["split"] != split:
            raise DataError(f"result {result['label']!r} comes from split {result['split']!r}, expected {split!r} here")


def _keeps(result: Result, *, target: float, confidence: float) -> bool:
    unsafe = estimate_of(result, "unsafe_rate")
    return unsafe is not None and decide(unsafe, target=target, confidence=confidence).status == "MET"


def _most_helpful(entries: Sequence[tuple[int, float, float]]) -> int:
    return max(entries, key=lambda entry: (entry[2], -entry[1]))[0]
