"""An objective and a method of one's own, used by my-objective.yaml and my-method.yaml: copy this file and change it.

    equipoise objective check recipes/examples/my_objective.py:length_dpo --set alpha=0.05

An objective's positional parameters are what it is fed (log-probabilities are sums over an answer's trained tokens, in
nats), its keyword-only ones are hyperparameters, and it returns a loss for each example. A method's first parameter is
the base, the other positional ones are roles of `data:`, its keyword-only ones are keys of the config.
"""

from torch import Tensor
from torch.nn.functional import logsigmoid

from equipoise.methods.align import align
from equipoise.stages import MergeConfig, merge
from equipoise.types import Pair


def length_dpo(logps: Pair, ref_logps: Pair, lengths: Pair, *, beta: float = 0.1, alpha: float = 0.01) -> Tensor:
    """DPO that does not learn length: the longer the chosen answer than the rejected one, the less margin it gains.

    Park et al. 2024, arXiv:2403.19159 (R-DPO): alpha is the price of a token in units of the reward.
    """
    margin = (logps.chosen - ref_logps.chosen) - (logps.rejected - ref_logps.rejected)
    return -logsigmoid(beta * margin + alpha * (lengths.chosen - lengths.rejected))


def helpful_then_safe(base, helpful, safe, *, beta: float = 0.1, ratio: float = 0.25, mix: float = 0.5):
    """P-SACPO in four lines: helpfulness, then safety from there, and a merge of the two."""
    one = align(base, helpful.step("dpo", beta=beta))
    two = align(one, safe.step("dpo", beta=beta * ratio), base=base)
    mixed = merge(MergeConfig(weights=(mix, 1 - mix)), models=(two, one))
    return {"helpful": one, "safe": two, "mixed": mixed}
