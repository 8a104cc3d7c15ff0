"""`equipoise run`: execute a config, evaluate on held-out pairs, leave results and links in the run's folder."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from rich.table import Table

from equipoise.config import canonical_json, override, read_yaml
from equipoise.constitution_runs import constitution_run
from equipoise.data.tokens import TokenTable
from equipoise.errors import DataError
from equipoise.evaluate.pairs import longer_wins, pair_accuracies
from equipoise.evaluate.results import read_results, write_results
from equipoise.evaluate.scorer_words import scorer_line, scorer_table
from equipoise.evaluate.suites import prompt_set
from equipoise.evaluate.words import metric_table
from equipoise.methods.align import Step, logps, prepared, use
from equipoise.methods.iteralign_settings import IterAlignConfig
from equipoise.methods.labels import holds_pairs
from equipoise.methods.multiplier import NotYet
from equipoise.methods.online_settings import OnlineConfig
from equipoise.methods.run import Made, Run
from equipoise.methods.settings import read_config_text
from equipoise.objectives import objective
from equipoise.online_runs import kept_line, online_results, online_table, policies, rounds_of
from equipoise.quality import model_quality, scorer_results
from equipoise.records import read_jsonl
from equipoise.store import DryStore, current_store, manifest, using_store, versions, write_text
from equipoise.types import Artefact


def load_run(path: Path, assignments: list[str]) -> Run:
    """Read a config with overrides; relative paths in it are relative to the working directory."""
    settings = override(read_yaml(path), assignments)
    return Run.read(settings, base_dir=Path.cwd())


def execute(run: Run, *, say: Callable[[Any], None]) -> Path:
    """Train, evaluate, write; returns the run's folder."""
    out = run.config.output_dir
    out.mkdir(parents=True, exist_ok=True)
    write_text(out / "config.yaml", read_config_text(run.config))
    made = constitution_run(run, run.config, say) if isinstance(run.config, IterAlignConfig) else run.execute()
    named = {f"{number}-{_file_name(one.label)}": one for number, one in enumerate(made, start=1)}
    links = {out / name: one.artefact.path / "model" for name, one in named.items()}
    for link in out.iterdir():
        if link.is_symlink() and link not in links and re.match(r"\d+-", link.name):
            link.unlink()  # of another run into this folder
    for link, target in links.items():
        _link(link, target)
    scoring = [step for step in run.steps if objective(step.objective.objective).scalar]
    if isinstance(run.config, OnlineConfig):
        _report_online(run, run.config, made, out, say)
    elif scoring and len(scoring) < len(run.steps):
        say("some of the models are scorers: held-out pairs are not evaluated for a method that makes both")
    elif scoring:
        _report_scorers(run, made, scoring, out, say)
    elif results := _results(run, made):
        write_results(out / "results.json", results, versions())
        say(_table(results))
        _say_excluded(run, results[0]["excluded"]["near_duplicates"], say)
    for one in made:
        say(f"{one.label}: {one.artefact.path / 'model'}")
        if one.note:
            say(one.note)
    return out


def _report_online(run: Run, config: OnlineConfig, made: list[Made], out: Path, say: Callable[[Any], None]) -> None:
    """Policies by their own answers, and scorers that were trained for them on held-out pairs: results.json, pages."""
    from equipoise.evaluate.online_page import write_online_page  # matplotlib: not for every command that reads a run
    from equipoise.evaluate.scorer_page import write_scorer_page

    rounds = rounds_of(config, made)
    results = online_results(run, made, rounds)
    sections = []
    if run.config.holdout:
        seen = [step.data for step in run.steps]
        sections = [model_quality(o.label, o.artefact, o.step, owner=run.base, seen=seen) for o in made if o.step]
        by_label = {one.label: one for one in made}
        for section in sections:
            results.append(_result(run, section["label"], by_label[section["label"]], scorer_results(section)))
    write_results(out / "results.json", results, versions(), scorers=sections or None)
    say(online_table(results[: len(results) - len(sections)]))
    for one in policies(made):
        if line := kept_line(one):
            say(line)
    title = f"equipoise: {config.method}"
    if sections:
        say(scorer_table(sections))
        say(str(write_scorer_page(out, read_results(out / "results.json"), title=f"{title}, scorers")))
    say(str(write_online_page(out, rounds, title=title)))


def _report_scorers(run: Run, made: list[Made], steps: Sequence[Step], out: Path, say: Callable[[Any], None]) -> None:
    """How reward and cost models do on held-out pairs: results.json and a page."""
    if not run.config.holdout:
        return
    from equipoise.evaluate.scorer_page import write_scorer_page  # matplotlib: not for every command that reads a run

    seen = [step.data for step in run.steps]
    sections = [
        model_quality(one.label, one.artefact, step, owner=run.base, seen=seen)
        for one, step in zip(made, steps, strict=True)
    ]
    results = [
        _result(run, one.label, one, scorer_results(section)) for one, section in zip(made, sections, strict=True)
    ]
    write_results(out / "results.json", results, versions(), scorers=sections)
    say(scorer_table(sections))
    for section in sections:
        say(scorer_line(section))
    page = write_scorer_page(out, read_results(out / "results.json"), title=f"equipoise: {made[-1].label}")
    say(str(page))


def _results(run: Run, made: list[Made]) -> list[dict[str, Any]]:
    """Implicit-reward accuracy of every model on the held-out part of every data entry."""
    if not run.config.holdout:
        return []
    by_role = _evaluated(run.steps)
    seen = list({data.name: data for step in run.steps for data in step.sources}.values())
    excluded: set[str] = set()
    asked: set[str] = set()
    metrics: dict[str, dict[str, Any]] = {one.label: {} for one in (Made("base", None, {}), *made)}  # type: ignore[arg-type]
    for role, step in by_role.items():
        heldout = prepared(run.base, step, part="heldout", seen=seen)
        excluded |= {row["id"] for row in read_jsonl(heldout.path / "excluded.jsonl")}
        table = TokenTable(heldout.path)
        prompts = [canonical_json(row["prompt"]) for row in read_jsonl(heldout.path / "rows.jsonl")]
        asked.update(prompts)
        base = _logps(run.base, heldout, step)
        for one in (None, *made):
            values = base if one is None else _logps(one.artefact, heldout, step)
            found = pair_accuracies(values, base, table.trained, prompts)
            metrics["base" if one is None else one.label] |= {f"{role}/{k}": v for k, v in found.items()}
            metrics["base" if one is None else one.label][f"{role}/longer_wins"] = longer_wins(table.trained, prompts)
    on = {"prompts": prompt_set({"prompt_id": p} for p in asked), "excluded": {"near_duplicates": len(excluded)}}
    return [
        _result(run, label, None if label == "base" else made[index - 1], found) | on
        for index, (label, found) in enumerate(metrics.items())
    ]


def _evaluated(steps: Sequence[Step]) -> dict[str, Step]:
    """Steps by the name of their data; where one set is ordered in two ways, the order is part of the name.

    A step that was not trained on pairs is evaluated on pairs as well, where its data hold any, and a buffer by itself.
    """
    on_pairs = [replace(step, objective=use("dpo")) for step in steps if holds_pairs(step)]
    buffers = [(step, step.buffer) for step in steps if step.buffer is not None]
    on_pairs += [replace(s, data=data, prefer="better", objective=use("dpo"), buffer=None) for s, data in buffers]
    orders = {step.data.name: {s.prefer for s in on_pairs if s.data.name == step.data.name} for step in on_pairs}
    return {s.data.name if len(orders[s.data.name]) == 1 else f"{s.data.name} by {s.prefer}": s for s in on_pairs}


def _logps(model: Any, data: Artefact, step: Step) -> Any:
    return np.load(logps(model, data, step).path / "logps.npy")


def _say_excluded(run: Run, count: int, say: Callable[[Any], None]) -> None:
    if count:
        rows = "1 held-out row was" if count == 1 else f"{count:,} held-out rows were"
        near = f"near_duplicates: {run.config.near_duplicates:g}"
        say(f"{rows} left out, the prompt being near to one that was trained on ({near})")


def _result(run: Run, label: str, one: Made | None, metrics: Mapping[str, Any]) -> dict[str, Any]:
    made = manifest(one.artefact) if one else {"seconds": 0, "summary": {}}
    return {
        "method": run.config.method if one else "base",
        "label": label,
        "setting": dict(one.setting) if one else {},
        "seed": run.config.seed,
        "model": one.artefact.id if one else run.base_name,
        "split": "verdict",
        "suite": "held-out pairs",
        "template": run.config.chat_template,
        "system_prompt": None,
        "sampling": {},
        "judge": "labels",
        "metrics": dict(metrics),
        "wall_s": made["seconds"],
        "train_tokens": made["summary"].get("train_tokens", 0),
        "devices": made["summary"].get("devices", 1),
    }


def _table(results: list[dict[str, Any]]) -> Table:
    title = "accuracy on held-out pairs (95 % intervals, clustered by prompt)"
    return metric_table(title, "model", results, list(results[0]["metrics"]))


def _link(link: Path, target: Path) -> None:
    if link.is_symlink():
        link.unlink()
    elif link.exists():
        raise DataError(f"{link} is in the way of a link to {target}: move it or choose another output_dir")
    link.symlink_to(target.resolve())


def _file_name(label: str) -> str:
    return "".join(c if c.isalnum() or c in ".-" else "-" for c in label).strip("-").lower()


def planned(run: Run) -> list[tuple[str, str, str]]:
    """(stage, address, state) of everything a run would make; `run` itself is left as it is."""
    dry = DryStore(current_store().root)
    with using_store(dry):
        try:
            replace(run).execute()
        except NotYet as unknown:  # what follows depends on a number that a stage has yet to find
            return [*dry.planned, ("...", "-", str(unknown))]
    return dry.planned


def stage_plan(run: Run) -> Table:
    """What a run would do: stages, which are there already, and what they depend on."""
    table = Table(title=f"{run.config.method}: stages", title_justify="left")
    for column in ("stage", "address", "state"):
        table.add_column(column)
    for stage, name, state in planned(run):
        table.add_row(stage, name, state)
    return table


def artefact_at(path: Path) -> Path:
    """The artefact that somebody means by its folder, its `model/`, a link to that, or its id in the store."""
    for place in (path, current_store().root / path):
        real = place.resolve()
        for folder in (real, real.parent):
            if (folder / "spec.json").is_file():
                return folder
    links = sorted(str(one) for one in path.iterdir() if _is_model(one)) if path.is_dir() else []
    if links:
        raise DataError(f"{path} is a run's folder: which of its models is meant, {', '.join(links)}?")
    if not path.exists() and not (current_store().root / path).exists():
        raise DataError(f"there is no {path}, neither as a path nor in the store {current_store().root}")
    raise DataError(f"{path} is not an artefact: it has no spec.json")


def _is_model(link: Path) -> bool:
    return link.is_symlink() and (link.resolve().parent / "spec.json").is_file()


def show_artefact(path: Path) -> str:
    """Spec and manifest of an artefact, as JSON."""
    path, parts = artefact_at(path), {}
    for name in ("spec.json", "manifest.json"):
        if (path / name).is_file():
            parts[name.removesuffix(".json")] = json.loads((path / name).read_text(encoding="utf-8"))
    return json.dumps(parts, indent=1, ensure_ascii=False)


def differences(a: Path, b: Path) -> list[tuple[str, str, str]]:
    """(key, value in a, value in b) of all settings that make two artefacts different."""
    flat = []
    for path in map(artefact_at, (a, b)):
        flat.append(_flat(json.loads((path / "spec.json").read_text(encoding="utf-8"))))
    keys = sorted(set(flat[0]) | set(flat[1]))
    return [(k, flat[0].get(k, "-"), flat[1].get(k, "-")) for k in keys if flat[0].get(k) != flat[1].get(k)]


def _flat(value: Any, prefix: str = "") -> dict[str, str]:
    if isinstance(value, dict):
        return {k: v for key, item in value.items() for k, v in _flat(item, f"{prefix}{key}.").items()}
    return {prefix.rstrip("."): json.dumps(value, ensure_ascii=False)}
