"""A miniature with a finite set of answers to every prompt, where everything can also be enumerated."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import pytest
from scipy.special import logsumexp

from equipoise.statistics.optimum import KINDS, Pool


@dataclass(frozen=True)
class Table:
    """Log-probabilities of policies (K, P, A), reward and cost (P, A), kinds per prompt."""

    policies: np.ndarray
    reward: np.ndarray
    cost: np.ndarray
    kinds: tuple[str, ...]

    @property
    def ref(self) -> np.ndarray:
        return self.policies[0]

    def average(self, per_prompt: np.ndarray) -> float:
        kinds = np.array(self.kinds)
        return float(np.mean([per_prompt[kinds == kind].mean() for kind in KINDS if kind in self.kinds]))

    def expect(self, policy: np.ndarray, values: np.ndarray) -> float:
        return self.average((np.exp(policy) * values).sum(axis=1))

    def kl(self, policy: np.ndarray, other: np.ndarray) -> float:
        return self.expect(policy, policy - other)

    def unsafe_rate(self, policy: np.ndarray) -> float:
        harmful = np.array(self.kinds) == "harmful"
        return float((np.exp(policy) * (self.cost > 0)).sum(axis=1)[harmful].mean())

    def unsafe(self) -> np.ndarray:
        return (self.cost > 0) & (np.array(self.kinds) == "harmful")[:, None]

    def optimum(self, f: np.ndarray) -> np.ndarray:
        return normalised(self.ref + f)

    def sample(self, generator: np.random.Generator, counts: Sequence[int], prompts: np.ndarray | None = None) -> Pool:
        """Sample `counts[k]` answers of policy k to every prompt."""
        chosen = np.arange(len(self.kinds)) if prompts is None else prompts
        number, answer, source = [], [], []
        used = [k for k, count in enumerate(counts) if count]
        for place, k in enumerate(used):
            below = np.exp(self.policies[k, chosen]).cumsum(axis=1)
            spots = generator.random((len(chosen), counts[k])) * below[:, -1:]
            answer.append((spots[:, :, None] > below[:, None, :]).sum(axis=2).ravel())
            number.append(np.repeat(np.arange(len(chosen)), counts[k]))
            source.append(np.full(len(number[-1]), place))
        n, a = np.concatenate(number), np.concatenate(answer)
        x = chosen[n]
        kinds = tuple(self.kinds[i] for i in chosen)
        logps = self.policies[used][:, x, a].T
        return Pool(n, np.concatenate(source), logps, self.reward[x, a], self.cost[x, a], kinds)


def normalised(x: np.ndarray) -> np.ndarray:
    return x - logsumexp(x, axis=1, keepdims=True)


def miniature(prompts: int, answers: int, *, seed: int = 0) -> Table:
    """Costly answers are the more helpful ones; three trained policies miss their optima by some noise."""
    generator = np.random.default_rng(seed)
    shape = (prompts, answers)
    ref = normalised(generator.normal(0, 1.5, size=shape))
    cost = generator.normal(0, 1, size=shape)
    reward = generator.normal(0, 1, size=shape) + 0.5 * cost
    kinds = tuple(KINDS[x % 3] for x in range(prompts))
    noise = generator.normal(0, 0.4, size=(3, *shape))
    trained = [
        normalised(ref + reward / 0.3 + noise[0]),
        normalised(ref + (reward - 1.5 * cost) / 0.3 + noise[1]),
        normalised(ref + (reward - 0.7 * cost) / 0.6 + noise[2]),
    ]
    return Table(np.stack([ref, *trained]), reward, cost, kinds)


@pytest.fixture(scope="session")
def make_table() -> Callable[..., Table]:
    """Builds a miniature of so many prompts and answers to each."""
    return miniature


@pytest.fixture(scope="module")
def table() -> Table:
    """150 prompts with 120 answers each."""
    return miniature(150, 120)


@pytest.fixture(scope="module")
def pool(table: Table) -> Pool:
    """Sixteen answers of each of its four policies to every prompt."""
    return table.sample(np.random.default_rng(1), (16, 16, 16, 16))
