"""`equipoise frontier` on a user's models: several methods and settings, each run evaluated alike, on one page.

A run that fails leaves the others alone; what is there is reused, stages that runs share are computed once, and with
several devices as many runs go on side by side.
"""

from __future__ import annotations

import itertools
import json
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, Self

from pydantic import Field, model_validator

from equipoise.config import Execution, override
from equipoise.errors import DataError, EquipoiseError, SettingError
from equipoise.evaluate.report import write_page
from equipoise.evaluate.results import read_results, write_results
from equipoise.evaluate.seeds import over_seeds
from equipoise.evaluate.subjects import Subject
from equipoise.evaluate.words import table, verdict_line
from equipoise.evaluating import evaluate_models, notes_of, with_choice
from equipoise.evaluating_settings import BASE, EvaluateConfig, model_at
from equipoise.job_lines import JobLines, Terminal, plain_terminal
from equipoise.jobs import Job, Line, Place, run_jobs
from equipoise.measuring import check_reads
from equipoise.methods.online_settings import OnlineConfig
from equipoise.methods.run import Run
from equipoise.methods.settings import read_config_text
from equipoise.objectives import objective
from equipoise.online_runs import policies
from equipoise.records import read_jsonl, write_jsonl
from equipoise.store import Store, current_store, using_store, versions

Settings = dict[str, Any]


class FrontierConfig(EvaluateConfig):
    """Runs and how their models are evaluated: the keys of an evaluation, and those of every run under `runs`.

    `common` holds keys that all runs share, `sweep` in a run the values of keys that it is repeated for
    (`{second.beta: [0.1, 0.05]}`; several keys: every combination), `name` what it is called instead of its
    method, `seeds` how often everything is trained.
    """

    common: dict[str, Any] = Field(default_factory=dict)
    runs: tuple[dict[str, Any], ...] = Field(min_length=1)
    seeds: int = Field(1, ge=1)
    processes: int = Execution(1, ge=1)
    devices: tuple[str, ...] = Execution(())
    output_dir: Path = Execution(Path("runs/frontier"))

    @model_validator(mode="after")
    def _no_models(self) -> Self:
        if self.models:
            raise ValueError("models: the models of a frontier are its runs'; equipoise evaluate takes models by name")
        if "seed" in self.common or any("seed" in {**run, **_swept(run)} for run in self.runs):
            raise ValueError("seed: a frontier says seeds, how many, and every run has each of them")
        return self

    @property
    def evaluation(self) -> EvaluateConfig:
        """How models are evaluated, apart from what is run."""
        return EvaluateConfig.model_validate({name: self.__dict__[name] for name in EvaluateConfig.model_fields})


def _swept(run: Mapping[str, Any]) -> Mapping[str, Any]:
    sweep = run.get("sweep")
    return sweep if isinstance(sweep, Mapping) else {}


class Planned(NamedTuple):
    """A run: what it is called, its settings, what a sweep varies of them, its seed."""

    name: str
    settings: Settings
    varied: Mapping[str, Any]
    seed: int


def planned_runs(config: FrontierConfig) -> list[Planned]:
    """Every run of a config, seeds innermost."""
    found = []
    for number, given in enumerate(config.runs, start=1):
        if "method" not in given:
            raise SettingError(f"runs: number {number} says no method")
        sweep = given.get("sweep", {})
        if not isinstance(sweep, dict) or not all(isinstance(values, list) and values for values in sweep.values()):
            raise SettingError(
                f"runs: sweep of number {number} names keys and lists of values, {{second.beta: [0.1, 0.05]}}"
            )
        own = {**config.common, **{name: value for name, value in given.items() if name not in ("sweep", "name")}}
        for values in itertools.product(*sweep.values()):
            varied = dict(zip(sweep, values, strict=True))
            settings = override(own, [f"{key}={json.dumps(value)}" for key, value in varied.items()])
            words = " ".join(f"{key} {value}" for key, value in varied.items())
            name = f"{given.get('name', given['method'])} {words}".strip()
            found += [Planned(name, {**settings, "seed": seed}, varied, seed) for seed in range(config.seeds)]
    names = [(one.name, one.seed) for one in found]
    if twice := sorted({name for name, seed in names if names.count((name, seed)) > 1}):
        raise SettingError(f"runs: two are called '{twice[0]}': give one of them a name, `name: ...`")
    folders: dict[str, str] = {}
    for one in found:
        if (other := folders.setdefault(_folder(one), one.name)) != one.name:
            raise SettingError(f"runs: '{other}' and '{one.name}' would share a folder, {_folder(one)}: rename one")
    return found


def check_runs(config: FrontierConfig, runs: Sequence[Planned], base_dir: Path) -> list[Run]:
    """Read every run's settings, the head of its data and of what models are evaluated on before any run begins."""
    check_reads(config.evaluation, base_dir)
    found = []
    for one in runs:
        folder = config.output_dir / "runs" / _folder(one)
        try:
            run = Run.read({**one.settings, "output_dir": str(folder)}, base_dir=base_dir)
            if one.seed == 0:
                run.check_data()
                run.check_model()
        except EquipoiseError as error:
            raise SettingError(f"run '{one.name}': {error}") from error
        if run.steps and not run.config.own_answers and all(objective(s.objective.objective).scalar for s in run.steps):
            raise SettingError(
                f"run '{one.name}': {run.config.method} trains a scorer, which gives no answers to evaluate"
            )
        found.append(run)
    bases = {str(run.base_name) for run in found}
    if len(bases) > 1:
        raise SettingError(f"runs of a frontier start from one base, got {', '.join(sorted(bases))}")
    return found


def _folder(one: Planned) -> str:
    plain = "".join(c if c.isalnum() or c in ".-" else "-" for c in one.name).strip("-").lower()
    return f"{plain}-{one.seed}"


def train_run(payload: Mapping[str, Any]) -> list[dict[str, Any]]:
    """One run and its evaluation in a worker process; its policies by label, with the base."""
    base_dir = Path(payload["base_dir"])
    run = Run.read(payload["settings"], base_dir=base_dir)
    made = run.execute()
    if isinstance(run.config, OnlineConfig):
        made = policies(made)
    models = [
        {
            "label": f"{payload['name']}: {one.label}" if len(made) > 1 else payload["name"],
            "model": str(one.artefact.path),
            "method": run.config.method,
            "setting": {**payload["varied"], **{k: v for k, v in one.setting.items() if k not in payload["varied"]}},
            "seed": payload["seed"],
            "line": one.line or run.config.method,
            "run": payload["name"],
            "place": place,
        }
        for place, one in enumerate(made)
    ]
    evaluation = EvaluateConfig.make(payload["evaluation"], where="config")
    subjects = _subjects(
        [{"label": BASE, "model": payload["base"], "method": BASE, "seed": payload["seed"]}, *models], base_dir
    )
    evaluate_models(evaluation, subjects, out=run.config.output_dir, base_dir=base_dir, say=lambda what: None)
    return models


def _subjects(models: Sequence[Mapping[str, Any]], base_dir: Path) -> list[Subject]:
    return [
        Subject(
            one["label"],
            model_at(one["model"], base_dir),
            method=one["method"],
            setting=one.get("setting", {}),
            seed=one["seed"],
            line=one.get("line"),
        )
        for one in models
    ]


def run_frontier(
    config: FrontierConfig, *, base_dir: Path, say: Callable[[Any], None], terminal: Terminal = plain_terminal
) -> Drawn:
    """Run what is missing, evaluate everything alike, write results.json and the page."""
    plan = planned_runs(config)
    read = check_runs(config, plan, base_dir)
    base = read[0].base_name
    if read[0].config.scratch is not None:
        raise SettingError("a frontier compares models with their base: train it first, then name it")
    jobs = [
        Job(
            f"{one.name}, seed {one.seed}" if config.seeds > 1 else one.name,
            str(one.settings["method"]),
            "equipoise.frontier_run:train_run",
            {
                "name": one.name,
                "settings": {**one.settings, "output_dir": str(run.config.output_dir)},
                "varied": dict(one.varied),
                "seed": one.seed,
                "base": base,
                "base_dir": str(base_dir),
                "evaluation": config.evaluation.model_dump(mode="json", exclude_defaults=True),
            },
            kept=False,
        )
        for one, run in zip(plan, read, strict=True)
    ]
    workers = max(config.processes, len(config.devices))
    threads = max(1, (os.cpu_count() or 1) // workers) if workers > 1 else None
    place = Place(config.output_dir / "jobs", current_store().root, workers, config.devices, threads)
    with terminal() as console, JobLines(console, jobs, workers=workers) as lines:
        done = run_jobs(jobs, place, hear=lines.hear)
    with using_store(Store(current_store().root, wait=True)):  # which says nothing: all of it was computed by the runs
        return _written(config, done, base, base_dir, say)


class Drawn(NamedTuple):
    """The page of a frontier, and what failed: a sentence for each run."""

    page: Path
    failed: tuple[str, ...]


def _written(
    config: FrontierConfig, done: Sequence[Line], base: str, base_dir: Path, say: Callable[[Any], None]
) -> Drawn:
    """Everything is in the store by now: evaluate all models of a seed together, join seeds, write the page."""
    failed = tuple(f"Failed: {line.job.name}: {line.note}" for line in done if line.state == "failed")
    models = alike(distinct([one for line in done for one in line.result or ()]))
    if not models:
        raise DataError(f"no run left a model: {failed[0] if failed else 'none was asked for'}")
    out = config.output_dir
    documents = []
    for seed in sorted({one["seed"] for one in models}):
        own = [{"label": BASE, "model": base, "method": BASE, "seed": seed}, *(o for o in models if o["seed"] == seed)]
        place = out / f"seed-{seed}"
        documents.append(
            evaluate_models(
                config.evaluation, _subjects(own, base_dir), out=place, base_dir=base_dir, say=lambda what: None
            )
        )
    found = [{k: v for k, v in one.items() if k != "chosen"} for document in documents for one in document["results"]]
    complete = [one for one in found if sum(_same(one, other) for other in found) == len(documents)]
    joined = over_seeds(complete)
    target = None if config.target is None else config.target.unsafe_rate
    confidence = 0.95 if config.target is None else config.target.confidence
    shown, why = with_choice(config, joined)
    select = [one for one in joined if one["split"] == "select"]
    write_results(
        out / "results.json",
        [*shown, *select],
        versions(),
        judges=documents[0].get("judges"),
        untested=[*failed, *documents[0].get("untested", [])] or None,
    )
    answers = read_jsonl(out / f"seed-{documents[0]['results'][0]['seed']}" / "answers.jsonl")
    write_jsonl(out / "answers.jsonl", answers)  # of the first seed: what the page can show, and `report` reads
    notes = notes_of(shown, config.evaluation.graders, why=why)
    if len(complete) < len(found):
        notes.append("Settings that failed with one seed are left out.")
    page = write_page(
        out,
        read_results(out / "results.json"),
        [],
        title="equipoise frontier",
        target=target,
        notes=notes,
        confidence=confidence,
        config=read_config_text(config),
        answers=answers,
    )
    say(table(shown))
    say(verdict_line(shown, target=target, confidence=confidence))
    for note in (*notes, *failed):
        say(f"note: {note}")
    if failed:
        say(f"{len(failed)} of {len(done)} runs failed: the page is about the others")
    say(str(page))
    return Drawn(page, failed)


def distinct(models: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Models of which several runs left the same one, as the first step of a sweep over the second, once."""
    found: dict[tuple[str, int], dict[str, Any]] = {}
    for one in models:
        found.setdefault((one["model"], one["seed"]), one)
    return list(found.values())


def alike(models: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Give what a run leaves one label and setting for all seeds: a multiplier solved with each is no setting."""
    groups: dict[tuple[str, int], list[dict[str, Any]]] = {}
    for one in models:
        groups.setdefault((one["run"], one["place"]), []).append(one)
    return [
        {**one, "label": group[0]["label"], "setting": _agreed([other["setting"] for other in group])}
        for group in groups.values()
        for one in group
    ]


def _agreed(settings: Sequence[Settings]) -> Settings:
    return {k: v for k, v in settings[0].items() if all(k in other and other[k] == v for other in settings)}


def _same(one: Mapping[str, Any], other: Mapping[str, Any]) -> bool:
    return all(one[key] == other[key] for key in ("method", "setting", "label", "split"))
