"""The same answers rated several times, by several raters or aspect by aspect, become one row. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace

from equipoise.data.columns import Reason
from equipoise.data.conditions import Objective, shown_levels, written
from equipoise.data.formats import content_id
from equipoise.types import Dropped, SourceRow


def merge_raters(rows: Iterable[SourceRow], objectives: Sequence[Objective]) -> tuple[list[SourceRow], list[Dropped]]:
    """Return rows of which no two hold the same prompt and answers: a rating is the mean over those who gave one.

    A row with a rating outside the scale of an objective enters no mean and is dropped, and so is the same content a
    second time in one source; in another source it is a second rater. What is unlike any other row stays as it is.
    """
    groups: dict[object, list[SourceRow]] = {}
    for row in rows:
        groups.setdefault(_asked_and_said(row), []).append(row)
    merged: list[SourceRow] = []
    dropped: list[Dropped] = []
    for group in groups.values():
        by_rater = {(row.source, row.id): row for row in group}
        dropped += [Dropped(group[0].id, Reason.DUPLICATE)] * (len(group) - len(by_rater))
        if len(by_rater) == 1:
            merged.append(group[0])  # one rater's: what is off the scale is found, answer by answer, further on
            continue
        on_scale = []
        for row in by_rater.values():
            outside = _outside(row, objectives)
            if outside is None:
                on_scale.append(row)
            else:
                dropped.append(Dropped(row.id, Reason.OFF_SCALE, outside))
        if on_scale:
            merged.append(_mean(on_scale))
    return merged, dropped


def _asked_and_said(row: SourceRow) -> object:
    turns = tuple((turn["role"], turn["content"]) for turn in row.prompt)
    return turns, tuple(
        (tuple((turn["role"], turn["content"]) for turn in answer.lead), answer.text) for answer in row.responses
    )


def _outside(row: SourceRow, objectives: Sequence[Objective]) -> str | None:
    """What is wrong with the first rating that is not on its scale."""
    for answer in row.responses:
        for o in objectives:
            if o.name in answer.ratings and not o.holds(answer.ratings[o.name]):
                return f"{o.name} is {written(answer.ratings[o.name])}, expected {shown_levels(o)}"
    return None


def _mean(rows: Sequence[SourceRow]) -> SourceRow:
    """One row with mean ratings; an order that one rater gave is not the raters' and is left out."""
    if len(rows) == 1:
        return rows[0]
    answers = []
    for several in zip(*(row.responses for row in rows), strict=True):
        given: dict[str, list[float]] = {}
        for answer in several:
            for aspect, rating in answer.ratings.items():
                given.setdefault(aspect, []).append(rating)
        answers.append(replace(several[0], ratings={a: sum(found) / len(found) for a, found in given.items()}))
    row = replace(rows[0], responses=tuple(answers), better=None, safer=None, labelled_by=None)
    return replace(row, id=content_id(row))
