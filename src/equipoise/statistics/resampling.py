"""Drawing whole prompts again and again: weighted sums of what each prompt contributes."""

from __future__ import annotations

from collections.abc import Hashable, Sequence

import numpy as np

from equipoise.errors import DataError
from equipoise.statistics.intervals import BLOCK, DRAWS, Array


def by_cluster(features: Array, clusters: Sequence[Hashable] | None) -> Array:
    """Rows of `features` (N, F) summed over those that share a cluster, (C, F); None lets every row stand alone."""
    if clusters is None:
        return features
    if len(clusters) != len(features):
        raise DataError(f"every item needs its prompt, got {len(features)} items and {len(clusters)} prompts")
    place: dict[Hashable, int] = {}
    index = np.array([place.setdefault(name, len(place)) for name in clusters])
    sums = np.zeros((len(place), features.shape[1]))
    np.add.at(sums, index, features)
    return sums


def redrawn_totals(features: Array, *, seed: int, draws: int = DRAWS) -> Array:
    """Column sums of `features` (C, F) over samples of C rows with replacement, (draws, F)."""
    clusters = len(features)
    generator = np.random.default_rng(seed)
    rows = max(1, BLOCK // clusters)
    totals = np.empty((draws, features.shape[1]))
    for start in range(0, draws, rows):
        count = min(rows, draws - start)
        picks = generator.integers(clusters, size=(count, clusters)) + np.arange(count)[:, None] * clusters
        times = np.bincount(picks.ravel(), minlength=count * clusters).reshape(count, clusters)
        totals[start : start + count] = times.astype(np.float64) @ features
    return totals
