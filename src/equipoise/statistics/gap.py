"""How far a trained policy is from the optimum of its own objective: 0 when it is there, 1 when it never left the base.

For f, beta and pi* = ref exp(f/beta) / Z, what a policy lacks is J* - J(pi) = beta KL(pi || pi*), and
KL(pi || pi*) = log Z - E_pi[f] / beta + KL(pi || ref), so that samples of pi and log Z suffice. The gap divides it by
the same figure for the reference.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import ArrayLike
from scipy.special import expit  # type: ignore[import-untyped]

from equipoise.errors import DataError
from equipoise.statistics.intervals import DRAWS, Array, Estimate
from equipoise.statistics.optimum import THIN, Index, Pool, estimate, positive, reweight, scores_of

Preference = Callable[[int, Index], Array]
"""(number of the prompt, rows of the pool) -> (m, m) matrix: how probably row i is labelled better than row j."""

RIDGE = 1e-7
"""Pull of fitted scores towards their mean: without it an answer that wins every comparison would score infinity.
Scores that the labels determine move by some hundred-thousandths; an answer always preferred ends about 14 above."""

STEPS = 200
"""Newton steps after which a fit is given up; a few dozen are usual."""


@dataclass(frozen=True, slots=True, eq=False)
class Answers:
    """A policy's own answers to the pool's prompts, each (m,), in nats where they are log-probabilities.

    `prompt` numbers the pool's prompts, `score` is f, `logp` is under the policy and `ref_logp` under the reference.
    """

    prompt: Index
    score: Array
    logp: Array
    ref_logp: Array


@dataclass(frozen=True, slots=True)
class Gap:
    """`value` = `missing` / `whole`: KL(pi || pi*) over KL(ref || pi*), these two in nats.

    `ess` is the median effective number of answers behind pi*. By chance `value` may come out a little below 0.
    """

    value: Estimate
    missing: Estimate
    whole: Estimate
    ess: float

    @property
    def thin(self) -> bool:
        """Whether fewer than 20 effective answers to the median prompt stand behind pi*."""
        return self.ess < THIN


def gap(
    pool: Pool, scores: ArrayLike, policy: int | Answers, *, beta: float, level: float = 0.95, seed: int = 0
) -> Gap:
    """Gap of a policy to ref exp(scores / beta) / Z; `policy` is its number in the pool, or its own answers.

    `scores` (n,) belong to the pool's answers; those in `Answers` must come from the same function. Numerator and
    denominator share log Z, and the bootstrap draws prompts for both together. Raises DataError when a prompt lacks an
    answer of the policy, or when the reference is itself the optimum.
    """
    f = scores_of(pool, scores)
    share, log_z = reweight(pool, f / positive("beta", beta))
    whole = log_z - _advantage(pool, _sampled(pool, f, 0), beta)
    own = _sampled(pool, f, policy) if isinstance(policy, int) else policy
    return _gap(pool, log_z - _advantage(pool, own, beta), whole, share, level=level, seed=seed)


def target_gap(
    pool: Pool, scores: ArrayLike, targets: ArrayLike, *, beta: float, level: float = 0.95, seed: int = 0
) -> Gap:
    """Gap of ref exp(targets / beta) / Z to ref exp(scores / beta) / Z, both (n,) over the pool.

    With `targets` from `population_scores` it is the part of a method's gap that its data teach: more pairs and more
    training cannot remove it. What is left of the method's gap is training's.
    """
    f, s = scores_of(pool, scores), scores_of(pool, targets)
    share, log_z = reweight(pool, f / positive("beta", beta))
    taught, log_taught = reweight(pool, s / beta)
    missing = pool.sums(taught * (s - f) / beta) - log_taught + log_z
    whole = log_z - _advantage(pool, _sampled(pool, f, 0), beta)
    return _gap(pool, missing, whole, share, level=level, seed=seed)


def population_scores(pool: Pool, preference: Preference, *, ridge: float = RIDGE) -> Array:
    """Scores s, (n,), that DPO on infinitely many pairs would teach: its optimum is ref exp(s / beta) / Z.

    Per prompt they minimise the cross-entropy of sigma(s_i - s_j) to the labels, over pairs drawn as the reference
    would draw them, plus ridge/2 E_ref[s^2]; E_ref[s] = 0. Bradley-Terry labels give their utilities back (Rafailov et
    al. 2023, arXiv:2305.18290, section 5); other annotators teach something else, and this is what.
    """
    positive("ridge", ridge)
    fitted = np.zeros(len(pool.prompt))
    order = np.argsort(pool.prompt, kind="stable")
    for x, rows in enumerate(np.split(order, np.cumsum(pool.sizes).astype(int)[:-1])):
        labels = np.asarray(preference(x, rows), dtype=float)
        _check_labels(labels, x, len(rows))
        log_weights = pool.log_weights[rows]
        weights = np.exp(log_weights - log_weights.max())
        fitted[rows] = _fit(labels, weights / weights.sum(), ridge=ridge, prompt=x)
    return fitted


def _fit(labels: Array, weights: Array, *, ridge: float, prompt: int) -> Array:
    """Solve sum_j w_j (sigma(s_i - s_j) - P_ij) + ridge s_i = 0 for all i by damped Newton steps, (m,).

    These are the gradients divided by w_i: the many answers that the reference hardly ever gives stay well determined.
    """
    s = np.zeros(len(weights))
    others = np.tile(weights, (len(weights), 1))
    np.fill_diagonal(others, 0.0)
    wanted = (others * labels).sum(axis=1)

    def residual(at: Array) -> Array:
        return np.asarray((others * expit(at[:, None] - at[None, :])).sum(axis=1) - wanted + ridge * at)

    error = residual(s)
    for _ in range(STEPS):
        if np.abs(error).max() < 1e-11:
            return s
        given = expit(s[:, None] - s[None, :])
        slope = others * given * (1 - given)
        jacobian = np.diag(slope.sum(axis=1) + ridge) - slope
        step = np.linalg.solve(jacobian, -error)
        # A longer step would leave the region where the logistic curve resembles its tangent.
        step *= min(1.0, 2.0 / max(float(np.ptp(step)), 1e-300))
        s = s + step
        error = residual(s)
    raise DataError(f"the scores of prompt {prompt} cannot be fitted to its labels (off by {np.abs(error).max():.2g})")


def _sampled(pool: Pool, f: Array, policy: int) -> Answers:
    if not 0 <= policy < pool.logps.shape[1]:
        raise DataError(f"the pool has policies 0 to {pool.logps.shape[1] - 1}, got {policy}")
    rows = pool.source == policy
    return Answers(pool.prompt[rows], f[rows], pool.logps[rows, policy], pool.logps[rows, 0])


def _advantage(pool: Pool, own: Answers, beta: float) -> Array:
    """E_pi[f] / beta - KL(pi || ref) per prompt, (P,)."""
    values = np.asarray(own.score) / beta - (np.asarray(own.logp) - np.asarray(own.ref_logp))
    prompt = np.asarray(own.prompt)
    prompts = len(pool.kinds)
    if values.shape != prompt.shape or not np.isfinite(values).all():
        raise DataError("answers of a policy need a prompt, a finite score, logp and ref_logp each")
    if len(prompt) and not (prompt.min() >= 0 and prompt.max() < prompts):
        raise DataError(f"answers of a policy must be to the pool's prompts 0 to {prompts - 1}, got {prompt.max()}")
    count = np.bincount(prompt, minlength=prompts)
    if (count == 0).any():
        raise DataError(
            f"the policy has no answer to prompt {int(np.argmin(count))}: its gap needs one to every prompt"
        )
    return np.asarray(np.bincount(prompt, weights=values, minlength=prompts) / count)


def _gap(pool: Pool, missing: Array, whole: Array, share: Array, *, level: float, seed: int) -> Gap:
    below = estimate(pool, whole, level=level, seed=seed)
    if below.mean <= 0:
        raise DataError(f"the reference is as good as the optimum (KL {below.mean:.2g}): there is no gap to close")
    above = estimate(pool, missing, level=level, seed=seed)
    low, high = _ratio_interval(pool, missing, whole, level=level, seed=seed)
    value = replace(above, mean=above.mean / below.mean, low=low, high=high)
    return Gap(value, above, below, float(np.median(1 / pool.sums(np.square(share)))))


def _ratio_interval(
    pool: Pool, above: Array, below: Array, *, level: float, seed: int
) -> tuple[float | None, float | None]:
    """Percentile bootstrap of a ratio of means, prompts drawn within their kind as in `intervals.mean`."""
    generator = np.random.default_rng(seed)
    kinds = np.array(pool.kinds)
    sums = np.zeros((2, DRAWS))
    for kind in sorted(set(pool.kinds)):
        own = np.stack([above, below])[:, kinds == kind]
        prompts = own.shape[1]
        if prompts == 1:
            return None, None
        centre = own.mean(axis=1, keepdims=True)
        times = generator.multinomial(prompts, np.full(prompts, 1 / prompts), size=DRAWS)
        drawn = own @ times.T / prompts
        sums += centre + (drawn - centre) * math.sqrt(prompts / (prompts - 1))
    tail = (1 - level) / 2
    low, high = np.quantile(sums[0] / sums[1], (tail, 1 - tail))
    return float(low), float(high)


def _check_labels(labels: Array, prompt: int, answers: int) -> None:
    if labels.shape != (answers, answers):
        raise DataError(f"the labels of prompt {prompt} must be ({answers}, {answers}), got shape {labels.shape}")
    apart = np.abs(labels + labels.T - 1) * (1 - np.eye(answers))
    if not (np.isfinite(labels).all() and labels.min() >= 0 and labels.max() <= 1 and apart.max() < 1e-6):
        raise DataError(
            f"the labels of prompt {prompt} must be probabilities with P[i, j] + P[j, i] = 1, "
            f"got {labels.min():.3g} to {labels.max():.3g}, sums off by {apart.max():.3g}"
        )
