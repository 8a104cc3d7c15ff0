"""The playground's optimum: answers of several policies to the same prompts, scored by all of them and by the truth.

The densities are exact because sampling is at temperature 1; see `statistics.optimum` for what is made of them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.special import expit  # type: ignore[import-untyped]

from equipoise.generate import Sampling
from equipoise.playground.annotators import TEMPERATURE_BETTER, TEMPERATURE_SAFER, Expected, expected
from equipoise.playground.stages import ScoreConfig, playground_scores
from equipoise.records import read_jsonl
from equipoise.stages import CompletionLogpsConfig, GenerateConfig, completion_logps, generate
from equipoise.statistics.gap import Answers, Gap, gap, population_scores, target_gap
from equipoise.statistics.optimum import Index, Pool
from equipoise.types import Artefact

Array = NDArray[np.float64]


class Aim(NamedTuple):
    """Where a method's setting leads: ref exp((helpful * u + safe * v) / beta), u and v in the annotators' logits.

    DPO on `better` has weights (1, 0), SACPO (1, lambda), P-SACPO (1, q * lambda), a merge of single aims (1 - q, q).
    `unsafe` is taken off every answer whose v is below 0, unsafe ones alike. `true`: labels came from the truth itself,
    so that they alone would leave no gap.
    """

    beta: float
    helpful: float
    safe: float
    unsafe: float = 0.0
    true: bool = False

    def scores(self, helpful: Array, safe: Array) -> Array:
        """The weighted sum of two utilities."""
        return self.helpful * helpful + self.safe * safe - self.unsafe * (safe < 0)

    def on(self, pooled: Pooled, prompt: Index, helpful: Array, safe: Array) -> Array:
        """The same of answers to the pool's prompts, (m,): no other answer matters."""
        return self.scores(helpful, safe)

    def taught(self, pooled: Pooled) -> Array:
        """What infinitely many labels of the annotators teach in its place, (n,) over the pool."""
        return self.scores(*pooled.taught)


class BfpoAim(NamedTuple):
    """Where BFPO leads: ref exp(f / tau), f being an answer's mean label against the reference's own answers.

    Zhang et al. 2024, arXiv:2408.15313. With P(y > y') by helpfulness and flags I the squared loss over all pairs has
    the minimum f(y) = E_y'[P(y > y') L(I, I') - P(y' > y) L(I', I)] for the label L of `objectives.safety.bfpo_label`.
    """

    tau: float
    alpha: float = 0.5
    b1: float = 3.0

    @property
    def beta(self) -> float:
        """What f is divided by."""
        return self.tau

    @property
    def true(self) -> bool:
        """Its labels are the annotators'."""
        return False

    def on(self, pooled: Pooled, prompt: Index, helpful: Array, safe: Array) -> Array:
        """f of answers to the pool's prompts by the truth, (m,); helpful and safe in the annotators' logits."""
        pool, (known, known_safe) = pooled.pool, pooled.utilities
        out = np.zeros(len(prompt))
        for x in np.unique(prompt):
            rows, own = np.flatnonzero(pool.prompt == x), np.flatnonzero(prompt == x)
            order = expit(helpful[own, None] - known[None, rows])
            out[own] = self._mean(order, (safe[own] >= 0) * 1.0, (known_safe[rows] >= 0) * 1.0, pooled.weights(rows))
        return out

    def taught(self, pooled: Pooled) -> Array:
        """f by the annotators' orders and flags, (n,) over the pool."""
        out = np.zeros(len(pooled.pool.prompt))
        for x in range(len(pooled.pool.kinds)):
            rows = np.flatnonzero(pooled.pool.prompt == x)
            said = pooled.said(rows)
            out[rows] = self._mean(said.better, said.safe, said.safe, pooled.weights(rows))
        return out

    def _mean(self, order: Array, own: Array, other: Array, weights: Array) -> Array:
        first = (self.b1 * own[:, None] - other[None, :]) / (self.b1 - 1) - self.alpha
        second = (self.b1 * other[None, :] - own[:, None]) / (self.b1 - 1) - self.alpha
        return np.asarray((order * first - (1 - order) * second) @ weights)


class Part(NamedTuple):
    """A model's gap, and the part of it that its labels would leave after perfect training."""

    gap: Gap
    target: Gap


@dataclass(frozen=True)
class Pooled:
    """The pool, the rows behind it, and what was asked; policy 0 is the base."""

    pool: Pool
    rows: tuple[Mapping[str, Any], ...]
    places: Mapping[str, int]
    labels: tuple[str, ...]
    tension: float
    _labels: dict[int, Expected] = field(default_factory=dict, repr=False, compare=False)

    @cached_property
    def utilities(self) -> tuple[Array, Array]:
        """True reward and negated true cost at the annotators' temperatures, (n,) each."""
        return self.pool.reward / TEMPERATURE_BETTER, -self.pool.cost / TEMPERATURE_SAFER

    @cached_property
    def taught(self) -> tuple[Array, Array]:
        """What infinitely many labels of the annotators teach DPO, biases and flags included, (n,) each."""
        helpful = population_scores(self.pool, lambda x, rows: self.said(rows).better)
        return helpful, population_scores(self.pool, lambda x, rows: self.said(rows).safer)

    def said(self, rows: Index) -> Expected:
        """How the annotators' labels of some answers to one prompt are distributed."""
        prompt = int(self.pool.prompt[rows[0]])
        if prompt not in self._labels:
            texts = [self.rows[i]["text"] for i in rows]
            self._labels[prompt] = expected(self.rows[rows[0]], texts, tension=self.tension)
        return self._labels[prompt]

    def weights(self, rows: Index) -> Array:
        """How the reference would draw from some answers to one prompt, (m,), summing to 1."""
        log_weights = self.pool.log_weights[rows]
        weights = np.exp(log_weights - log_weights.max())
        return np.asarray(weights / weights.sum())

    def part(
        self, model: Artefact | int, aim: Aim | BfpoAim, *, base: Artefact, prompts: Artefact, sampling: Sampling
    ) -> Part:
        """Gap of a policy of the pool (its number), or of a model that answers the same prompts."""
        truth = aim.on(self, self.pool.prompt, *self.utilities)
        own = model if isinstance(model, int) else self._answers(model, aim, base, prompts, sampling)
        taught = truth if aim.true else aim.taught(self)
        target = target_gap(self.pool, truth, taught, beta=aim.beta)
        return Part(gap(self.pool, truth, own, beta=aim.beta), target)

    def _answers(
        self, model: Artefact, aim: Aim | BfpoAim, base: Artefact, prompts: Artefact, sampling: Sampling
    ) -> Answers:
        rows = answered(model, base, prompts, sampling, tension=self.tension)
        prompt = np.array([self.places[row["prompt_id"]] for row in rows])
        return Answers(
            prompt=prompt,
            score=aim.on(
                self,
                prompt,
                np.array([row["reward"] for row in rows]) / TEMPERATURE_BETTER,
                -np.array([row["cost"] for row in rows]) / TEMPERATURE_SAFER,
            ),
            logp=np.array([row["logp"] for row in rows]),
            ref_logp=np.array([row["ref_logp"] for row in rows]),
        )


def answered(
    model: Artefact, base: Artefact, prompts: Artefact, sampling: Sampling, *, tension: float
) -> list[dict[str, Any]]:
    """A model's answers with their true scores (`reward`, `cost`, `refused`), `logp` and the base's `ref_logp`."""
    answers = generate(GenerateConfig(sampling=sampling), model=model, prompts=prompts)
    return scored(answers, base, tension=tension)


def scored(answers: Artefact, base: Artefact, *, tension: float) -> list[dict[str, Any]]:
    """Stored answers with their true scores and the base's log-probability beside their own."""
    scores = playground_scores(ScoreConfig(tension=tension), completions=answers)
    ref = logps_under(base, answers)
    rows, known = read_jsonl(answers.path / "completions.jsonl"), read_jsonl(scores.path / "scores.jsonl")
    return [{**row, **score, "ref_logp": float(r)} for row, score, r in zip(rows, known, ref, strict=True)]


def logps_under(model: Artefact, answers: Artefact, *, condition: dict[str, float] | None = None) -> Array:
    """Log-probability of stored answers under a model (asked under a condition), (N,), in nats."""
    found = completion_logps(CompletionLogpsConfig(condition=condition), model=model, completions=answers)
    return np.asarray(np.load(found.path / "logps.npy"), dtype=np.float64)


def pooled(policies: Mapping[str, Artefact], prompts: Artefact, sampling: Sampling, *, tension: float) -> Pooled:
    """Sample every policy on every prompt and score every answer under every policy; the first one is the base."""
    asked = read_jsonl(prompts.path / "prompts.jsonl")
    places = {row["id"]: place for place, row in enumerate(asked)}
    rows: list[dict[str, Any]] = []
    columns: list[list[Array]] = [[] for _ in policies]
    for source, model in enumerate(policies.values()):
        answers = generate(GenerateConfig(sampling=sampling), model=model, prompts=prompts)
        known = read_jsonl(playground_scores(ScoreConfig(tension=tension), completions=answers).path / "scores.jsonl")
        said = read_jsonl(answers.path / "completions.jsonl")
        rows += [{**row, **score, "source": source} for row, score in zip(said, known, strict=True)]
        for column, other in zip(columns, policies.values(), strict=True):
            column.append(logps_under(other, answers))
    pool = Pool(
        prompt=np.array([places[row["prompt_id"]] for row in rows]),
        source=np.array([row["source"] for row in rows]),
        logps=np.stack([np.concatenate(column) for column in columns], axis=1),
        reward=np.array([row["reward"] for row in rows]),
        cost=np.array([row["cost"] for row in rows]),
        kinds=tuple(row["kind"] for row in asked),
    )
    return Pooled(pool, tuple(rows), places, tuple(policies), tension)
