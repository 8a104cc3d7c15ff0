"""Several training seeds of one setting as one result, whose intervals cover training noise too."""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from scipy.stats import t as student  # type: ignore[import-untyped]

from equipoise.errors import DataError

Result = Mapping[str, Any]

BOUNDS = {"rate": (0.0, 1.0), "corrected": (0.0, 1.0), "share": (0.0, 1.0), "correlation": (-1.0, 1.0)}
"""What no value of a kind lies beyond."""


def over_seeds(results: Sequence[Result]) -> list[dict[str, Any]]:
    """Join results that differ in their seed (and so in their model) alone, in order of first appearance.

    A joined result has `seeds`, and each metric `by_seed`, its mean per seed. A setting with one seed stays as it is.
    Raises DataError when a setting lacks a seed that another one has: its mean would be over other runs.
    """
    groups: dict[str, list[Result]] = {}
    for result in results:
        groups.setdefault(_setting(result), []).append(result)
    seeds = {tuple(sorted(result["seed"] for result in group)) for group in groups.values()}
    if len(seeds) > 1:
        raise DataError(
            f"settings were run with different seeds ({', '.join(map(str, sorted(seeds)))}), expected one set"
        )
    return [_join(group) if len(group) > 1 else dict(group[0]) for group in groups.values()]


def _setting(result: Result) -> str:
    return json.dumps([result["method"], result["setting"], result["label"], result["split"]], sort_keys=True)


def _join(group: Sequence[Result]) -> dict[str, Any]:
    first = group[0]
    shared = [name for name in first["metrics"] if all(name in result["metrics"] for result in group)]
    joined = {name: join_metrics([result["metrics"][name] for result in group]) for name in shared}
    return {
        **first,
        **_counts(group),
        "seeds": [result["seed"] for result in group],
        "models": [result["model"] for result in group],
        "metrics": joined,
        "wall_s": sum(result["wall_s"] for result in group),
        "train_tokens": sum(result["train_tokens"] for result in group),
    }


def _counts(group: Sequence[Result]) -> dict[str, Any]:
    """Empty answers by kind and answers that were cut off, of all seeds, as each metric counts its answers."""
    found: dict[str, Any] = {}
    if all("empty" in result for result in group):
        found["empty"] = dict(sum((Counter(result["empty"]) for result in group), Counter[str]()))
    if all("cut_off" in result for result in group):
        found["cut_off"] = sum(result["cut_off"] for result in group)
    return found


def join_metrics(metrics: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Join one metric of several seeds into one with `by_seed`; one that a seed could not score has no mean.

    Add to the interval of one seed (the prompts are the same, so more seeds do not narrow it) that of the seeds:
    the second is Student's for the mean of as many values as there are seeds: wide for three, as it should be.
    """
    means = [metric["mean"] for metric in metrics]
    first = dict(metrics[0])
    if any(metric.get("rule") != first.get("rule") for metric in metrics):
        del first["rule"]  # a baseline that is one thing in one seed and another in the next
    if any(mean is None for mean in means):
        return {**first, "mean": None, "low": None, "high": None, "by_seed": means}
    count, centre = len(means), sum(means) / len(means)
    spread = math.sqrt(sum((mean - centre) ** 2 for mean in means) / (count - 1))
    reach = float(student.ppf((1 + first["level"]) / 2, count - 1)) * spread / math.sqrt(count)
    low, high = _end(metrics, "low", centre, reach), _end(metrics, "high", centre, reach)
    if first["kind"] in BOUNDS and low is not None and high is not None:
        least, most = BOUNDS[first["kind"]]
        low, high = max(low, least), min(high, most)
    known = all(metric["low"] is not None and metric["high"] is not None for metric in metrics)
    narrow = sum(metric["high"] - metric["low"] for metric in metrics) / count if known else 0.0
    return {
        **first,
        # What `decide` counts with: as many answers as would give an interval this wide.
        "n_effective": first.get("n_effective", first["n_prompts"]) * _shrink(narrow, reach),
        "mean": centre,
        "low": low,
        "high": high,
        "n": sum(metric["n"] for metric in metrics),
        "unscored": sum(metric["unscored"] for metric in metrics),
        "by_seed": means,
    }


def _shrink(width: float, reach: float) -> float:
    own = width / 2
    return own**2 / (own**2 + reach**2) if own > 0 else 1.0


def _end(metrics: Sequence[Mapping[str, Any]], end: str, centre: float, reach: float) -> float | None:
    if any(metric[end] is None for metric in metrics):
        # What had no interval with one seed, as a cost in seconds has none, has that of the seeds.
        alone = all(metric[end] is None for metric in metrics)
        return centre + (-reach if end == "low" else reach) if alone else None
    own = sum(abs(metric[end] - metric["mean"]) for metric in metrics) / len(metrics)
    width = math.hypot(own, reach)
    return centre - width if end == "low" else centre + width
