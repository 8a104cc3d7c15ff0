"""Which few of many results a reader decides between: the best of every method, and five rows for the top of a page."""

from __future__ import annotations

from collections.abc import Sequence

from equipoise.evaluate.frontier import Result, axis_of, non_dominated, point
from equipoise.evaluate.looks import method_of

ROWS = 5
"""How many results stand above the fold."""


def best_of_methods(results: Sequence[Result], *, target: float | None = None) -> dict[str, int]:
    """Index of the best result of each method but the base, best method first; one without both figures is left out.

    With a target, in this order: on the frontier and observed to keep to the target, the more helpful first; on the
    frontier and no less safe than the base, the safer first; not on the frontier but within the target, the more
    helpful first; all others, the safer first. Without: those on the frontier first, then by helpfulness minus unsafe
    rate, each scaled to the range of all results. This orders what is shown; settings are chosen on select.
    """
    found: dict[str, int] = {}
    for i in _ranked(results, target=target):
        if results[i]["method"] != "base":
            found.setdefault(method_of(results[i]), i)
    return found


def shortlist(
    results: Sequence[Result], *, target: float | None = None, subject: Result | None = None, most: int = ROWS
) -> list[int]:
    """Indices of the rows above the fold: the base, the result that the verdict speaks of, then the best of each other
    method in the order of `best_of_methods`, then what else is on the frontier, until there are `most`.
    """
    base = [i for i, result in enumerate(results) if result["method"] == "base"][:1]
    spoken = [i for i, result in enumerate(results) if result is subject]
    own = {method_of(results[i]) for i in spoken}
    others = [i for method, i in best_of_methods(results, target=target).items() if method not in own]
    best = set(non_dominated(results))
    rest = [i for i in _ranked(results, target=target) if i in best]
    unscored = [i for i in range(len(results)) if len(results) <= most]
    return list(dict.fromkeys([*base, *spoken, *others, *rest, *unscored]))[:most]


def _ranked(results: Sequence[Result], *, target: float | None) -> list[int]:
    axis = axis_of(results)
    points = {i: found for i, result in enumerate(results) if (found := point(result, axis)) is not None}
    best = set(non_dominated(results))
    if target is None:
        scaled = [_scaled([spot[side] for spot in points.values()]) for side in (0, 1)]
        balance = {i: helpful - unsafe for i, unsafe, helpful in zip(points, *scaled, strict=True)}
        return sorted(points, key=lambda i: (i not in best, -balance[i]))

    ceiling = min((points[i][0] for i in points if results[i]["method"] == "base"), default=1.0)

    def key(i: int) -> tuple[int, float]:
        unsafe, helpful = points[i]
        if unsafe <= target:
            return (0 if i in best else 2, -helpful)
        return (1 if i in best and unsafe <= ceiling else 3, unsafe)

    return sorted(points, key=key)


def _scaled(values: Sequence[float]) -> list[float]:
    if not values:
        return []
    low, span = min(values), max(values) - min(values) or 1.0
    return [(value - low) / span for value in values]
