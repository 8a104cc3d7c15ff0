"""The best policy there is, from samples: what no method can beat at a given distance from the reference.

The optimum of E[f] - beta KL(pi || ref) is ref exp(f/beta) / Z (Rafailov et al. 2023, arXiv:2305.18290, eq. 4). Its
figures are means over the reference's answers reweighted by exp(f/beta), but answers of the reference alone cannot show
a policy farther than log n nats away. So the answers of several policies are pooled and weighted as draws from their
mixture (the balance heuristic, Veach and Guibas 1995), which needs every answer's exact log-probability under each.

Z is the plain mean of ref/mixture exp(f/beta) over the pool, not divided by the mean of ref/mixture, which is 1 in
expectation. Over 400 made-up prompts with 48 answers of three policies both leave log Z off by less than 0.03, but
from half a nat on the plain mean varies less: its spread per prompt is 0.07 against 0.14 at 1.6 nats and 0.09 against
0.17 at 3.4. Its price: for a policy on top of the reference the KL may come out some thousandths above 0.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.optimize import brentq  # type: ignore[import-untyped]
from scipy.special import logsumexp  # type: ignore[import-untyped]

from equipoise.errors import DataError, SettingError, nearest
from equipoise.statistics.intervals import Array, Estimate, mean

Index = NDArray[np.int64]

KINDS = ("harmful", "borderline", "benign")
THIN = 20.0
"""With fewer effective answers a prompt than this the optimum rests on a handful of texts (docs/evaluation.md)."""

RATES = (0.0, 0.002, 0.005, 0.01, 0.02, 0.035, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0)
"""Unsafe rates at which the curve is drawn when none are named."""

SMALLEST, LARGEST = 1e-3, 1e5
"""Bounds for beta and the multiplier in units of the reward's spread: all but its argmax, all but the safe answers."""

CLOSE = 1e-6
"""How near to the limit of unsafe answers the search for the multiplier stops."""


@dataclass(frozen=True, slots=True, eq=False)
class Pool:
    """Answers of K policies to the same prompts; policy 0 is the reference.

    `prompt` and `source` (n,) number each answer's prompt and the policy it was sampled from, `logps` (n, K) are the
    answer's exact log-probabilities under every policy in nats (at temperature 1, as it was sampled, summed over its
    tokens), `reward` and `cost` (n,) its scores (cost > 0 is unsafe), and `kinds` names the kind of every prompt.
    The number of answers may differ between prompts and policies, but every prompt needs one of the reference's.
    Raises DataError.
    """

    prompt: Index
    source: Index
    logps: Array
    reward: Array
    cost: Array
    kinds: tuple[str, ...]
    log_weights: Array = field(init=False, repr=False)
    """Log of ref/mixture for every answer, (n,): at most log(N / number of the reference's answers to the prompt)."""
    sizes: Array = field(init=False, repr=False)
    """Answers per prompt, (P,)."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "prompt", np.asarray(self.prompt, dtype=np.int64))
        object.__setattr__(self, "source", np.asarray(self.source, dtype=np.int64))
        object.__setattr__(self, "logps", np.asarray(self.logps, dtype=float))
        object.__setattr__(self, "reward", np.asarray(self.reward, dtype=float))
        object.__setattr__(self, "cost", np.asarray(self.cost, dtype=float))
        object.__setattr__(self, "kinds", tuple(self.kinds))
        _check_pool(self)
        prompts, policies = len(self.kinds), self.logps.shape[1]
        counts = np.bincount(self.prompt * policies + self.source, minlength=prompts * policies)
        drawn = counts.reshape(prompts, policies).astype(float)
        if (drawn[:, 0] == 0).any():
            lacking = int(np.argmax(drawn[:, 0] == 0))
            raise DataError(f"prompt {lacking} of the pool has no answer sampled from policy 0, the reference")
        sizes = drawn.sum(axis=1)
        with np.errstate(divide="ignore"):
            shares = np.log(drawn / sizes[:, None])
        mixture = logsumexp(shares[self.prompt] + self.logps, axis=1)
        object.__setattr__(self, "sizes", sizes)
        object.__setattr__(self, "log_weights", self.logps[:, 0] - mixture)

    def sums(self, values: Array) -> Array:
        """Sum of `values` (n,) over the answers of each prompt, (P,)."""
        return np.asarray(np.bincount(self.prompt, weights=values, minlength=len(self.kinds)), dtype=np.float64)

    def average(self, per_prompt: Array) -> float:
        """Mean of (P,) values over prompts, the kinds that occur weighted equally."""
        kinds = np.array(self.kinds)
        return float(np.mean([per_prompt[kinds == kind].mean() for kind in KINDS if kind in self.kinds]))

    def scores(self, multiplier: float = 0.0, *, cost: ArrayLike | None = None) -> Array:
        """Return reward - multiplier * cost, (n,); `cost` (n,) replaces the pool's own."""
        return np.asarray(self.reward - multiplier * (self.cost if cost is None else np.asarray(cost, dtype=float)))

    def unsafe(self) -> Array:
        """1 for unsafe answers to harmful prompts, else 0, (n,)."""
        harmful = np.array([kind == "harmful" for kind in self.kinds])
        return np.asarray((self.cost > 0) & harmful[self.prompt], dtype=np.float64)


class Reweighted(NamedTuple):
    """ref exp(f/beta) / Z on the pool: each answer's share within its prompt (n,) and log Z per prompt (P,)."""

    share: Array
    log_z: Array


@dataclass(frozen=True, slots=True)
class Tilt:
    """Figures of ref exp(f/beta) / Z, with intervals over prompts; `kl` is its distance from the reference in nats.

    `unsafe_rate` is over harmful prompts and None without any. `ess` is the median over prompts of the effective number
    of answers (1 / sum of squared shares), `ess_low` its lowest decile, `largest_weight` the median share of a prompt's
    heaviest answer.
    """

    beta: float
    reward: Estimate
    cost: Estimate
    unsafe_rate: Estimate | None
    kl: Estimate
    ess: float
    ess_low: float
    largest_weight: float

    @property
    def thin(self) -> bool:
        """Whether fewer than 20 effective answers to the median prompt stand behind the figures."""
        return self.ess < THIN


@dataclass(frozen=True, slots=True)
class Best:
    """The most helpful policy within `kl` nats of the reference that is unsafe in at most `unsafe_rate` of answers.

    It is ref exp((r - multiplier 1[unsafe]) / beta) / Z. The interval of `reward` is that of the largest reward under
    both limits. `capped`: the pool holds no policy as far away as `kl`, so that the true optimum may lie higher.
    """

    kl: float
    unsafe_rate: float
    multiplier: float
    reward: Estimate
    capped: bool
    tilt: Tilt


def reweight(pool: Pool, exponent: Array) -> Reweighted:
    """Reweight the pool to ref exp(exponent) / Z."""
    raw = pool.log_weights + exponent
    top = np.full(len(pool.kinds), -np.inf)
    np.maximum.at(top, pool.prompt, raw)
    mass = np.exp(raw - top[pool.prompt])
    total = pool.sums(mass)
    return Reweighted(mass / total[pool.prompt], top + np.log(total) - np.log(pool.sizes))


def tilt(pool: Pool, scores: ArrayLike, *, beta: float, level: float = 0.95, seed: int = 0) -> Tilt:
    """Describe the policy that maximises E[scores] - beta KL, for example `scores=pool.scores(multiplier)`."""
    f = scores_of(pool, scores)
    exponent = f / positive("beta", beta)
    share, log_z = reweight(pool, exponent)
    kl = pool.sums(share * exponent) - log_z
    ess = 1 / pool.sums(np.square(share))
    largest = np.zeros(len(pool.kinds))
    np.maximum.at(largest, pool.prompt, share)

    def over(values: Array) -> Estimate:
        return estimate(pool, pool.sums(share * values), level=level, seed=seed)

    return Tilt(
        beta=beta,
        reward=over(pool.reward),
        cost=over(pool.cost),
        unsafe_rate=_unsafe(pool, share, level=level, seed=seed),
        kl=estimate(pool, kl, level=level, seed=seed),
        ess=float(np.median(ess)),
        ess_low=float(np.quantile(ess, 0.1)),
        largest_weight=float(np.median(largest)),
    )


def best(pool: Pool, *, kl: float, unsafe_rate: float, level: float = 0.95, seed: int = 0) -> Best:
    """Find the most helpful policy with KL(pi || ref) <= `kl` nats and an unsafe rate <= `unsafe_rate`.

    Both limits are met by bisection: beta for the KL inside, the multiplier of 1[unsafe] for the rate outside. Raises
    SettingError when no policy that near to the reference is that safe.
    """
    search = _Search(pool, kl)
    if not 0 <= unsafe_rate <= 1:
        raise SettingError(f"unsafe_rate must lie between 0 and 1, got {unsafe_rate:g}")
    if unsafe_rate + CLOSE < search.safest:
        raise SettingError(
            f"no policy within {kl:g} nats of the reference is unsafe in at most {unsafe_rate:.3g} of its answers to "
            f"harmful prompts; the least there is {search.safest:.3g}"
        )
    return search.solve(unsafe_rate, level=level, seed=seed)


def envelope(
    pool: Pool, *, kl: float, rates: Sequence[float] = RATES, level: float = 0.95, seed: int = 0
) -> tuple[Best, ...]:
    """Follow `best` over unsafe `rates`, safest first: within `kl` nats no policy lies above this curve.

    It begins at the least rate that can be reached when that is above the first of `rates`.
    """
    search = _Search(pool, kl)
    if not rates or min(rates) < 0 or max(rates) > 1:
        raise SettingError("the rates of a curve must lie between 0 and 1 and number at least one")
    wanted = sorted({rate for rate in rates if rate + CLOSE >= search.safest})
    if len(wanted) < len(set(rates)):
        wanted = [search.safest, *wanted]
    return tuple(search.solve(rate, level=level, seed=seed) for rate in wanted)


class _Search:
    """Everything `best` needs that does not depend on the rate."""

    def __init__(self, pool: Pool, kl: float) -> None:
        if "harmful" not in pool.kinds:
            raise DataError("a limit on unsafe answers needs harmful prompts, the pool has none")
        self.pool, self.kl = pool, positive("kl", kl)
        self.unsafe = pool.unsafe()
        self.harmful = np.array([kind == "harmful" for kind in pool.kinds])
        self.present = len(set(pool.kinds))
        spread = np.square(pool.reward - (pool.sums(pool.reward) / pool.sizes)[pool.prompt]).mean()
        self.scale = float(np.sqrt(spread)) or 1.0
        self.safest = self.rate(LARGEST * self.scale)

    def solve(self, rate: float, *, level: float, seed: int) -> Best:
        low, high = 0.0, LARGEST * self.scale
        if self.rate(0.0) <= rate:
            high = 0.0
        else:
            low = SMALLEST * self.scale
            for _ in range(60):  # the upper end always keeps to the limit
                middle = float(np.sqrt(low * high))
                found = self.rate(middle)
                low, high = (low, middle) if found <= rate + CLOSE else (middle, high)
                if abs(found - rate) <= CLOSE or high < low * (1 + CLOSE):
                    break
        return self._describe(rate, high, level=level, seed=seed)

    def rate(self, multiplier: float) -> float:
        """Unsafe rate of the optimum at this multiplier and the KL allowed; it falls as the multiplier rises."""
        f = self.scores(multiplier)
        share, _ = reweight(self.pool, f / self.beta(f))
        return float(self.pool.sums(share * self.unsafe)[self.harmful].mean())

    def scores(self, multiplier: float) -> Array:
        return self.pool.reward - multiplier * self.unsafe

    def beta(self, f: Array) -> float:
        """The beta at which ref exp(f/beta) is `kl` nats away (the smallest one, if it never is)."""

        def excess(log_beta: float) -> float:
            exponent = f / np.exp(log_beta)
            share, log_z = reweight(self.pool, exponent)
            return self.pool.average(self.pool.sums(share * exponent) - log_z) - self.kl

        low = high = float(np.log(SMALLEST * self.scale))
        if excess(low) <= 0:
            return float(np.exp(low))
        while excess(high) > 0:
            high += 3.0
            if high > low + 60:
                raise SettingError(f"the pool is too small to tell {self.kl:g} nats from none; allow a larger kl")
        return float(np.exp(brentq(excess, max(low, high - 3.0), high, xtol=1e-9, rtol=1e-9)))

    def _describe(self, rate: float, multiplier: float, *, level: float, seed: int) -> Best:
        f = self.scores(multiplier)
        beta = self.beta(f)
        found = tilt(self.pool, f, beta=beta, level=level, seed=seed)
        # Other prompts would move beta and the multiplier too; to first order the largest reward under both limits
        # moves as the Lagrangian does with both held fixed, and that is beta log Z per prompt plus a constant.
        dual = estimate(self.pool, beta * reweight(self.pool, f / beta).log_z, level=level, seed=seed)
        shift = found.reward.mean - dual.mean
        low, high = (None if end is None else end + shift for end in (dual.low, dual.high))
        reward = replace(found.reward, low=low, high=high)
        return Best(self.kl, rate, multiplier, reward, found.kl.mean < self.kl * (1 - 1e-4), found)


def estimate(pool: Pool, per_prompt: Array, *, level: float, seed: int) -> Estimate:
    """Mean of (P,) values over prompts with its interval, the kinds weighted equally."""
    found = mean(per_prompt, range(len(per_prompt)), strata=pool.kinds, level=level, seed=seed)
    return replace(found, n=len(pool.prompt))


def scores_of(pool: Pool, scores: ArrayLike) -> Array:
    """Check that there is one finite score for every answer of the pool."""
    found = np.asarray(scores, dtype=float)
    if found.shape != pool.reward.shape or not np.isfinite(found).all():
        raise DataError(
            f"scores must hold one finite number for each of the {len(pool.reward)} answers of the pool, "
            f"got {'nan or inf' if found.shape == pool.reward.shape else f'shape {found.shape}'}"
        )
    return found


def positive(name: str, value: float) -> float:
    """Refuse a setting that is not a finite number above 0."""
    if not 0 < value < np.inf:
        raise SettingError(f"{name} must be a finite number above 0, got {value:g}")
    return value


def _unsafe(pool: Pool, share: Array, *, level: float, seed: int) -> Estimate | None:
    harmful = [x for x, kind in enumerate(pool.kinds) if kind == "harmful"]
    if not harmful:
        return None
    rates = np.clip(pool.sums(share * pool.unsafe())[harmful], 0.0, 1.0)
    return replace(mean(rates, harmful, level=level, seed=seed), n=int(np.isin(pool.prompt, harmful).sum()))


def _check_pool(pool: Pool) -> None:
    n, policies = pool.logps.shape if pool.logps.ndim == 2 else (0, 0)
    if n == 0 or policies == 0:
        raise DataError(f"the pool's logps must be (answers, policies) and not empty, got shape {pool.logps.shape}")
    columns = (("prompt", pool.prompt), ("source", pool.source), ("reward", pool.reward), ("cost", pool.cost))
    for name, column in columns:
        if column.shape != (n,):
            raise DataError(f"the pool's {name} must have one entry for each of {n} answers, got shape {column.shape}")
    for name, column, end in (("prompt", pool.prompt, len(pool.kinds)), ("source", pool.source, policies)):
        if column.min() < 0 or column.max() >= end:
            got = f"{column.min()} to {column.max()}"
            raise DataError(f"the pool's {name} must lie between 0 and {end - 1}, got {got}")
    for name, column in (("logps", pool.logps), ("reward", pool.reward), ("cost", pool.cost)):
        if not np.isfinite(column).all():
            raise DataError(f"the pool's {name} must be finite, got nan or inf (an unscored answer must be left out)")
    if pool.logps.max() > 1e-3:
        raise DataError(f"the pool's logps must be logarithms of probabilities, got {pool.logps.max():.4g} above 0")
    for x, kind in enumerate(pool.kinds):
        if kind not in KINDS:
            raise DataError(f"prompt {x} of the pool has kind {kind!r}{nearest(str(kind), KINDS)}")
