"""Which rows go into which step, rank and micro-batch: pure, so that nothing but time depends on the hardware."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray


class Micro(NamedTuple):
    """Rows that go through the model together; `weight` 0 marks a filler that keeps ranks in step."""

    rows: tuple[int, ...]
    weight: float = 1.0


@dataclass(frozen=True, eq=False)
class Plan:
    """The order of a whole training run.

    Epoch permutations are concatenated and cut into batches of exactly `global_batch_size`; the last one is filled from
    the next permutation. `tokens_per_micro_batch` and `world_size` change the grouping inside a batch, never its rows.
    """

    lengths: NDArray[np.int64]  # (N,) tokens per row, shared prompt counted once
    seed: int
    global_batch_size: int
    epochs: float
    tokens_per_micro_batch: int
    world_size: int = 1
    max_steps: int | None = None
    _cache: dict[int, NDArray[np.int64]] = field(default_factory=dict, repr=False)

    @property
    def n_steps(self) -> int:
        """Optimizer steps of the run."""
        if self.max_steps is not None:
            return self.max_steps
        return max(1, math.ceil(len(self.lengths) * self.epochs / self.global_batch_size))

    @property
    def filled(self) -> int:
        """Rows of the last batch that come from one more permutation than `epochs` asks for."""
        if self.max_steps is not None:
            return 0
        return self.n_steps * self.global_batch_size - math.floor(len(self.lengths) * self.epochs)

    def _permutation(self, epoch: int) -> NDArray[np.int64]:
        if epoch not in self._cache:
            self._cache.clear()  # steps are visited in order: at most one epoch is ever needed again
            self._cache[epoch] = np.random.default_rng([self.seed, epoch]).permutation(len(self.lengths))
        return self._cache[epoch]

    def batch(self, step: int) -> NDArray[np.int64]:
        """Rows of optimizer step `step`, (global_batch_size,)."""
        n = len(self.lengths)
        start, stop = step * self.global_batch_size, (step + 1) * self.global_batch_size
        parts = []
        while start < stop:
            epoch, offset = divmod(start, n)
            take = min(n - offset, stop - start)
            parts.append(self._permutation(epoch)[offset : offset + take])
            start += take
        return np.concatenate(parts)

    def step(self, step: int) -> list[list[Micro]]:
        """Micro-batches of every rank at `step`; all ranks get equally many."""
        rows = self.batch(step)
        rows = rows[np.lexsort((rows, self.lengths[rows]))]  # by length, ties by row: independent of the sort's mood
        ranks = [
            group_by_tokens(rows[rank :: self.world_size].tolist(), self.lengths, self.tokens_per_micro_batch)
            for rank in range(self.world_size)
        ]
        most = max(len(r) for r in ranks)
        filler = Micro((int(rows[0]),), weight=0.0)
        return [r + [filler] * (most - len(r)) for r in ranks]


def group_by_tokens(rows: Sequence[int], lengths: Sequence[int] | NDArray[np.int64], budget: int) -> list[Micro]:
    """Cut rows sorted by length into micro-batches whose padded size stays within `budget` tokens.

    Micro-batches of one step are levelled: as few as the budget allows, of similar cost, because the largest one sets
    the peak memory. A single row above the budget gets a micro-batch of its own.
    """
    groups: list[list[int]] = []
    current: list[int] = []
    for row in rows:
        if current and int(lengths[row]) * (len(current) + 1) > budget:
            groups.append(current)
            current = []
        current.append(row)
    if current:
        groups.append(current)
    return [Micro(tuple(g)) for g in groups]
