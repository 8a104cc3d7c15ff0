"""What a comparison in the playground leaves: results.json, the page, comparison.json, a table for the terminal."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.box import SIMPLE_HEAD
from rich.table import Table

from equipoise.bench import World, bench, world_base
from equipoise.demo import LEAST_REACH, counts_of, evaluate, pool_of, samples
from equipoise.evaluate.frontier import verdict_results
from equipoise.evaluate.report import write_page
from equipoise.evaluate.results import optimum_section, read_results, write_results
from equipoise.evaluate.seeds import join_metrics, over_seeds
from equipoise.evaluate.shortlist import shortlist
from equipoise.evaluate.words import UNKNOWN, Column, number, table_cell, verdict_line
from equipoise.grid import candidate
from equipoise.grid_cell import POOLED
from equipoise.statistics.optimum import envelope
from equipoise.statistics.volume import volume
from equipoise.store import versions, write_json

if TYPE_CHECKING:
    from equipoise.grid_run import GridConfig

SAMPLES = 20  # prompts of each kind in samples.html

Compared = Mapping[str, Any]


def write_grid(config: GridConfig, found: dict[str, Any], *, say: Callable[[Any], None]) -> Path:
    """Write results.json, comparison.json and the page of a comparison; return the page's path."""
    out = config.output_dir
    out.mkdir(parents=True, exist_ok=True)
    write_json(out / "comparison.json", found)
    joined = joined_results(found)
    target, confidence = config.target.unsafe_rate, config.target.confidence
    shown, why = verdict_results(joined["chosen"], target=target, confidence=confidence)
    everything = [*shown, *(one for one in joined["others"] if one["split"] == "verdict")]
    select = [one for kind in ("chosen", "others") for one in joined[kind] if one["split"] == "select"]
    reach = max([LEAST_REACH, *(one["metrics"]["kl"]["mean"] for one in shown if "gap" in one["metrics"])])
    optimum = optimum_of(config, reach)
    write_results(out / "results.json", [*everything, *select], versions(), optimum=optimum)
    page = write_page(
        out,
        read_results(out / "results.json"),
        samples_of(config, everything),
        title="equipoise frontier: methods of the helpful and harmless family in the playground",
        target=target,
        confidence=confidence,
        notes=[
            *([f"Chosen: {why}."] if why else []),
            *(f"Failed: {one['name']}: {one['why']}" for one in found["failed"]),
        ],
        config=json.dumps(config.model_dump(mode="json"), indent=1),
    )
    say(method_table(found))
    if config.flipped:
        say(noise_table(found))
    say(verdict_line(shown, target=target, confidence=confidence))
    say(str(page))
    return page


def optimum_of(config: GridConfig, reach: float) -> dict[str, Any]:
    """The best that there is in the world within `reach` nats of its base, as results.json holds it."""
    world = World(base=config.playground)
    at = bench(world_base(world), world, 0)
    pool = pool_of([candidate(at, method, setting) for method, setting in POOLED], world, seed=0)
    return optimum_section(envelope(pool.pool, kl=reach), pool.pool, policies=pool.labels)


def samples_of(config: GridConfig, results: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Answers of the few results that stand above the fold, as they were given with the first seed."""
    subject = next((one for one in results if one.get("chosen")), None)
    picked = [results[i] for i in shortlist(results, target=config.target.unsafe_rate, subject=subject)]
    world = World(base=config.playground)
    base = world_base(world)
    models = [candidate(bench(base, world, 0), one["method"], one["setting"]) for one in picked]
    rows = evaluate(models, world, seed=0, counts=counts_of(full=config.full), base=base, choices=False).rows
    return samples(rows, [model.label for model in models], per_kind=SAMPLES)


def joined_results(found: Compared) -> dict[str, list[dict[str, Any]]]:
    """Results of the chosen settings over their seeds, and of all other settings with the first seed."""
    chosen: list[dict[str, Any]] = []
    others: list[dict[str, Any]] = []
    for method in found["methods"].values():
        chosen += over_seeds([result for seed in method["seeds"] for result in seed])
        others += [one for pair in method["settings"] for one in pair if one["setting"] != method["chosen"]]
    return {"chosen": chosen, "others": others}


def over(method: Compared, metric: str, *, split: str = "verdict") -> dict[str, Any] | None:
    """A metric of a method's chosen setting over its seeds; None where one of them lacks it."""
    each = [result["metrics"].get(metric) for seed in method["seeds"] for result in seed if result["split"] == split]
    if not each or any(one is None for one in each):
        return None
    return join_metrics(each) if len(each) > 1 else dict(each[0])


def settings_volume(method: Compared) -> float:
    """The area that all settings of a method dominate together, on verdict prompts with the first seed."""
    verdicts = [one["metrics"] for pair in method["settings"] for one in pair if one["split"] == "verdict"]
    return volume([(one["unsafe_rate"]["mean"], one["reward"]["mean"]) for one in verdicts])


COLUMNS = (
    Column("unsafe_rate", "Unsafe", "", True),
    Column("over_refusal", "Over-refusal", "", True),
    Column("reward", "Reward", "", False),
    Column("gap", "Gap", "", False),
)


def method_table(found: Compared) -> Table:
    """The chosen setting of every method over its seeds."""
    table = Table(
        caption="Gap: distance from the method's own optimum, 0 there, 1 at the base. Volume: area of safety and "
        "reward that it dominates; below it, what all settings dominate together.",
        caption_justify="left",
        box=SIMPLE_HEAD,
        pad_edge=False,
        collapse_padding=True,
    )
    table.add_column("Method, setting", overflow="fold")
    for heading in (*(column.heading for column in COLUMNS), "Volume"):
        table.add_column(heading, justify="right", no_wrap=True)
    for method in found["methods"].values():
        cells = [table_cell(over(method, column.metric), column) for column in COLUMNS]
        own = over(method, "volume")
        areas = f"{UNKNOWN if own is None else number(own['mean'], rate=False)}\n{settings_volume(method):.2f}"
        seeds = len(method["seeds"])
        name = method["seeds"][0][0]["label"] + (f" ({seeds} seeds)" if seeds > 1 else "")
        table.add_row(name, *cells, areas)
    return table


def noise_table(found: Compared) -> Table:
    """Unsafe rate and reward of every chosen setting by the share of labels turned round, first seed."""
    shares = sorted({share for method in found["methods"].values() for share in method["flipped"]}, key=float)
    table = Table(title="Labels turned round (unsafe, reward)", title_justify="left", box=SIMPLE_HEAD, pad_edge=False)
    for heading in ("Method", "0%", *(f"{float(share):.0%}" for share in shares)):
        table.add_column(heading, justify="left" if heading == "Method" else "right")
    for method in found["methods"].values():
        if method["flipped"]:
            first = _both(method["seeds"][0])
            table.add_row(method["title"], first, *(_both(method["flipped"].get(share)) for share in shares))
    return table


def _both(pair: Sequence[Mapping[str, Any]] | None) -> str:
    verdict = next((one["metrics"] for one in pair or () if one["split"] == "verdict"), None)
    if verdict is None:
        return UNKNOWN
    return f"{verdict['unsafe_rate']['mean']:.1%}, {verdict['reward']['mean']:.2f}"
