"""One cell of the playground's grid, trained and measured: figures as results.json holds them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

import numpy as np

from equipoise.bench import Candidate, World, bench, world_base
from equipoise.config import Config
from equipoise.demo import answers_of, counts_of, evaluate, pool_prompts, pool_sampling, sampled_beside, with_gap
from equipoise.grid import FEW_SEEDS, candidate
from equipoise.playground.pool import Pooled, pooled
from equipoise.playground.world import KINDS
from equipoise.spent import spent_on
from equipoise.statistics.optimum import envelope
from equipoise.statistics.volume import volume
from equipoise.types import Artefact

POOLED: tuple[tuple[str, Mapping[str, Any]], ...] = (
    ("base", {}),
    ("dpo_helpful", {"beta": 0.5}),
    ("sacpo", {"beta/lambda": 0.5}),
    ("sacpo", {"beta/lambda": 0.125}),
)
"""Whose answers the optimum is estimated from, whatever the cell."""

SHARED = ("playground_base", "playground_preferences", "playground_ratings", "playground_prompts", "playground_wanted")
"""Stages that are there before any method begins: what a cell costs is what comes after them."""


class Cell(Config):
    """A method at a setting with a seed; `flipped` is the share of its labels turned round."""

    method: str
    setting: dict[str, Any]
    seed: int = 0
    flipped: float = 0.0
    base: Literal["small", "large", "rated"] = "small"
    full: bool = False


def run_cell(cell: Cell) -> list[dict[str, Any]]:
    """Train and measure: a result on select and one on verdict."""
    world = World(base=cell.base)
    base = world_base(world)
    at = bench(base, world, cell.seed, flipped=cell.flipped)
    found = candidate(at, cell.method, cell.setting, flipped=cell.flipped)
    counts = counts_of(full=cell.full)
    results = evaluate([found], world, seed=cell.seed, counts=counts, base=base, choices=False).results
    pool = _pool(world, cell.seed)
    known = {}
    if found.aim is not None:
        origin = base if found.reference is None else found.reference
        own = pool if found.reference is None else _pool(world, cell.seed, found.reference)
        sampling = sampled_beside(cell.seed)
        known[found.label] = own.part(found.model, found.aim, base=origin, prompts=pool_prompts(), sampling=sampling)
    cost = spent_on(found.model, without=SHARED)
    out = []
    for result in results:
        result = with_gap(result, known)
        metrics = dict(result["metrics"])
        if result["split"] == "verdict":
            metrics |= _shortfall(pool, found, base, world, cell.seed)
        point = metrics["unsafe_rate"]["mean"], metrics["reward"]["mean"]
        metrics |= {"volume": _plain(volume([point])), "train_seconds": _plain(cost.seconds)}
        took = {"wall_s": cost.seconds, "train_tokens": cost.tokens}
        out.append({**result, "metrics": metrics, **took, "flipped": cell.flipped})
    return out


def _pool(world: World, seed: int, reference: Artefact | None = None) -> Pooled:
    """Answers of `POOLED`, with `reference` before them where an optimum is one of another model than the base."""
    at = bench(world_base(world), world, seed)
    models = [candidate(at, method, setting) for method, setting in POOLED]
    first = {} if reference is None else {"reference": reference}
    return pooled(
        {**first, **{one.label: one.model for one in models}},
        pool_prompts(),
        pool_sampling(seed),
        tension=world.tension,
    )


def _shortfall(pool: Pooled, found: Candidate, base: Artefact, world: World, seed: int) -> dict[str, Any]:
    """How much more reward the best policy has that is as safe and as near to the base, on the same prompts.

    For every method, whatever its own optimum: none is above that policy but by chance.
    """
    rows = answers_of(found, base, pool_prompts(), sampled_beside(seed), world)
    reward = np.mean([np.mean([row["reward"] for row in rows if row["kind"] == kind]) for kind in KINDS])
    kl = np.mean([np.mean([row["logp"] - row["ref_logp"] for row in rows if row["kind"] == kind]) for kind in KINDS])
    unsafe = np.mean([row["cost"] > 0 for row in rows if row["kind"] == "harmful"])
    # Safer by chance than any policy that near: the safest of them is what it is held against.
    (at_best,) = envelope(pool.pool, kl=max(float(kl), 0.02), rates=(float(unsafe),))
    return {"shortfall": _plain(float(at_best.reward.mean - reward)) | {"capped": at_best.capped}}


def _plain(value: float) -> dict[str, Any]:
    """A figure that seeds alone give an interval to."""
    return {
        "mean": value,
        "low": None,
        "high": None,
        "n": 1,
        "n_prompts": 1,
        "n_effective": 1.0,
        "kind": "mean",
        "level": 0.95,
        "unscored": 0,
    }


def seeds_of(method: str, count: int) -> int:
    """How many seeds a method is given."""
    return min(count, 3) if method in FEW_SEEDS else count
