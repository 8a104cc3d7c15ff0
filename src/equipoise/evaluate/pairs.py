"""Held-out pairs: how often a model's implicit reward agrees with the label, beside the trivial baseline.

The implicit reward of an answer is log pi(y|x) - log pi_base(y|x) (Rafailov et al. 2023, arXiv:2305.18290, eq. 5), so
that of the base itself is 0 for every answer and its accuracy is one half by definition. How often the model finds the
chosen answer likelier, summed and per token, is given beside it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from equipoise.evaluate.choice import choices, share


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
    likelier = choices(logps, trained, [0] * len(prompts), prompts, name="likelihood")
    return {
        "implicit_reward": share(margin, prompts),
        "likelihood": likelier["likelihood"],
        "likelihood_per_token": likelier["likelihood_per_token"],
    }


def longer_wins(trained: NDArray[np.int64], prompts: Sequence[str]) -> Mapping[str, Any]:
    """How often the longer answer (in tokens) is the chosen one."""
    return share((trained[:, 0] - trained[:, 1]).astype(float), prompts)
