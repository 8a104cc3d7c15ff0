"""Rated answers -> rows under conditions, for controllable preference optimization. Pure; no global random state.

Guo et al. 2024, arXiv:2402.19085: CPSFT imitates an answer with its own ratings as the condition, CDPO orders the
answers to a prompt by their value R(y|c) under a condition c. Two answers may stand in either order: it depends on c.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from hashlib import blake2b
from itertools import combinations
from typing import Any, NamedTuple, cast

from equipoise.data.columns import Reason
from equipoise.data.conditions import (
    Budget,
    Condition,
    Conditions,
    Objective,
    check_condition,
    place,
    shown_levels,
    written,
)
from equipoise.data.forged import holds_tokens
from equipoise.data.raters import merge_raters
from equipoise.data.relabel import Derived, pairs, sft_targets
from equipoise.errors import DataError, SettingError, nearest
from equipoise.types import Dropped, Response, SourceRow, TrainingRow

_TIE = 1e-9  # values nearer than this are equal: sums of the same terms in another order


def conditioned_rows(rows: Iterable[SourceRow], conditions: Conditions, *, layout: str) -> Derived:
    """Return the rows of a layout: `completion` is CPSFT, `pair` is CDPO; nothing else takes conditions.

    Rows of the same prompt and answers are one row with mean ratings (`raters.merge_raters`).
    """
    if layout not in ("completion", "pair"):
        raise SettingError(
            f"conditions fit objectives on pairs or on completions (dpo, ipo, sft), not on {layout} rows"
        )
    merged, dropped = merge_raters(rows, conditions.objectives)
    used, problems = (cpsft_rows if layout == "completion" else cdpo_rows)(merged, conditions)
    return used, [*dropped, *problems]


def value(ratings: Mapping[str, float], condition: Condition, objectives: Sequence[Objective]) -> float:
    """Return R(y|c), the value of an answer under a condition; larger is better.

    The sum over rated objectives of weight * g, g = -strictness * |rating - wanted| where the condition names the
    objective, else the rating. Guo et al. 2024, arXiv:2402.19085; the general form is UNVERIFIED against the paper.
    """
    check_condition(condition, objectives)
    for name in condition:
        if name not in ratings:
            raise DataError(f"the condition names {name}, on which the answer has no rating")
    return _value(ratings, condition, objectives)


def _value(ratings: Mapping[str, float], condition: Condition, objectives: Sequence[Objective]) -> float:
    return sum(
        o.weight
        * (-o.strictness * abs(ratings[o.name] - condition[o.name]) if o.name in condition else ratings[o.name])
        for o in objectives
        if o.name in ratings
    )


def chance(first: float, second: float, *, temperature: float) -> float:
    """Return sigma((first - second) / temperature): how likely the first answer is put before the second."""
    gap = (first - second) / temperature
    return 1 / (1 + math.exp(-gap)) if gap >= 0 else math.exp(gap) / (1 + math.exp(gap))


class _Answer(NamedTuple):
    number: int
    response: Response
    ratings: dict[str, float]


class _Rated(NamedTuple):
    """A row, its usable answers, and the objectives they are all rated on."""

    row: SourceRow
    answers: list[_Answer]
    objectives: tuple[Objective, ...]


def cpsft_rows(rows: Iterable[SourceRow], conditions: Conditions) -> Derived:
    """Return prompt/completion rows: every answer, asked for by its own ratings (each taken to the nearest level).

    A share `partial` of the answers is asked for by some of the ratings only, each set of them being as likely.
    Left out unless `ask_for_harm`: answers whose own ratings are in the low half of a guarded scale.
    """
    dropped: list[Dropped] = []
    sources: list[SourceRow] = []
    own: dict[str, dict[str, float]] = {}
    for rated in _rated(rows, conditions, dropped):
        for answer in rated.answers:
            name = f"{rated.row.id}-{answer.number}"
            named = _named(name, rated.objectives, conditions)
            condition = {o.name: o.level(answer.ratings[o.name]) for o in named}
            if not _allowed(condition, conditions):
                dropped.append(Dropped(name, Reason.ASKS_FOR_HARM))
                continue
            dialogue = place([*rated.row.prompt, *answer.response.lead], condition, conditions.objectives)
            spoken = replace(answer.response, lead=dialogue[len(rated.row.prompt) :])
            own[f"{name}-0"] = condition
            sources.append(SourceRow(id=name, prompt=dialogue[: len(rated.row.prompt)], responses=(spoken,)))
    used, problems = sft_targets(sources, choose="all")
    return [_noted(row, own[row["id"]], tagged=True) for row in used], [*dropped, *problems]


def _named(name: str, objectives: tuple[Objective, ...], conditions: Conditions) -> tuple[Objective, ...]:
    """The objectives that the prompt of an imitated answer names."""
    if _uniform(conditions.seed, name, "partial") >= conditions.partial or len(objectives) < 2:
        return objectives
    sets = [some for n in range(1, len(objectives)) for some in combinations(objectives, n)]
    return sets[int(_uniform(conditions.seed, name, "named") * len(sets))]


def cdpo_rows(rows: Iterable[SourceRow], conditions: Conditions) -> Derived:
    """Return chosen/rejected rows, ordered by R(.|c) under conditions c that are drawn per row and budget.

    A draw depends on (seed, row id, budget) alone. A budget with fewer pairs than there are takes rows in an order that
    depends on the same. Pairs that tie are left out (never with a temperature); a prompt whose answers tie under each
    of its conditions is dropped as TIED.
    """
    dropped: list[Dropped] = []
    offered: list[list[tuple[float, list[_Pair]]]] = [[] for _ in conditions.budgets]
    for rated in _rated(rows, conditions, dropped):
        comparable = _comparable(rated, dropped)
        if not comparable:
            continue
        drawn = [_draw(rated, budget, at, conditions) for at, budget in enumerate(conditions.budgets)]
        found = 0
        for at, condition in enumerate(drawn):
            if condition is not None:
                ordered = _ordered(rated, comparable, condition, at, conditions)
                found += len(ordered)
                offered[at].append((_uniform(conditions.seed, rated.row.id, at, "turn"), ordered))
        if not found:
            reason = Reason.TIED if any(c is not None for c in drawn) else Reason.NO_CONDITION
            dropped.append(Dropped(rated.row.id, reason))
    taken = [
        pair for budget, offers in zip(conditions.budgets, offered, strict=True) for pair in _within(budget, offers)
    ]
    sources = [pair.source for pair in taken]
    facts = {f"{pair.source.id}-01": pair for pair in taken}
    used, problems = pairs(sources, prefer="better")
    rows_out = [_noted(row, facts[row["id"]].condition, tagged=facts[row["id"]].tagged) for row in used]
    return rows_out, [*dropped, *problems]


def check_ratings(rows: Sequence[SourceRow], conditions: Conditions, *, where: str, max_dropped: float) -> None:
    """Refuse data without ratings for the objectives, or (beyond the share `max_dropped`) outside their scales."""
    answers = [response for row in rows for response in row.responses]
    aspects = sorted({aspect for response in answers for aspect in response.ratings})
    rated = [o for o in conditions.objectives if o.name in aspects]
    if not rated:
        wanted = ", ".join(o.name for o in conditions.objectives)
        hint = nearest(conditions.objectives[0].name, aspects) if aspects else " (there are no ratings at all)"
        raise SettingError(f"{where}: no answer of the first {len(rows)} rows is rated on {wanted}{hint}")
    for o in rated:
        ratings = [response.ratings[o.name] for response in answers if o.name in response.ratings]
        outside = [rating for rating in ratings if not o.holds(rating)]
        if len(outside) > max_dropped * len(ratings):
            raise SettingError(
                f"{where}: {len(outside)} of the first {len(ratings)} ratings of {o.name} lie outside its scale, "
                f"such as {written(outside[0])}, expected {shown_levels(o)}: mend objectives: {{{o.name}: [low, high]}}"
            )


# -- what can be used ------------------------------------------------------------------------------------------------


def _rated(rows: Iterable[SourceRow], conditions: Conditions, dropped: list[Dropped]) -> list[_Rated]:
    """Rows with the answers that can be conditioned on; everything else goes to `dropped` with its reason."""
    rows = list(rows)
    targets, problems = sft_targets(rows, choose="all")
    dropped += problems
    usable = {target["id"] for target in targets}
    names = [o.name for o in conditions.objectives]
    found = []
    for row in {row.id: row for row in rows}.values():  # each content once; `problems` has the others
        answers = [(i, response) for i, response in enumerate(row.responses) if f"{row.id}-{i}" in usable]
        if not answers:
            continue
        if any(holds_tokens(turn["content"], names) for turn in row.prompt):
            dropped.append(Dropped(row.id, Reason.HOLDS_TOKENS))
            continue
        rated = {name for _, response in answers for name in response.ratings}
        objectives = tuple(o for o in conditions.objectives if o.name in rated)
        if not objectives:
            dropped.append(Dropped(row.id, Reason.NO_RATING))
            continue
        good = []
        for index, response in answers:
            problem = _answer_problem(response, objectives, names)
            if problem is None:
                good.append(_Answer(index, response, {o.name: response.ratings[o.name] for o in objectives}))
            else:
                dropped.append(Dropped(f"{row.id}-{index}", *problem))
        if good:
            found.append(_Rated(row, good, objectives))
    return found


def _answer_problem(
    response: Response, objectives: Sequence[Objective], names: Sequence[str]
) -> tuple[Reason, str] | None:
    for o in objectives:
        if o.name not in response.ratings:
            return Reason.NO_RATING, f"no rating of {o.name}, which other answers to the prompt have"
        if not o.holds(response.ratings[o.name]):
            return Reason.OFF_SCALE, f"{o.name} is {written(response.ratings[o.name])}, expected {shown_levels(o)}"
    said = [response.text, *(turn["content"] for turn in response.lead)]
    return (Reason.HOLDS_TOKENS, "in the answer") if any(holds_tokens(text, names) for text in said) else None


def _comparable(rated: _Rated, dropped: list[Dropped]) -> list[tuple[_Answer, _Answer]]:
    """All pairs of answers that differ; a row without any is dropped."""
    row = rated.row
    if any(turn["role"] == "user" for answer in rated.answers for turn in answer.response.lead):
        dropped.append(Dropped(row.id, Reason.BAD_TURNS, "the answers part before the last request"))
        return []
    if len(rated.answers) < 2:
        dropped.append(Dropped(row.id, Reason.NO_ORDER, "one answer alone cannot be ordered"))
        return []
    both = list(combinations(rated.answers, 2))
    out = [
        (a, b)
        for a, b in both
        if (a.response.lead, a.response.text.strip()) != (b.response.lead, b.response.text.strip())
    ]
    dropped += [Dropped(f"{row.id}-{a.number}{b.number}", Reason.IDENTICAL) for a, b in both if (a, b) not in out]
    return out


def _allowed(condition: Condition, conditions: Conditions) -> bool:
    """Whether a condition may be trained on: it does not ask for harm, or asking for it was asked for."""
    harmful = any(o.name in condition and o.asks_for_harm(condition[o.name]) for o in conditions.objectives)
    return conditions.ask_for_harm or not harmful


# -- conditions and orders -------------------------------------------------------------------------------------------


class _Pair(NamedTuple):
    """Two answers in order as a source row, the condition they were ordered under, and whether the prompt says it."""

    source: SourceRow
    condition: dict[str, float]
    tagged: bool


def _draw(rated: _Rated, budget: Budget, at: int, conditions: Conditions) -> dict[str, float] | None:
    """Return a row's condition of one budget, or None where none fits."""
    rated_on = {o.name: o for o in rated.objectives}
    control = dict.fromkeys(rated_on) if budget.control is None else budget.control
    if not control.keys() <= rated_on.keys():
        return None
    names = [name for name in rated_on if name in control]  # in the order of the objectives
    wanted = {n: None if (level := control[n]) is None else rated_on[n].level(level) for n in names}
    if conditions.draw == "own":
        offers = [{name: rated_on[name].level(a.ratings[name]) for name in names} for a in rated.answers]
        fits = [c for c in offers if all(wanted[n] in (None, c[n]) for n in names) and _allowed(c, conditions)]
        return fits[int(_uniform(conditions.seed, rated.row.id, at, "own") * len(fits))] if fits else None
    condition = {}
    for name in names:
        fixed = wanted[name]
        levels = rated_on[name].levels if fixed is None else (fixed,)
        levels = tuple(level for level in levels if _allowed({name: level}, conditions))
        condition[name] = levels[int(_uniform(conditions.seed, rated.row.id, at, name) * len(levels))]
    return condition


def _ordered(
    rated: _Rated,
    comparable: Sequence[tuple[_Answer, _Answer]],
    condition: dict[str, float],
    at: int,
    conditions: Conditions,
) -> list[_Pair]:
    """The pairs of a row that have an order under a condition."""
    row, objectives = rated.row, conditions.objectives
    values = {answer.number: _value(answer.ratings, condition, objectives) for answer in rated.answers}
    top = all(condition.get(o.name) == o.level(o.high) for o in rated.objectives)
    prompts = {True: place(row.prompt, condition, objectives), False: row.prompt}
    out = []
    for first, second in comparable:
        ours, theirs = values[first.number], values[second.number]
        names = (conditions.seed, row.id, at, first.number, second.number)
        if conditions.temperature is not None:
            ahead = _uniform(*names, "order") < chance(ours, theirs, temperature=conditions.temperature)
        elif abs(ours - theirs) <= _TIE:
            continue
        else:
            ahead = ours > theirs
        chosen, rejected = (first, second) if ahead else (second, first)
        tagged = not (top and _uniform(*names, "tag") < conditions.untagged_top)
        source = SourceRow(
            id=f"{row.id}-{chosen.number}{rejected.number}-{at}",
            prompt=prompts[tagged],
            responses=(chosen.response, rejected.response),
            better=0,
        )
        out.append(_Pair(source, condition, tagged))
    return out


def _within(budget: Budget, offers: Sequence[tuple[float, list[_Pair]]]) -> list[_Pair]:
    """Return the pairs that a budget takes: all, or those of the rows whose turn comes first."""
    if budget.pairs is None:
        return [pair for _, found in offers for pair in found]
    return [pair for _, found in sorted(offers, key=lambda offer: offer[0]) for pair in found][: budget.pairs]


def _uniform(*parts: object) -> float:
    """Return a number in [0, 1) that depends on nothing but `parts`."""
    written_out = "\x00".join(map(str, parts)).encode()
    return int.from_bytes(blake2b(written_out, digest_size=7).digest(), "big") / 2**56


def _noted(row: TrainingRow, condition: Condition, *, tagged: bool) -> TrainingRow:
    """Write the condition beside a row, for counting and for evaluation by condition."""
    columns: dict[str, Any] = {**row, "condition": dict(condition), "tagged": tagged}
    return cast(TrainingRow, columns)
