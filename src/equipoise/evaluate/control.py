"""Controllability: what was asked for against what came, objective by objective.

Guo et al. 2024, arXiv:2402.19085, report means by condition; rank correlation and the figures on objectives that nobody
asked for are ours.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from equipoise.data.conditions import Objective, check_condition, written
from equipoise.errors import DataError
from equipoise.evaluate.seeds import join_metrics
from equipoise.evaluate.suites import Metric, metric_of, unknown_metric
from equipoise.statistics.correlation import spearman
from equipoise.statistics.intervals import Estimate, mean

Row = Mapping[str, Any]
Section = dict[str, Any]


@dataclass(frozen=True)
class Controlled:
    """How far a model does as it is asked in one objective.

    `correlation` is of requested and achieved levels (None where either never varies); `error` the mean distance
    |achieved - requested|; `achieved` the mean by requested level; `unasked` the mean where others were asked for and
    this was not; `plain` where nothing was. A part without answers is None. `others` holds the means of every other
    objective where this one alone was asked for: {level: {other: mean}}.
    """

    objective: str
    correlation: Estimate | None
    error: Estimate | None
    achieved: dict[float, Estimate]
    unasked: Estimate | None
    plain: Estimate | None
    unscored: int
    others: dict[float, dict[str, Estimate]]


def controllability(
    rows: Sequence[Row], objectives: Sequence[Objective], *, level: float = 0.95, seed: int = 0
) -> dict[str, Controlled]:
    """Compare what prompts asked for with how the answers are rated, per objective; intervals are over prompts.

    `rows` hold `prompt_id` (the prompt without tokens), `condition` (levels by name) and `achieved` (ratings by name; a
    rating that is absent or None is unscored and counted).
    """
    if not rows:
        raise DataError("controllability needs answers, got none")
    for row in rows:
        check_condition(row["condition"], objectives)
    names = [objective.name for objective in objectives]
    return {name: _controlled(rows, name, names, level, seed) for name in names}


def control_section(
    models: Mapping[str, Sequence[Row]],
    objectives: Sequence[Objective],
    *,
    ids: Mapping[str, str] | None = None,
    level: float = 0.95,
    seed: int = 0,
) -> Section:
    """Put `controllability` of models, by label, as results.json holds it under `controllability`.

    `ids` are the models' addresses by label. Rows may carry `seed`, that of the training: intervals are then those of
    `join_sections` over the seeds. Raises DataError for models with unlike sets of seeds.
    """
    if not models:
        raise DataError("controllability needs at least one model, got none")
    seeds = {label: sorted({row.get("seed", 0) for row in rows}) for label, rows in models.items()}
    first = next(iter(seeds))
    other = next((label for label in seeds if seeds[label] != seeds[first]), None)
    if other is not None:
        raise DataError(
            f"{first!r} was run with seeds {seeds[first]} and {other!r} with {seeds[other]}, expected one set of seeds"
        )
    sections = []
    for one in seeds[first] or [0]:
        own = {label: [row for row in rows if row.get("seed", 0) == one] for label, rows in models.items()}
        sections.append(
            {
                "objectives": [{"name": o.name, "low": o.low, "high": o.high, "step": o.step} for o in objectives],
                "models": [_model(label, rows, objectives, ids, level, seed) for label, rows in own.items()],
            }
        )
    return join_sections(sections)


def join_sections(sections: Sequence[Mapping[str, Any]]) -> Section:
    """Join the sections of several training seeds: means over seeds, intervals as `over_seeds` makes them, `by_seed`.

    The sections must hold the same objectives and models; a figure that a seed lacks has no mean. One section is
    returned as it is.
    """
    if not sections:
        raise DataError("there are no sections of controllability to join")
    first = sections[0]
    if len(sections) == 1:
        return dict(first)
    labels = [[model["label"] for model in section["models"]] for section in sections]
    for section, own in zip(sections[1:], labels[1:], strict=True):
        if section["objectives"] != first["objectives"] or own != labels[0]:
            raise DataError(
                "sections of controllability can be joined over seeds when they hold the same objectives and models in "
                f"one order, got {labels[0]} and {own}"
            )
    groups = zip(*(section["models"] for section in sections), strict=True)
    return {"objectives": list(first["objectives"]), "models": [_join_models(group) for group in groups]}


# -- one objective ---------------------------------------------------------------------------------------------------


def _controlled(rows: Sequence[Row], name: str, names: Sequence[str], level: float, seed: int) -> Controlled:
    scored = _scored(rows, name)
    asked = _asked(scored, name)

    def average(some: Sequence[Row], of: str = name) -> Estimate | None:
        if not some:
            return None
        return mean([r["achieved"][of] for r in some], [r["prompt_id"] for r in some], level=level, seed=seed)

    requested, prompts = [row["condition"][name] for row in asked], [row["prompt_id"] for row in asked]
    ratings = [row["achieved"][name] for row in asked]
    distances = [abs(came - wanted) for came, wanted in zip(ratings, requested, strict=True)]
    by_level = {one: average(_asked(scored, name, one)) for one in sorted(set(requested))}
    others: dict[float, dict[str, Estimate]] = {}
    for one in sorted({row["condition"][name] for row in _alone(rows, name)}):
        for other in names:
            found = average(_scored(_alone(rows, name, one), other), other) if other != name else None
            if found is not None:
                others.setdefault(one, {})[other] = found
    return Controlled(
        objective=name,
        correlation=spearman(requested, ratings, prompts, level=level, seed=seed) if asked else None,
        error=mean(distances, prompts, level=level, seed=seed) if asked else None,
        achieved={one: found for one, found in by_level.items() if found is not None},
        unasked=average(_unasked(scored, name)),
        plain=average(_plain(scored)),
        unscored=len(rows) - len(scored),
        others=others,
    )


def _scored(rows: Sequence[Row], name: str) -> list[Row]:
    return [row for row in rows if row["achieved"].get(name) is not None]


def _asked(rows: Sequence[Row], name: str, level: float | None = None) -> list[Row]:
    """Rows that ask for an objective, at `level` where one is given, whatever else they ask for."""
    return [row for row in rows if name in row["condition"] and level in (None, row["condition"][name])]


def _alone(rows: Sequence[Row], name: str, level: float | None = None) -> list[Row]:
    """Rows that ask for one objective and nothing else."""
    return [row for row in _asked(rows, name, level) if len(row["condition"]) == 1]


def _unasked(rows: Sequence[Row], name: str) -> list[Row]:
    return [row for row in rows if row["condition"] and name not in row["condition"]]


def _plain(rows: Sequence[Row]) -> list[Row]:
    return [row for row in rows if not row["condition"]]


# -- as results.json holds it ----------------------------------------------------------------------------------------


def _model(
    label: str,
    rows: Sequence[Row],
    objectives: Sequence[Objective],
    ids: Mapping[str, str] | None,
    level: float,
    seed: int,
) -> Section:
    found = controllability(rows, objectives, level=level, seed=seed)
    return {
        "label": label,
        "model": None if ids is None else ids[label],
        "objectives": {name: _figures(one, rows) for name, one in found.items()},
        "others": {name: figures for name, one in found.items() if (figures := _others(one, rows))},
    }


def _figures(found: Controlled, rows: Sequence[Row]) -> Section:
    name = found.objective
    return {
        "correlation": _metric(found.correlation, _asked(rows, name), name),
        "error": _metric(found.error, _asked(rows, name), name),
        "achieved": {
            written(one): _metric(estimate, _asked(rows, name, one), name) for one, estimate in found.achieved.items()
        },
        "unasked": _metric(found.unasked, _unasked(rows, name), name),
        "plain": _metric(found.plain, _plain(rows), name),
        "unscored": found.unscored,
    }


def _others(found: Controlled, rows: Sequence[Row]) -> Section:
    return {
        written(one): {
            other: _metric(estimate, _alone(rows, found.objective, one), other) for other, estimate in means.items()
        }
        for one, means in found.others.items()
    }


def _metric(found: Estimate | None, part: Sequence[Row], name: str) -> Metric | None:
    return None if found is None else metric_of(found, unscored=len(part) - len(_scored(part, name)))


# -- over seeds ------------------------------------------------------------------------------------------------------


def _join_models(models: Sequence[Mapping[str, Any]]) -> Section:
    first = models[0]
    asked = _keys([model["others"] for model in models])
    return {
        "label": first["label"],
        "model": first["model"],
        "models": [model["model"] for model in models],
        "objectives": {
            name: _join_figures([model["objectives"][name] for model in models]) for name in first["objectives"]
        },
        "others": {name: _join_levels([model["others"].get(name, {}) for model in models]) for name in asked},
    }


def _join_figures(figures: Sequence[Mapping[str, Any]]) -> Section:
    return {
        **{name: _join([one[name] for one in figures]) for name in ("correlation", "error", "unasked", "plain")},
        "achieved": _join_named([one["achieved"] for one in figures]),
        "unscored": sum(one["unscored"] for one in figures),
    }


def _join_levels(levels: Sequence[Mapping[str, Any]]) -> Section:
    return {one: _join_named([by_level.get(one, {}) for by_level in levels]) for one in _keys(levels)}


def _join_named(metrics: Sequence[Mapping[str, Metric]]) -> Section:
    return {name: _join([one.get(name) for one in metrics]) for name in _keys(metrics)}


def _join(metrics: Sequence[Metric | None]) -> Metric | None:
    known = [metric for metric in metrics if metric is not None]
    if not known:
        return None
    gap = unknown_metric(known[0]["kind"], level=known[0]["level"], unscored=0)
    return join_metrics([gap if metric is None else metric for metric in metrics])


def _keys(mappings: Sequence[Mapping[str, Any]]) -> list[str]:
    """All keys, levels and names alike, in order of first appearance."""
    return list(dict.fromkeys(key for mapping in mappings for key in mapping))
