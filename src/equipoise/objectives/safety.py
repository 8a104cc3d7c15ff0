"""Preference losses that know which answers are safe, or what a second objective thinks of them.

As in `preference`: positional parameters are data columns, keyword-only ones hyperparameters, one loss per example.
`safe` holds flags (bool, (B,) each); log-probabilities are sums over the trained tokens of an answer, in nats.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from equipoise.objectives.preference import log_ratio
from equipoise.types import Pair

if TYPE_CHECKING:
    from torch import Tensor


def bfpo_label(safe: Pair, *, b1: float = 3.0, alpha: float = 0.5) -> Tensor:
    """BFPO's label of a pair ordered by helpfulness, (b1 * safe(y_w) - safe(y_l)) / (b1 - 1) - alpha, (B,).

    Zhang et al. 2024, arXiv:2408.15313. With b1 = 3 (safe, safe), (safe, unsafe), (unsafe, safe), (unsafe, unsafe) give
    .5, 1, -1, -.5 at alpha 1/2 and 1, 1.5, -.5, 0 at alpha 0. A negative label reverses the preference.
    """
    return (b1 * safe.chosen - 1.0 * safe.rejected) / (b1 - 1) - alpha  # 1.0: flags are not subtracted


def bfpo_target(safe: Pair, *, tau: float = 0.01, b1: float = 3.0, alpha: float = 0.5) -> Tensor:
    """The margin of log-ratios that BFPO pulls a pair to, label / tau in nats, (B,)."""
    return bfpo_label(safe, b1=b1, alpha=alpha) / tau


def bfpo(logps: Pair, ref_logps: Pair, safe: Pair, *, tau: float = 0.01, b1: float = 3.0, alpha: float = 0.5) -> Tensor:
    """Bi-factorial preference optimization, (margin of log-ratios - label / tau)^2, (B,).

    Zhang et al. 2024, arXiv:2408.15313. chosen is the more *helpful* answer, `safe` the flag of each; `bfpo_label` has
    the labels. `tau` is called beta in the authors' code. alpha 1/2 (theirs) ranks helpful-safe > unhelpful-safe >
    unhelpful-unsafe > helpful-unsafe; alpha 0 is the theorem's reward and swaps the last two.
    """
    margin = log_ratio(logps, ref_logps).margin
    flags = Pair(safe.chosen.to(margin.dtype), safe.rejected.to(margin.dtype))
    return (margin - bfpo_target(flags, tau=tau, b1=b1, alpha=alpha)).square()


def modpo(logps: Pair, ref_logps: Pair, margin: Pair, *, beta: float = 0.1, weight: float = 0.5) -> Tensor:
    """Multi-objective DPO, -log sigma((beta * margin of log-ratios - (1 - weight) * (m(y_w) - m(y_l))) / weight), (B,).

    Zhou et al. 2023, arXiv:2310.03708. The pair is ordered by one objective, whose weight is `weight`; `margin` is the
    reward m of the other one, here beta_m * log-ratio of a model trained on it. Weight 1 is DPO, and so is a margin
    of 0 with beta / weight for beta. The optimum is pi_ref * exp((weight * r + (1 - weight) * m) / beta).
    """
    from torch.nn.functional import logsigmoid

    own = beta * log_ratio(logps, ref_logps).margin
    return -logsigmoid((own - (1 - weight) * margin.margin) / weight)


def safedpo(logps: Pair, ref_logps: Pair, safe: Pair, *, beta: float = 0.1, delta: float = 10.0) -> Tensor:
    """SafeDPO, -log sigma(beta * margin of log-ratios - (unsafe(y_l) - unsafe(y_w)) * delta), (B,).

    Kim et al. 2025, arXiv:2505.20065. Its pairs come from `relabel.pairs(prefer="better_if_safe")`: an unsafe better
    answer and a safe other one change places, two unsafe ones are left out. Between two safe answers it is DPO.
    """
    from torch.nn.functional import logsigmoid

    margin = beta * log_ratio(logps, ref_logps).margin
    more_unsafe = safe.chosen.to(margin.dtype) - safe.rejected.to(margin.dtype)  # unsafe(y_l) - unsafe(y_w)
    return -logsigmoid(margin - delta * more_unsafe)
