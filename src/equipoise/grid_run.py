"""`equipoise frontier` in the playground: methods at equal budgets, chosen on select, then over seeds and label noise.

First every setting with one seed; the one that select chooses is then trained with all seeds and with a part of the
labels turned round. What is left: results.json and the page, `comparison.json` with every figure by method.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

from pydantic import Field, field_validator

from equipoise.config import Config, Execution
from equipoise.errors import DataError
from equipoise.grid import BASELINES, SETTINGS, TITLES, check_method, label
from equipoise.grid_cell import Cell, run_cell, seeds_of
from equipoise.job_lines import JobLines, Terminal, plain_terminal
from equipoise.jobs import Job, Line, Place, run_jobs
from equipoise.methods.multiplier import Target
from equipoise.playground.world import WORLD_VERSION

VERSION = 2
"""Of the grid: one more where a method's cells are trained or measured otherwise under the same settings."""

SCHEMA = 1


class GridConfig(Config):
    """What a comparison in the playground says."""

    playground: Literal["small", "large", "rated"] = "small"
    methods: tuple[str, ...] = tuple(SETTINGS)
    settings: int = Field(8, ge=1, le=8)  # of each method at most, the first of its list
    seeds: int = Field(1, ge=1)
    flipped: tuple[float, ...] = ()
    full: bool = False  # three times as many prompts
    target: Target = Target(unsafe_rate=0.05)
    output_dir: Path = Execution(Path("runs/frontier"))
    store: Path | None = Execution(None)
    processes: int = Execution(1, ge=1)

    @field_validator("methods")
    @classmethod
    def _known(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        for name in value:
            check_method(name)
        if not set(value) - {"base"}:
            raise ValueError("methods: name at least one besides the base, such as sacpo")
        return ("base", *(name for name in dict.fromkeys(value) if name != "base"))

    @field_validator("target")
    @classmethod
    def _of_harm(cls, value: Target) -> Target:
        if value.prompts != "harmful":
            raise ValueError(f"target is about harmful prompts here: leave prompts out, got {value.prompts}")
        return value

    @field_validator("flipped")
    @classmethod
    def _shares(cls, value: tuple[float, ...]) -> tuple[float, ...]:
        if any(not 0 < share < 1 for share in value):
            raise ValueError(f"flipped: shares of labels lie between 0 and 1, got {', '.join(map(str, value))}")
        return value


class Wanted(NamedTuple):
    """A cell and what it is for."""

    method: str
    setting: Mapping[str, Any]
    seed: int = 0
    flipped: float = 0.0


def run_payload(payload: Mapping[str, Any]) -> list[dict[str, Any]]:
    """A cell in a worker process."""
    return run_cell(Cell(**{name: value for name, value in payload.items() if name not in ("world", "grid")}))


def job_of(config: GridConfig, cell: Wanted) -> Job:
    """A cell as a job."""
    payload = {
        "method": cell.method,
        "setting": dict(cell.setting),
        "seed": cell.seed,
        "flipped": cell.flipped,
        "base": config.playground,
        "full": config.full,
        "world": WORLD_VERSION,
        "grid": VERSION,
    }
    name = label(cell.method, cell.setting)
    name += f", seed {cell.seed}" if cell.seed else ""
    name += f", {cell.flipped:.0%} of labels turned round" if cell.flipped else ""
    return Job(name, cell.method, "equipoise.grid_run:run_payload", payload)


def run_grid(
    config: GridConfig, *, store: Path, say: Callable[[Any], None], terminal: Terminal = plain_terminal
) -> Path:
    """Run what is missing and write the page; returns its path."""
    from equipoise.grid_page import write_grid

    # Several at a time share the cores: each with its part of them.
    threads = max(1, (os.cpu_count() or 1) // config.processes)
    place = Place(config.output_dir / "runs", store, workers=config.processes, threads=threads)
    first = [Wanted(name, one) for name in config.methods for one in SETTINGS[name][: config.settings]]
    done = _run(config, first, place, terminal)
    chosen = choices(config, done)
    second = [
        Wanted(name, setting, seed)
        for seed in range(1, config.seeds)
        for name, (setting, _) in chosen.items()
        if seed < seeds_of(name, config.seeds)
    ]
    second += [
        Wanted(name, setting, 0, share)
        for share in config.flipped
        for name, (setting, _) in chosen.items()
        if name != "base"
    ]
    done |= _run(config, second, place, terminal)
    return write_grid(config, comparison(config, done, chosen), say=say)


Done = dict[str, Line]


def _run(config: GridConfig, cells: Sequence[Wanted], place: Place, terminal: Terminal) -> Done:
    jobs = [job_of(config, cell) for cell in cells]
    with terminal() as console, JobLines(console, jobs, workers=config.processes) as lines:
        return {line.job.key: line for line in run_jobs(jobs, place, hear=lines.hear)}


def choices(config: GridConfig, done: Mapping[str, Line]) -> dict[str, tuple[Mapping[str, Any], str]]:
    """The setting of every method that its select prompts choose, and why; a method that failed wholly has none."""
    from equipoise.evaluate.frontier import choose

    out = {}
    for name in config.methods:
        cells = [Wanted(name, one) for one in SETTINGS[name][: config.settings]]
        found = [line.result[0] for cell in cells if (line := done[job_of(config, cell).key]).result]
        if not found:
            continue
        if name == "base":
            out[name] = ({}, "the base has no settings")
            continue
        choice = choose(found, target=config.target.unsafe_rate, confidence=config.target.confidence)
        out[name] = (found[choice.index]["setting"], choice.reason)
    if len(out) < 2:
        failed = next((line.note for line in done.values() if line.state == "failed"), "none was asked for")
        raise DataError(f"no method could be trained, so there is nothing to compare ({failed})")
    return out


def comparison(
    config: GridConfig, done: Mapping[str, Line], chosen: Mapping[str, tuple[Mapping[str, Any], str]]
) -> dict[str, Any]:
    """Every figure by method: all settings, the chosen one by seed, with labels turned round; what failed and why."""

    def result(cell: Wanted) -> Any:
        line = done.get(job_of(config, cell).key)
        return None if line is None else line.result

    methods = {}
    for name, (setting, reason) in chosen.items():
        cells = [Wanted(name, one) for one in SETTINGS[name][: config.settings]]
        seeds = [Wanted(name, setting, seed) for seed in range(seeds_of(name, config.seeds))]
        turned = {f"{share:g}": result(Wanted(name, setting, 0, share)) for share in config.flipped}
        methods[name] = {
            "title": TITLES[name],
            "baseline": name in BASELINES,
            "chosen": dict(setting),
            "why": reason,
            "settings": [found for cell in cells if (found := result(cell))],
            "seeds": [found for cell in seeds if (found := result(cell))],
            "flipped": {share: found for share, found in turned.items() if found},
        }
    failed = [{"name": one.job.name, "why": one.note} for one in done.values() if one.state == "failed"]
    return {
        "schema": SCHEMA,
        "world": f"{WORLD_VERSION}, {config.playground} base",
        "config": config.model_dump(mode="json"),
        "methods": methods,
        "failed": failed,
    }
