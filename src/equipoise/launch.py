"""Stages in processes of their own: `launch: accelerate launch` runs `python -m equipoise.stages DIR` several times.

The process that was called writes the task, waits and writes the manifest; those that were launched compute.
"""

from __future__ import annotations

import contextlib
import json
import os
import shlex
import subprocess
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from equipoise.config import Config
from equipoise.errors import DataError, DivergedError, EquipoiseError, SettingError
from equipoise.store import FileInput, Input, Work, locked, write_json
from equipoise.types import Artefact

_TASK, _REFUSED, _LOCK = "task.json", "refused.json", "launched.lock"
_KINDS = {kind.__name__: kind for kind in (SettingError, DataError, DivergedError)}


@dataclass(frozen=True)
class Task:
    """What a launched process is to do."""

    stage: str
    config: dict[str, Any]
    inputs: dict[str, Input]
    work: Work


def run_elsewhere(work: Work, config: Config, inputs: Mapping[str, Input], *, command: str | None) -> bool:
    """Run the stage of `work` through a launch command and wait; False means that it is to be done here.

    Errors of the launched processes are raised here as they were there.
    """
    if not command or os.environ.get("EQUIPOISE_STAGE") == work.path.name:
        return False  # nothing to launch, or we are what was launched
    with locked(work.path / _LOCK, wait=False):
        pass  # what a killed command had launched may still be running; it holds this lock
    task = {
        "stage": work.stage,
        "config": config.model_dump(mode="json"),
        "inputs": {name: _encode(value) for name, value in inputs.items()},
        "resumed": work.resumed,
    }
    write_json(work.path / _TASK, task)
    refused = work.path / _REFUSED
    refused.unlink(missing_ok=True)
    words = [*shlex.split(command), "-m", "equipoise.stages", str(work.path)]
    try:
        finished = subprocess.run(words, env={**os.environ, "EQUIPOISE_STAGE": work.path.name}, check=False)
    except OSError as error:
        raise SettingError(f"launch: '{command}' cannot be started: {error}") from error
    if refused.is_file():  # launchers do not hand on the exit code of what they launched
        said = json.loads(refused.read_text(encoding="utf-8"))
        refused.unlink()
        raise _KINDS.get(said["kind"], DataError)(said["sentence"])
    if finished.returncode:
        raise DataError(
            f"{work.stage} ended with exit code {finished.returncode} under '{command}': what went wrong stands above, "
            "run the same command again to continue"
        )
    for name in (_TASK, _LOCK):
        (work.path / name).unlink(missing_ok=True)
    return True


def read_task(folder: Path) -> Task:
    """The task that was written into a stage's directory."""
    task = json.loads((folder / _TASK).read_text(encoding="utf-8"))
    inputs = {name: _decode(value) for name, value in task["inputs"].items()}
    return Task(task["stage"], task["config"], inputs, Work(folder, task["stage"], task["resumed"]))


@contextlib.contextmanager
def launched(folder: Path) -> Iterator[None]:
    """Hold the lock of a launched run (first process only) and leave what it refuses where the caller finds it."""
    first = os.environ.get("RANK", "0") == "0"
    try:
        with locked(folder / _LOCK, wait=False) if first else contextlib.nullcontext():
            yield
    except EquipoiseError as error:
        write_json(folder / _REFUSED, {"kind": type(error).__name__, "sentence": str(error)})
        raise


def _encode(value: Input) -> Any:
    if isinstance(value, Artefact):
        return {"artefact": {**asdict(value), "path": str(value.path)}}
    if isinstance(value, FileInput):
        return {"file": str(value.path)}
    return value


def _decode(value: Any) -> Input:
    if isinstance(value, dict) and "artefact" in value:
        found = value["artefact"]
        return Artefact(found["id"], found["kind"], Path(found["path"]))
    if isinstance(value, dict):
        return FileInput(Path(value["file"]))
    return value  # type: ignore[no-any-return]
