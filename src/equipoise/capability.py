"""Capability tasks: EleutherAI's lm-evaluation-harness on a model, as stages, and its figures as metrics.

The harness is an extra (`pip install 'equipoise[eval]'`); what is said of it here is so of lm-eval 0.4.13.
"""

from __future__ import annotations

import json
import logging
import math
import statistics
import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from pydantic import Field

from equipoise.config import Config, Execution
from equipoise.errors import DataError, SettingError, nearest
from equipoise.evaluate.suites import metric_of
from equipoise.stages import model_input, model_path
from equipoise.statistics import mean, rate
from equipoise.store import FileInput, Input, Work, stage, write_json
from equipoise.types import Artefact

logger = logging.getLogger(__name__)

LEVEL = 0.95
_BOOTSTRAP = 1000  # draws behind the harness's standard errors where it has no formula
_SHARES = ("acc", "acc_norm", "exact_match", "mc1", "mc2", "pass@1")  # figures of groups that are shares of 1


class CapabilityUse(Config):
    """What a config says of capability tasks: `capability: {tasks: [...], limit:, include_path:}`.

    `tasks` are the harness's tasks or groups, or those of the YAML files under `include_path`; `limit` takes the first
    questions of each alone, `num_fewshot` replaces a task's number of examples, `chat_template` asks as in a dialogue.
    """

    tasks: tuple[str, ...] = Field(min_length=1)
    limit: int | None = Field(None, gt=0)
    num_fewshot: int | None = Field(None, ge=0)
    chat_template: bool = False
    include_path: str | None = Execution(None)
    batch_size: int = Execution(8, gt=0)


class HarnessConfig(Config):
    """One task, with the versions of all that it consists of."""

    task: str
    versions: dict[str, str]
    limit: int | None = None
    num_fewshot: int | None = None
    chat_template: bool = False
    include_path: str | None = Execution(None)
    batch_size: int = Execution(8, gt=0)


@stage(version=1)
def harness(work: Work, config: HarnessConfig, *, model: Input, base: Input = None, definitions: Input = None) -> None:
    """Answer a task: `capability.json`, the figure and a value for each question (null where it has none).

    Replies of the model are kept in a file until then, so that a killed attempt is continued. `base` is what an adapter
    belongs to, `definitions` the folder of task files: both are in the address.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of the harness and its many dependencies
        found = _evaluated(work, config, model_path(model))
    name, figure, error = _figure(
        found["results"].get(config.task) or found.get("groups", {}).get(config.task, {}), config.task
    )
    leaves = list(found["samples"]) if config.task not in found["samples"] else [config.task]
    samples = found["samples"].get(config.task, [])
    values = [sample.get(name.partition(",")[0]) for sample in samples]
    numbers = [float(v) if isinstance(v, int | float) and not isinstance(v, complex) else None for v in values]
    count = sum(int(found["n-samples"][leaf]["effective"]) for leaf in leaves)
    document = {
        "task": config.task,
        "metric": name,
        "value": figure,
        "stderr": error,
        "n": count,
        "values": numbers if len(numbers) == count and None not in numbers else None,
        "versions": config.versions,
        "n_shot": {leaf: found["n-shot"].get(leaf) for leaf in leaves},
        "harness": found["lm_eval_version"],
    }
    write_json(work.path / "capability.json", document)
    for replies in work.path.glob("replies*"):
        replies.unlink()
    work.summary.update(metric=name, value=figure, questions=count, harness=found["lm_eval_version"])


def capability(model: Input, use: CapabilityUse, *, base_dir: Path | None = None) -> dict[str, dict[str, Any]]:
    """Metrics `capability/<task>` of a model, each task a stage that is reused; paths are relative to `base_dir`.

    Beside a metric's fields: `of` (the harness's name of the figure), `version`, `stderr`, `limit`. Questions that are
    right or wrong give a rate with an exact interval, other numbers a bootstrap; a group has the harness's own standard
    error, times 1.96. Raises SettingError for an unknown task or a missing extra, DataError where a task fails.
    """
    artefacts = tasks_of(model, use, base_dir=base_dir)
    return {f"capability/{task}": metric_from(artefact, limit=use.limit) for task, artefact in artefacts.items()}


def check_tasks(use: CapabilityUse, *, base_dir: Path | None = None) -> None:
    """Refuse a task that is unknown, a folder that is not there or a missing extra before anything is computed."""
    folder = _folder(use, base_dir)
    for task in use.tasks:
        task_versions(task, folder)


def _folder(use: CapabilityUse, base_dir: Path | None) -> Path | None:
    folder = None if use.include_path is None else (base_dir or Path.cwd()) / use.include_path
    if folder is not None and not folder.is_dir():
        raise SettingError(f"capability: include_path {folder} is no directory, expected one with task files in YAML")
    return folder


def tasks_of(model: Input, use: CapabilityUse, *, base_dir: Path | None = None) -> dict[str, Artefact]:
    """The stages of a model's tasks, by task."""
    folder = _folder(use, base_dir)
    extra: dict[str, Input] = {}
    place = model_path(model)
    if Path(place).is_dir():
        from equipoise.models.load import ModelName

        if (belongs_to := ModelName.parse(place).adapter_base) is not None:
            extra["base"] = model_input(belongs_to)
    out = {}
    for task in use.tasks:
        own, versions = task_versions(task, folder)
        config = HarnessConfig(
            task=task,
            versions=versions,
            limit=use.limit,
            num_fewshot=use.num_fewshot,
            chat_template=use.chat_template,
            include_path=str(folder) if own else None,
            batch_size=use.batch_size,
        )
        given = {"definitions": FileInput(folder)} if own and folder is not None else {}
        out[task] = harness(config, model=model, **extra, **given)
    return out


def metric_from(artefact: Artefact, *, limit: int | None = None) -> dict[str, Any]:
    """A finished task as results.json holds a metric."""
    told = json.loads((artefact.path / "capability.json").read_text(encoding="utf-8"))
    values, count = told["values"], told["n"]
    if values and set(values) <= {0.0, 1.0}:
        metric = metric_of(rate(values, range(count), level=LEVEL))
    elif values and count > 1:
        metric = metric_of(mean(values, range(count), level=LEVEL))
    else:
        share = told["metric"].partition(",")[0] in _SHARES
        low = high = None
        if told["stderr"] is not None:
            reach = statistics.NormalDist().inv_cdf((1 + LEVEL) / 2) * told["stderr"]
            low, high = told["value"] - reach, told["value"] + reach
            low, high = (max(0.0, low), min(1.0, high)) if share else (low, high)
        metric = {"mean": told["value"], "low": low, "high": high, "n": count, "n_prompts": count}
        metric |= {"n_effective": count, "kind": "rate" if share else "mean", "level": LEVEL, "unscored": 0}
    version = ", ".join(dict.fromkeys(told["versions"].values()))
    return {**metric, "of": told["metric"], "version": version, "stderr": told["stderr"], "limit": limit}


# ---- the harness -------------------------------------------------------------------------------------------------


def task_versions(task: str, folder: Path | None) -> tuple[bool, dict[str, str]]:
    """Whether a task is the user's own, and the versions of it and of what it consists of.

    Raises SettingError for one that is unknown, or a tag, which has no figure of its own.
    """
    for own in (True, False) if folder is not None else (False,):
        index = _index(folder if own else None)
        if task not in index:
            continue
        if index[task].kind.name == "TAG":
            raise SettingError(f"capability: '{task}' is a tag, not a task or group: name its tasks")
        return own, dict(sorted(_versions(task, index)))
    known = [name for own in (True, False) if folder is not None or not own for name in _index(folder if own else None)]
    raise SettingError(f"capability: task '{task}' is unknown{_near(task, known)}")


def _near(task: str, known: list[str]) -> str:
    hint = nearest(task, known)
    return hint if len(hint) < 200 else f" (the harness knows {len(known):,}: lm-eval ls tasks)"


def _index(folder: Path | None) -> Mapping[str, Any]:
    """The harness's tasks by name, or those of a folder alone: looking through its own takes seconds."""
    key = None if folder is None else str(folder.resolve())
    if key not in _INDEXES or key is not None:  # a user's files change
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            _INDEXES[key] = _manager(folder).task_index
    return _INDEXES[key]


_INDEXES: dict[str | None, Mapping[str, Any]] = {}


def _manager(folder: Path | None) -> Any:
    try:
        from lm_eval.tasks import TaskManager
    except ImportError as error:
        raise SettingError(
            "capability tasks need EleutherAI's lm-evaluation-harness, which is not installed: "
            "pip install 'equipoise[eval]'"
        ) from error
    return TaskManager(include_path=None if folder is None else str(folder), include_defaults=folder is None)


def _versions(task: str, index: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """(name, version) of a task, or of a group and everything in it."""
    entry = index[task]
    config = entry.cfg or {}
    yield task, str((config.get("metadata") or {}).get("version", "none"))
    if entry.kind.name != "GROUP":
        return
    members = config.get("task") or []
    for member in members if isinstance(members, list) else [members]:
        name = member.get("task") or member.get("group") if isinstance(member, Mapping) else member
        if isinstance(name, str) and name in index:
            yield from _versions(name, index)


def _evaluated(work: Work, config: HarnessConfig, name: str) -> dict[str, Any]:
    import torch
    from lm_eval import simple_evaluate

    from equipoise.models.load import ModelName, first_line

    model = ModelName.parse(name)
    base = ModelName.parse(model.adapter_base) if model.adapter_base else model
    arguments: dict[str, Any] = {"pretrained": base.location, "revision": base.revision or "main"}
    if model.adapter_base:
        arguments |= {"peft": model.location}
        if (Path(model.location) / "tokenizer_config.json").is_file():
            arguments |= {"tokenizer": model.location}
    try:
        found: dict[str, Any] | None = simple_evaluate(
            model="hf",
            model_args=arguments,
            tasks=[config.task],
            task_manager=_manager(None if config.include_path is None else Path(config.include_path)),
            num_fewshot=config.num_fewshot,
            apply_chat_template=config.chat_template,
            limit=config.limit,
            batch_size=config.batch_size,
            device="cuda" if torch.cuda.is_available() else "cpu",
            use_cache=str(work.path / "replies"),
            bootstrap_iters=_BOOTSTRAP,
        )
    except (OSError, ValueError, KeyError, AssertionError) as error:  # all that it raises for sets it cannot read
        raise DataError(f"capability: task '{config.task}' cannot be run on {name}: {first_line(error)}") from error
    assert found is not None  # None on the other ranks of a launcher, which there is none of here
    return found


def _figure(row: Mapping[str, Any], task: str) -> tuple[str, float, float | None]:
    """The first figure that a task reports, `name,filter`, and its standard error."""
    for key, value in row.items():
        name, comma, filter_ = key.partition(",")
        if comma and not name.endswith("_stderr") and isinstance(value, int | float):
            error = row.get(f"{name}_stderr,{filter_}")
            known = isinstance(error, int | float) and math.isfinite(error)
            return key, float(value), float(error) if known and error is not None else None
    raise DataError(f"capability: task '{task}' reports no figure")
