"""Which of two answers a model finds likelier: the discriminative half of BFPO's evaluation.

Zhang et al. 2024, arXiv:2408.15313, take the answer with the larger summed log-likelihood, or the larger one after
dividing by length. Deviates: length is counted in tokens here, in characters there (lm-evaluation-harness).
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

from equipoise.errors import DataError
from equipoise.evaluate.suites import Metric, metric_of, unknown_metric
from equipoise.statistics import clopper_pearson, mean

PER_TOKEN, BASELINE = "_per_token", "_baseline"
KIND = "share"  # a mean of wins, between 0 and 1; not a rate, which has no halves and an exact interval


def choices(
    logps: ArrayLike,
    tokens: ArrayLike,
    right: Sequence[int | None],
    prompts: Sequence[str],
    *,
    name: str = "choice",
    level: float = 0.95,
    seed: int = 0,
) -> dict[str, Metric]:
    """Share of pairs in which the right answer is the likelier one, with intervals clustered by prompt.

    `logps` (nats, summed) and `tokens` are (N, 2); `right` is 0, 1, or None where neither answer is the better one.
    Returns `name`, `name_per_token`, and `name_baseline`: the better of "the longer answer is right" and "the shorter
    answer is right", which of the two under `rule`. A tie counts one half; pairs without a right answer are left out
    and counted in `unscored`.
    """
    values, lengths = _checked(logps, tokens, right, prompts)
    kept = [i for i, one in enumerate(right) if one is not None]
    left_out = len(right) - len(kept)
    if not kept:
        empty = unknown_metric(KIND, level=level, unscored=left_out)
        return {f"{name}{suffix}": dict(empty) for suffix in ("", PER_TOKEN, BASELINE)}
    sign = np.array([1.0 if right[i] == 0 else -1.0 for i in kept])
    asked = [prompts[i] for i in kept]

    def agreed(scores: NDArray[np.float64]) -> Metric:
        margin = sign * (scores[kept, 0] - scores[kept, 1])
        return share(margin, asked, unscored=left_out, level=level, seed=seed)

    longer, shorter = agreed(lengths), agreed(-lengths)
    rule = {**longer, "rule": "longer"} if longer["mean"] >= shorter["mean"] else {**shorter, "rule": "shorter"}
    return {name: agreed(values), f"{name}{PER_TOKEN}": agreed(values / lengths), f"{name}{BASELINE}": rule}


def share(
    margin: NDArray[np.float64], prompts: Sequence[str], *, unscored: int = 0, level: float = 0.95, seed: int = 0
) -> Metric:
    """Share of margins above 0, ties one half, with an interval over prompts inside [0, 1].

    Where every pair agrees, a bootstrap would claim certainty; the exact bound on the share of prompts that could
    differ takes its place. Nothing but ties is one half by definition and has no width. The metric's kind is `share`.
    """
    wins = np.where(margin > 0, 1.0, np.where(margin < 0, 0.0, 0.5))
    found = {**metric_of(mean(wins, list(prompts), level=level, seed=seed), unscored=unscored), "kind": KIND}
    if found["low"] is None:
        return found
    if np.ptp(wins) == 0 and wins[0] != 0.5:
        reach = clopper_pearson(0, found["n_prompts"], level=level)[1]
        found |= {"low": found["mean"] - reach, "high": found["mean"] + reach}
    return {**found, "low": max(found["low"], 0.0), "high": min(found["high"], 1.0)}


def _checked(
    logps: ArrayLike, tokens: ArrayLike, right: Sequence[int | None], prompts: Sequence[str]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    values, lengths = np.asarray(logps, dtype=np.float64), np.asarray(tokens, dtype=np.float64)
    shape = (len(right), 2)
    if values.shape != shape or lengths.shape != shape or len(prompts) != len(right):
        raise DataError(
            f"choices need log-probabilities and tokens of two answers, and a prompt, for each of {len(right)} pairs, "
            f"got {values.shape}, {lengths.shape} and {len(prompts)} prompts"
        )
    strange = next((one for one in right if one not in (0, 1, None)), None)
    if strange is not None:
        raise DataError(f"the right answer of a pair is 0, 1 or None, got {strange!r}")
    if not np.isfinite(values).all() or not (lengths > 0).all():
        raise DataError("choices need finite log-probabilities and answers of at least one token")
    return values, lengths
