"""The register of claims (docs/claims.yaml): what papers say, as tests on a comparison of methods.

A statistic is one number per seed, of the settings chosen on select, or one over all settings of the first seed; the
file's head explains them. What decides was written down before the runs: nothing here chooses a threshold.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
from scipy.stats import spearmanr  # type: ignore[import-untyped]
from scipy.stats import t as student

from equipoise.config import read_yaml
from equipoise.errors import DataError, nearest
from equipoise.statistics.claims import holm

Compared = Mapping[str, Any]
Ruling = Literal["holds", "not shown", "does not hold", "not run"]

STATISTICS = {"level": (), "difference": ("minus",), "ratio": ("over",), "order": ("by",), "off_target": ("by",)}
NEEDED = ("id", "paper", "says", "number", "statistic", "test", "threshold", "worlds")
SCHEMA = 1


class Claim(NamedTuple):
    """A claim of the register."""

    id: str
    paper: str
    says: str
    number: str
    statistic: Mapping[str, str]
    test: Literal["student", "exact"]
    above: bool
    threshold: float
    worlds: tuple[str, ...]


class Outcome(NamedTuple):
    """What was measured: the statistic, its interval over seeds, values by seed, p and Holm's p, and the ruling."""

    claim: Claim
    value: float | None
    low: float | None
    high: float | None
    seeds: tuple[float, ...]
    p: float | None
    adjusted: float | None
    ruling: Ruling
    why: str = ""


def read_register(path: Path) -> tuple[list[Claim], float]:
    """Read the claims and the level of their intervals; one that cannot be meant is refused in one sentence."""
    document = read_yaml(path)
    if document.get("schema") != SCHEMA:
        raise DataError(f"{path} has schema {document.get('schema')!r}, this version of equipoise reads {SCHEMA}")
    claims = [_claim(given, path) for given in document.get("claims", [])]
    names = [claim.id for claim in claims]
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise DataError(f"{path}: the id {twice[0]!r} is given to two claims")
    return claims, float(document.get("level", 0.95))


def _claim(given: Mapping[str, Any], path: Path) -> Claim:
    name = given.get("id", "without an id")
    missing = [key for key in NEEDED if key not in given]
    if missing:
        raise DataError(f"{path}: claim {name!r} lacks {', '.join(missing)}")
    kinds = [kind for kind in STATISTICS if kind in given["statistic"]]
    if len(kinds) != 1:
        raise DataError(f"{path}: the statistic of claim {name!r} must be one of {', '.join(STATISTICS)}")
    lacking = [key for key in ("of", *STATISTICS[kinds[0]]) if key not in given["statistic"]]
    if lacking:
        raise DataError(f"{path}: the statistic of claim {name!r} lacks {', '.join(lacking)}")
    if given["test"] not in ("student", "exact"):
        raise DataError(
            f"{path}: claim {name!r} has test {given['test']!r}{nearest(given['test'], ('student', 'exact'))}"
        )
    sides = [side for side in ("above", "below") if side in given["threshold"]]
    if len(sides) != 1:
        raise DataError(f"{path}: the threshold of claim {name!r} says either above or below")
    return Claim(
        str(name),
        given["paper"],
        given["says"],
        str(given["number"]),
        given["statistic"],
        given["test"],
        sides[0] == "above",
        float(given["threshold"][sides[0]]),
        tuple(given["worlds"]),
    )


def decided(claims: Sequence[Claim], found: Compared, *, world: str, level: float = 0.95) -> list[Outcome]:
    """Hold every claim that speaks of `world` against a comparison (comparison.json); Holm over all with a p-value."""
    drafts = [_measured(claim, found, level) for claim in claims if world in claim.worlds]
    family = holm({one.claim.id: one.p for one in drafts if one.p is not None}, alpha=1 - level)
    return [_ruled(one, None if one.p is None else family[one.claim.id].adjusted, 1 - level) for one in drafts]


def _measured(claim: Claim, found: Compared, level: float) -> Outcome:
    try:
        values = _values(claim, found)
    except _NotRunError as error:
        return Outcome(claim, None, None, None, (), None, None, "not run", str(error))
    centre = float(np.mean(values))
    if claim.test == "exact" or len(values) < 2:
        return Outcome(claim, centre, None, None, tuple(values), None, None, "not shown")
    error = float(np.std(values, ddof=1)) / math.sqrt(len(values))
    reach = float(student.ppf((1 + level) / 2, len(values) - 1)) * error
    beyond = (centre - claim.threshold) * (1 if claim.above else -1)
    p = float(student.sf(beyond / error, len(values) - 1)) if error > 0 else float(beyond <= 0)
    return Outcome(claim, centre, centre - reach, centre + reach, tuple(values), p, None, "not shown")


def _ruled(one: Outcome, adjusted: float | None, alpha: float) -> Outcome:
    """Holds: shown beyond the threshold. Does not hold: on the wrong side. In between: not shown."""
    if one.value is None:
        return one
    right_side = one.value > one.claim.threshold if one.claim.above else one.value < one.claim.threshold
    if not right_side:
        ruling: Ruling = "does not hold"
    elif one.claim.test == "exact" or (adjusted is not None and adjusted <= alpha):
        ruling = "holds"
    else:
        ruling = "not shown"
    return one._replace(adjusted=adjusted, ruling=ruling)


class _NotRunError(Exception):
    """A method or figure that the comparison does not have."""


def _values(claim: Claim, found: Compared) -> list[float]:
    statistic = claim.statistic
    kind = next(one for one in STATISTICS if one in statistic)
    metric, own = statistic[kind], _method(found, statistic["of"])
    if kind in ("order", "off_target"):
        return [_over_settings(own, kind, metric, statistic["by"])]
    ours = _by_seed(own, metric, statistic["of"])
    if kind == "level":
        return list(ours.values())
    name = statistic[STATISTICS[kind][0]]
    theirs = _by_seed(_method(found, name), metric, name)
    seeds = [seed for seed in ours if seed in theirs]
    if not seeds:
        raise _NotRunError(f"{statistic['of']} and {name} have no seed in common")
    if kind == "ratio" and any(theirs[s] == 0 for s in seeds):
        raise _NotRunError(f"{metric} of {name} is 0, so there is no ratio to it")
    return [ours[s] - theirs[s] if kind == "difference" else ours[s] / theirs[s] for s in seeds]


def _method(found: Compared, name: str) -> Mapping[str, Any]:
    if name not in found["methods"]:
        raise _NotRunError(f"{name} was not run")
    method: Mapping[str, Any] = found["methods"][name]
    return method


def _by_seed(method: Mapping[str, Any], metric: str, name: str) -> dict[int, float]:
    values = {}
    for pair in method["seeds"]:
        verdict = next(one for one in pair if one["split"] == "verdict")
        if verdict["metrics"].get(metric, {}).get("mean") is None:
            raise _NotRunError(f"{name} has no {metric}")
        values[verdict["seed"]] = float(verdict["metrics"][metric]["mean"])
    return values


def _over_settings(method: Mapping[str, Any], kind: str, metric: str, key: str) -> float:
    verdicts = [one for pair in method["settings"] for one in pair if one["split"] == "verdict"]
    pairs = [(one["setting"][key], one["metrics"][metric]["mean"]) for one in verdicts if key in one["setting"]]
    if len(pairs) < 2:
        raise _NotRunError(f"fewer than two settings say {key}")
    asked, reached = np.array(pairs, dtype=float).T
    if kind == "off_target":
        return float(np.abs(reached - asked).mean())
    if np.ptp(asked) == 0 or np.ptp(reached) == 0:
        raise _NotRunError(f"{metric} or {key} never varies")
    return float(spearmanr(asked, reached).statistic)
