"""Held-out pairs: how often a model's implicit reward agrees with the label, beside the trivial baseline.

The implicit reward of an answer is log pi(y|x) - log pi_base(y|x) (Rafailov et al. 2023, arXiv:2305.18290, eq. 5), so
that of the base itself is 0 for every answer and its accuracy is one half by definition. How often the model finds the
chosen answer likelier per token is given beside it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from equipoise.statistics import mean


def pair_accuracies(
    logps: NDArray[np.float64],
    base_logps: NDArray[np.float64],
    trained: NDArray[np.int64],
    prompts: Sequence[str],
) -> dict[str, Mapping[str, Any]]:
    """Accuracies over held-out pairs with intervals clustered by prompt; a tie counts one half.

    `logps`, `base_logps` and `trained` (tokens) are (N, 2), chosen first; `prompts` names each pair's prompt.
    """
    margin = (logps - base_logps)[:, 0] - (logps - base_logps)[:, 1]
    per_token = logps / trained
    return {
        "implicit_reward": _share(margin, prompts),
        "likelihood_per_token": _share(per_token[:, 0] - per_token[:, 1], prompts),
    }


def longer_wins(trained: NDArray[np.int64], prompts: Sequence[str]) -> Mapping[str, Any]:
    """How often the longer answer (in tokens) is the chosen one."""
    return _share((trained[:, 0] - trained[:, 1]).astype(float), prompts)


def _share(margin: NDArray[np.float64], prompts: Sequence[str]) -> Mapping[str, Any]:
    wins = np.where(margin > 0, 1.0, np.where(margin < 0, 0.0, 0.5))
    found = mean(wins.tolist(), list(prompts))
    return {
        "mean": found.mean,
        "low": found.low,
        "high": found.high,
        "n": found.n,
        "n_prompts": found.n_prompts,
        "kind": "mean",
        "level": found.level,
        "unscored": 0,
    }
