"""What a comparison in the playground leaves: results.json, the page, comparison.json, a table for the terminal."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.box import SIMPLE_HEAD
from rich.table import Table

from equipoise.bench import World, bench, world_base
from equipoise.demo import pool_of
from equipoise.evaluate.frontier import verdict_results
from equipoise.evaluate.report import write_page
from equipoise.evaluate.results import optimum_section, read_results, write_results
from equipoise.evaluate.seeds import join_metrics, over_seeds
from equipoise.evaluate.words import UNKNOWN, figure, verdict_line
from equipoise.grid import candidate
from equipoise.grid_cell import POOLED
from equipoise.statistics.optimum import envelope
from equipoise.statistics.volume import volume
from equipoise.store import versions, write_json

if TYPE_CHECKING:
    from equipoise.grid_run import GridConfig

LEAST_REACH = 0.1  # nats within which the optimum is drawn when no model went farther

Compared = Mapping[str, Any]


def write_grid(config: GridConfig, found: dict[str, Any], *, say: Callable[[Any], None]) -> Path:
    """Write results.json, comparison.json and the page of a comparison; return the page's path."""
    out = config.output_dir
    out.mkdir(parents=True, exist_ok=True)
    write_json(out / "comparison.json", found)
    joined = joined_results(found)
    shown, why = verdict_results(joined["chosen"], target=config.target.unsafe_rate)
    everything = [*shown, *(one for one in joined["others"] if one["split"] == "verdict")]
    select = [one for kind in ("chosen", "others") for one in joined[kind] if one["split"] == "select"]
    reach = max([LEAST_REACH, *(one["metrics"]["kl"]["mean"] for one in shown if "gap" in one["metrics"])])
    optimum = optimum_of(config, reach)
    write_results(out / "results.json", [*everything, *select], versions(), optimum=optimum)
    page = write_page(
        out,
        read_results(out / "results.json"),
        [],
        title="equipoise frontier: methods of the helpful and harmless family in the playground",
        target=config.target.unsafe_rate,
        notes=[
            *([f"Chosen: {why}."] if why else []),
            *(f"Failed: {one['name']}: {one['why']}" for one in found["failed"]),
        ],
        config=json.dumps(config.model_dump(mode="json"), indent=1),
    )
    say(method_table(found))
    if config.flipped:
        say(noise_table(found))
    say(verdict_line(shown, target=config.target.unsafe_rate))
    say(str(page))
    return page


def optimum_of(config: GridConfig, reach: float) -> dict[str, Any]:
    """The best that there is in the world within `reach` nats of its base, as results.json holds it."""
    world = World(base=config.playground)
    at = bench(world_base(world), world, 0)
    pool = pool_of([candidate(at, method, setting) for method, setting in POOLED], world, seed=0)
    return optimum_section(envelope(pool.pool, kl=reach), pool.pool, policies=pool.labels)


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
    ("Unsafe", "unsafe_rate", True),
    ("Over-refusal", "over_refusal", True),
    ("Reward", "reward", False),
    ("Gap", "gap", False),
    ("Shortfall", "shortfall", False),
    ("Volume", "volume", False),
)


def method_table(found: Compared) -> Table:
    """The chosen setting of every method over its seeds."""
    table = Table(
        caption="Gap: distance from the method's own optimum, 0 there, 1 at the base. Shortfall: reward below the best "
        "policy as safe and as near to the base. Volume: area dominated; of all: by all settings, with the first seed.",
        caption_justify="left",
        box=SIMPLE_HEAD,
        pad_edge=False,
    )
    table.add_column("Method, setting chosen on select")
    table.add_column("Seeds", justify="right")
    for heading, _, _ in COLUMNS:
        table.add_column(heading, justify="right")
    table.add_column("of all", justify="right")
    for method in found["methods"].values():
        cells = [figure(over(method, metric), rate=rate).replace("[", "\\[") for _, metric, rate in COLUMNS]
        name = method["seeds"][0][0]["label"]
        table.add_row(name, str(len(method["seeds"])), *cells, f"{settings_volume(method):.2f}")
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
