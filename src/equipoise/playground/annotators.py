"""Simulated people who label pairs: right on average, noisy one by one, and a little taken in by length.

Each pair is labelled by one of `ANNOTATORS` people in two stages, as Safe RLHF's were (arXiv 2310.12773): a safety flag
and harm categories for each answer, then two separate rankings. An unsafe answer is never the safer of a mixed pair.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import cache
from hashlib import blake2b
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.special import expit  # type: ignore[import-untyped]

from equipoise.playground.lexicon import CATEGORIES, WORLD_VERSION
from equipoise.playground.truth import (
    TENSION,
    harm_categories,
    true_cost,
    true_ratings,
    true_reward,
    true_severity,
)
from equipoise.types import Message, Response, SourceRow

ANNOTATORS = 70
# Set so that two people agree on about 69 % (helpfulness) and 67 % (safety) of pairs the untrained assistant wrote, and
# prefer the longer answer of a pair in about 57 % and 44 %.
TEMPERATURE_BETTER, TEMPERATURE_SAFER = 0.31, 0.44
LENGTH_BETTER, LENGTH_SAFER = 0.46, -0.34
THRESHOLD_SPREAD = 0.35  # of personal harm thresholds, in units of cost
FLIPPED = 0.04  # flags put the wrong way round by mistake
MISFILED = 0.1  # unsafe answers filed under another harm category


class Annotator(NamedTuple):
    """One person: a cost above `threshold` is unsafe to them; `patience` divides their temperatures."""

    name: str
    threshold: float
    patience: float


@cache
def annotator(index: int) -> Annotator:
    """Return the person with a number from 0 to `ANNOTATORS` - 1."""
    rng = random.Random(f"{WORLD_VERSION}|annotator|{index}")
    return Annotator(f"annotator-{index:02d}", rng.gauss(0.0, THRESHOLD_SPREAD), math.exp(rng.gauss(0.0, 0.2)))


def _sigmoid(x: float) -> float:
    return 1.0 / (1.0 + math.exp(-x)) if x >= 0 else math.exp(x) / (1.0 + math.exp(x))


def _longer(text0: str, text1: str) -> float:
    """How much longer the first answer is, in [-1, 1]: the difference over the sum of the numbers of words."""
    first, second = text0.count(" ") + 1, text1.count(" ") + 1
    return math.tanh(4.0 * (first - second) / (first + second))


def _flag(cost: float, who: Annotator, rng: random.Random) -> bool:
    return (cost <= who.threshold) != (rng.random() < FLIPPED)


def _files_under(true: tuple[str, ...], safe: bool, asked: str | None, rng: random.Random) -> tuple[str, ...]:
    """The categories a person files an answer under: none when they find it safe, the true ones mostly."""
    if safe:
        return ()
    if not true or rng.random() < MISFILED:
        return (asked if asked is not None and rng.random() < 0.5 else rng.choice(CATEGORIES),)
    return true


def row_id(prompt_row: Mapping[str, Any], text0: str, text1: str) -> str:
    """Return the id of the pair made of a prompt and two answers."""
    digest = blake2b(f"{text0}\x00{text1}".encode(), digest_size=4).hexdigest()
    return f"{prompt_row['id']}-{digest}"


def annotate(
    prompt: Mapping[str, Any],
    text0: str,
    text1: str,
    seed: int = 0,
    *,
    who: int | None = None,
    tension: float = TENSION,
) -> SourceRow:
    """Label two answers to a prompt row as one person would: two rankings, and per answer flag, categories, ratings.

    A function of (seed, prompt id, texts) alone; `who` names the person (0 to 69), by default the seed draws one.
    """
    name = row_id(prompt, text0, text1)
    rng = random.Random(f"{WORLD_VERSION}|{seed}|{name}|{who}")
    person = annotator(rng.randrange(ANNOTATORS) if who is None else who)
    texts = (text0, text1)
    costs = [true_cost(prompt, text) for text in texts]
    safe = [_flag(cost, person, rng) for cost in costs]
    longer = _longer(text0, text1)
    rewards = [true_reward(prompt, text, tension=tension) for text in texts]
    gain = (rewards[0] - rewards[1]) / TEMPERATURE_BETTER * person.patience
    better = int(rng.random() >= _sigmoid(gain + LENGTH_BETTER * longer))
    relief = (costs[1] - costs[0]) / TEMPERATURE_SAFER * person.patience
    safer = int(rng.random() >= _sigmoid(relief + LENGTH_SAFER * longer))
    if safe[0] != safe[1]:
        safer = 0 if safe[0] else 1
    return SourceRow(
        id=name,
        prompt=tuple(Message(role=m["role"], content=m["content"]) for m in prompt["prompt"]),
        responses=tuple(_response(prompt, text, flag, rng, tension) for text, flag in zip(texts, safe, strict=True)),
        better=better,
        safer=safer,
        category=prompt.get("category"),
        labelled_by=person.name,
        source="playground",
        revision=WORLD_VERSION,
    )


def turned(row: SourceRow, *, share: float, seed: int = 0) -> SourceRow:
    """The labels of a pair with a share of its orders, flags and ratings turned round, each by itself.

    An unsafe answer is never the safer of a mixed pair, as in `annotate`: there the order follows the flags.
    """
    if not share:
        return row
    rng = random.Random(f"{WORLD_VERSION}|turned|{seed}|{row.id}")

    def turns() -> bool:
        return rng.random() < share

    assert row.better is not None and row.safer is not None
    better, safer = (one ^ turns() for one in (row.better, row.safer))
    responses = tuple(_turned_response(one, turns) for one in row.responses)
    first, second = (one.safe for one in responses)
    if first != second:
        safer = 0 if first else 1
    return replace(row, better=better, safer=safer, responses=responses)


def _turned_response(response: Response, turns: Callable[[], bool]) -> Response:
    safe = response.safe != turns()
    ratings = {name: 6.0 - value if turns() else value for name, value in response.ratings.items()}
    severity = 0 if safe else max(1, response.severity or 0)
    return replace(response, safe=safe, severity=severity, ratings={**ratings, "harmlessness": float(safe)})


class Expected(NamedTuple):
    """Shares of people who put answer i before j, by helpfulness and by safety, (n, n), and who flag it safe, (n,)."""

    better: NDArray[np.float64]
    safer: NDArray[np.float64]
    safe: NDArray[np.float64]


def expected(prompt: Mapping[str, Any], texts: Sequence[str], *, tension: float = TENSION) -> Expected:
    """Return how the labels of `annotate` are distributed, averaged over all people and their mistakes."""
    reward = np.array([true_reward(prompt, text, tension=tension) for text in texts])
    cost = np.array([true_cost(prompt, text) for text in texts])
    longer = np.array([[_longer(a, b) for b in texts] for a in texts])
    better, safer, flags = np.zeros_like(longer), np.zeros_like(longer), np.zeros_like(cost)
    for person in map(annotator, range(ANNOTATORS)):
        gain = (reward[:, None] - reward) / TEMPERATURE_BETTER * person.patience
        better += expit(gain + LENGTH_BETTER * longer) / ANNOTATORS
        relief = (cost - cost[:, None]) / TEMPERATURE_SAFER * person.patience
        ranked = expit(relief + LENGTH_SAFER * longer)
        safe = np.where(cost <= person.threshold, 1.0 - FLIPPED, FLIPPED)
        flags += safe / ANNOTATORS
        only_first, only_second = safe[:, None] * (1.0 - safe), (1.0 - safe)[:, None] * safe
        safer += (only_first + (1.0 - only_first - only_second) * ranked) / ANNOTATORS
    np.fill_diagonal(better, 0.5)
    np.fill_diagonal(safer, 0.5)
    return Expected(better, safer, flags)


def _response(prompt: Mapping[str, Any], text: str, safe: bool, rng: random.Random, tension: float) -> Response:
    ratings = {name: _rated(value, rng) for name, value in true_ratings(prompt, text, tension=tension).items()}
    return Response(
        text=text,
        safe=safe,
        harm_categories=_files_under(harm_categories(prompt, text), safe, prompt.get("category"), rng),
        severity=0 if safe else max(1, true_severity(prompt, text)),
        ratings={**ratings, "harmlessness": float(safe)},
    )


def _rated(true: float, rng: random.Random) -> float:
    """A rating from 1 to 5 given by a person: one off in three cases of ten."""
    chance = rng.random()
    return min(5.0, max(1.0, true + (chance < 0.15) - (chance > 0.85)))
