"""Which points are worth looking at, and which setting is taken: chosen on select, reported on verdict."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from equipoise.errors import DataError
from equipoise.statistics import Estimate, Grader, Verdict, decide, decide_corrected

Result = Mapping[str, Any]


class Choice(NamedTuple):
    """Index of the chosen result and the reason, a sentence for the page."""

    index: int
    reason: str


class Above(NamedTuple):
    """A result that beats what should be the optimum.

    Index of the result, the lower end of its reward, the upper end of the curve there, and whether the curve is thin
    there (it then lies too low, and the result need not be wrong).
    """

    index: int
    reward_low: float
    bound: float
    thin: bool


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


def helpfulness(results: Sequence[Result]) -> str:
    """Name the metric that stands for helpfulness: `reward` where every result has it, else `win_rate`.

    Where no result has a win rate it is `reward` all the same, and results without it are not comparable.
    """
    if all("reward" in result["metrics"] for result in results):
        return "reward"
    return "win_rate" if any("win_rate" in result["metrics"] for result in results) else "reward"


def axis_of(results: Sequence[Result]) -> str:
    """Name the metric that results are drawn by beside the unsafe rate: helpfulness, or `over_refusal` without any."""
    axis = helpfulness(results)
    if all(estimate_of(result, axis) is None for result in results) and any(
        point(result, "over_refusal") is not None for result in results
    ):
        return "over_refusal"
    return axis


def point(result: Result, axis: str = "reward") -> tuple[float, float] | None:
    """(unsafe rate, helpfulness by the metric `axis`) of a result, or None when either was not scored.

    Over-refusal as the axis is negated, so that more of the second is better in any case.
    """
    unsafe, other = estimate_of(result, "unsafe_rate"), estimate_of(result, axis)
    if unsafe is None or other is None:
        return None
    return unsafe.mean, -other.mean if axis == "over_refusal" else other.mean


def non_dominated(results: Sequence[Result]) -> list[int]:
    """Indices, from safest on, of results that no other beats: none is as safe and as helpful and better in one.

    Where nothing scored helpfulness, over-refusal stands in its place.
    """
    axis = axis_of(results)
    points = {i: p for i, result in enumerate(results) if (p := point(result, axis)) is not None}
    kept = [
        i
        for i, (unsafe, reward) in points.items()
        if not any(u <= unsafe and r >= reward and (u < unsafe or r > reward) for u, r in points.values())
    ]
    return sorted(kept, key=lambda i: points[i])


def above_the_curve(results: Sequence[Result], optimum: Mapping[str, Any]) -> list[Above]:
    """Find results above the optimum beyond their intervals; any is a mistake in the curve, the KL or the scores.

    A result is held against the curve at the upper end of its unsafe rate: its reward's lower end against the upper
    end of the curve's interval. Only results with a KL of at most `optimum["kl"]` are held against it, and none beyond
    the curve's last rate, where it says nothing.
    """
    points = optimum["points"]
    rates = np.array([p["unsafe_rate"] for p in points])
    ends = np.array([p["reward"] if p["reward_high"] is None else p["reward_high"] for p in points])
    found = []
    for i, result in enumerate(results):
        unsafe, reward, kl = (estimate_of(result, name) for name in ("unsafe_rate", "reward", "kl"))
        if unsafe is None or reward is None or kl is None or kl.mean > optimum["kl"]:
            continue
        rate = unsafe.mean if unsafe.high is None else unsafe.high
        if rate > rates[-1]:
            continue
        # Safer than its first point the curve only falls further, so that its value there is a bound as well.
        bound = float(np.interp(rate, rates, ends))
        low = reward.mean if reward.low is None else reward.low
        if low > bound:
            right = min(int(np.searchsorted(rates, rate)), len(rates) - 1)
            thin = bool(points[right]["thin"] or points[max(right - 1, 0)]["thin"])
            found.append(Above(i, low, bound, thin))
    return found


def choose(results: Sequence[Result], *, target: float, confidence: float = 0.95) -> Choice:
    """Choose a setting on the select split: the most helpful one whose upper bound keeps to the target.

    When select is too small for any bound to keep to it, the most helpful one whose observed rate does; failing that,
    the safest one. Rates are corrected ones where people's labels say how the grader errs, as in the verdict.
    """
    _same_split(results, "select")
    _same_prompts(results)
    axis = helpfulness(results)
    points = [(i, result, p) for i, result in enumerate(results) if (p := point(result, axis)) is not None]
    scored = [(i, _held(result, unsafe), helpful) for i, result, (unsafe, helpful) in points]
    if not scored:
        raise DataError(f"no setting can be chosen: none has both unsafe_rate and {axis} on the select prompts")
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
    _apart(chosen_on, shown)
    choice = choose(chosen_on, target=target, confidence=confidence)
    wanted = identity(chosen_on[choice.index])
    matches = [result for result in shown if identity(result) == wanted]
    if len(matches) != 1:
        raise DataError(f"the setting chosen on select ({wanted}) has {len(matches)} results on verdict, expected 1")
    matches[0]["chosen"] = True
    return shown, choice.reason


def require_verdict(results: Sequence[Result]) -> None:
    """Refuse figures from the prompts that chose the setting, or beside figures from other prompts.

    Everything that prints or draws a figure calls this first: what is shown comes from verdict, one set of prompts for
    all results of a suite and seed.
    """
    _same_split(results, "verdict")
    _same_prompts(results)


def require_choice(results: Sequence[Result]) -> None:
    """Refuse a mark `chosen` that nothing stands behind: it needs a result of the same setting on other prompts."""
    select = [result for result in results if result["split"] == "select"]
    for result in results:
        if not result.get("chosen"):
            continue
        if result["split"] != "verdict":
            raise DataError(f"result {result['label']!r} on select is marked as chosen; the mark belongs on verdict")
        own = [one for one in select if identity(one) == identity(result)]
        if not own:
            raise DataError(f"result {result['label']!r} is marked as chosen, but no result on select shows why")
        _apart(own, [result])


def identity(result: Result) -> str:
    """What makes a result the same on select and on verdict: method, setting, seed and model."""
    return json.dumps([result["method"], result["setting"], result["seed"], result["model"]], sort_keys=True)


def _same_split(results: Sequence[Result], split: str) -> None:
    for result in results:
        if result["split"] != split:
            raise DataError(f"result {result['label']!r} comes from split {result['split']!r}, expected {split!r} here")


def _same_prompts(results: Sequence[Result]) -> None:
    """Results that stand side by side must have been measured on the same prompts, where that is known."""
    first: dict[tuple[str, Any], Result] = {}
    for result in results:
        if not result.get("prompts"):
            continue
        other = first.setdefault((result["suite"], result["seed"]), result)
        if other["prompts"] != result["prompts"]:
            raise DataError(
                f"results {other['label']!r} ({other['prompts']['n']} prompts) and {result['label']!r} "
                f"({result['prompts']['n']}) were measured on different {result['split']} prompts of suite "
                f"{result['suite']!r}, so they cannot be compared"
            )


def _apart(select: Sequence[Result], verdict: Sequence[Result]) -> None:
    used = {result["prompts"]["digest"]: result for result in select if result.get("prompts")}
    for result in verdict:
        digest = (result.get("prompts") or {}).get("digest")
        if digest in used:
            raise DataError(
                f"result {result['label']!r} on verdict was measured on the prompts that {used[digest]['label']!r} on "
                "select was chosen by: what chose a setting cannot report it"
            )


def verdict_on(result: Result, *, target: float, confidence: float) -> Verdict | None:
    """A target held against the unsafe rate of a result, the corrected one where there is one.

    None where nothing was scored, and where the grader's errors on labelled answers do not allow such a rate.
    """
    observed, corrected = estimate_of(result, "unsafe_rate"), result["metrics"].get("unsafe_rate_corrected")
    if observed is None:
        return None
    if corrected is None:
        return decide(observed, target=target, confidence=confidence)
    if corrected["mean"] is not None:
        # At another confidence than the metric's, false alarms may exclude a rate that they allowed there.
        with contextlib.suppress(DataError):
            return decide_corrected(observed, Grader(**corrected["grader"]), target=target, confidence=confidence)
    return None


def _held(result: Result, flagged: float) -> float:
    """The rate that a target is held against."""
    corrected = estimate_of(result, "unsafe_rate_corrected")
    return flagged if corrected is None else corrected.mean


def _keeps(result: Result, *, target: float, confidence: float) -> bool:
    found = verdict_on(result, target=target, confidence=confidence)
    return found is not None and found.status == "MET"


def _most_helpful(entries: Sequence[tuple[int, float, float]]) -> int:
    return max(entries, key=lambda entry: (entry[2], -entry[1]))[0]
