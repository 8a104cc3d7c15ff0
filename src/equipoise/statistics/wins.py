"""Who wins? Win rates and ratings from a judge's verdicts on pairs, shown in both orders, with ties and failures.

Unscored verdicts (None) are counted and left out; they are never ties. The two orders of a prompt are averaged before
anything else, so that a judge who likes the first answer cannot decide, and a prompt counts once however often it was
judged.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Literal, NamedTuple, TypeAlias

import numpy as np

from equipoise.errors import DataError, nearest
from equipoise.statistics.intervals import Estimate, clopper_pearson, mean, rate

Outcome: TypeAlias = Literal["first", "second", "tie"]
SCORES = {"first": 1.0, "second": 0.0, "tie": 0.5}


class Judgement(NamedTuple):
    """A judge's verdict on two models' answers to one prompt, in the order in which they were shown."""

    prompt: Hashable
    first: str
    second: str
    verdict: Outcome | None


@dataclass(frozen=True, slots=True)
class WinRate:
    """How often `model` beat `against`, a tie being half a win, beside what the judge's verdicts are worth.

    `won`, `tied`, `lost` and `unscored` count verdicts; `rate` counts prompts. `position` is the share won by the
    answer shown first (no bias: 0.5) and `disagreement` the share of prompts with another verdict in the other order;
    both look at prompts judged in both orders alone, and are None without any. `one_order` counts the other prompts.
    """

    model: str
    against: str
    rate: Estimate
    won: int
    tied: int
    lost: int
    unscored: int
    position: Estimate | None
    disagreement: Estimate | None
    one_order: int


def win_rate(
    judgements: Sequence[Judgement], *, model: str, against: str, level: float = 0.95, seed: int = 0
) -> WinRate:
    """Share of prompts that `model` wins against `against` (SACPO's convention: both orders, a tie counts 0.5).

    Judgements of other models are passed over. The interval is bootstrapped over prompts; where all prompts agree, the
    exact bound on the share of prompts that could differ takes its place.
    """
    seen = [j for j in checked(judgements) if {j.first, j.second} == {model, against}]
    if not seen:
        names = {name for j in judgements for name in (j.first, j.second)}
        stranger = next((name for name in (model, against) if name not in names), None)
        hint = f": '{stranger}' is in none{nearest(stranger, names)}" if stranger is not None else ""
        raise DataError(f"no judgement compares '{model}' with '{against}'{hint}")
    orders = by_order(seen)
    if not orders:
        raise DataError(f"all {len(seen)} judgements of '{model}' against '{against}' are unscored")
    means = {key: {first: fmean(scores) for first, scores in found.items()} for key, found in orders.items()}
    shares = [fmean(p if first == model else 1 - p for first, p in found.items()) for found in means.values()]
    both = [found for found in means.values() if len(found) == 2]
    scored = [(j.first == model, SCORES[j.verdict]) for j in seen if j.verdict is not None]
    own = [score if first else 1 - score for first, score in scored]
    return WinRate(
        model,
        against,
        share_of_prompts(shares, level=level, seed=seed),
        own.count(1.0),
        own.count(0.5),
        own.count(0.0),
        len(seen) - len(scored),
        share_of_prompts([fmean(found.values()) for found in both], level=level, seed=seed) if both else None,
        rate([found[model] != 1 - found[against] for found in both], range(len(both)), level=level) if both else None,
        len(means) - len(both),
    )


def checked(judgements: Sequence[Judgement]) -> Sequence[Judgement]:
    """Return `judgements` if their verdicts are known ones and none compares a model with itself."""
    for j in judgements:
        if j.verdict is not None and j.verdict not in SCORES:
            raise DataError(f"verdict '{j.verdict}' on prompt {j.prompt!r} is unknown{nearest(str(j.verdict), SCORES)}")
        if j.first == j.second:
            raise DataError(f"the judgement of prompt {j.prompt!r} compares '{j.first}' with itself")
    return judgements


def by_order(judgements: Sequence[Judgement]) -> dict[tuple[Hashable, frozenset[str]], dict[str, list[float]]]:
    """Scores of the model shown first, by prompt and pair of models and then by that model; unscored ones left out."""
    orders: dict[tuple[Hashable, frozenset[str]], dict[str, list[float]]] = {}
    for j in judgements:
        if j.verdict is not None:
            found = orders.setdefault((j.prompt, frozenset((j.first, j.second))), {})
            found.setdefault(j.first, []).append(SCORES[j.verdict])
    return orders


def share_of_prompts(shares: Sequence[float], *, level: float, seed: int) -> Estimate:
    """Mean of shares of prompts within [0, 1], never with an interval of zero width."""
    found = mean(np.array(shares, dtype=np.float64), range(len(shares)), level=level, seed=seed)
    low, high = found.low, found.high
    if low is None or high is None or high - low < 1e-12:
        reach = clopper_pearson(0, len(shares), level=level)[1]
        low, high = found.mean - reach, found.mean + reach
    return Estimate(
        found.mean, max(0.0, low), min(1.0, high), found.n, found.n_prompts, "mean", level, found.n_effective
    )
