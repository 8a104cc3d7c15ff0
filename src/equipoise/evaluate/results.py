"""results.json: the figures of a run, read by people, the page and the gate (schema 1; fields: docs/evaluation.md)."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from equipoise.errors import DataError

SCHEMA = 1

NEEDED = (
    "method",
    "setting",
    "seed",
    "model",
    "split",
    "suite",
    "template",
    "system_prompt",
    "sampling",
    "judge",
    "metrics",
    "wall_s",
    "train_tokens",
    "devices",
    "label",
)
METRIC = ("mean", "low", "high", "n", "n_prompts", "kind", "level", "unscored")


def write_results(
    path: Path, results: Sequence[Mapping[str, Any]], versions: Mapping[str, str], *, created: str | None = None
) -> None:
    """Write results.json whole or not at all; `created` is an ISO time, now when not given."""
    document = {
        "schema": SCHEMA,
        "created": created or datetime.now(UTC).isoformat(timespec="seconds"),
        "versions": dict(versions),
        "results": [dict(result) for result in results],
    }
    _check(document, path)
    try:
        text = json.dumps(document, indent=1, ensure_ascii=False, allow_nan=False)
    except ValueError as error:
        raise DataError(f"{path} cannot hold nan or inf; a figure that is not known is null ({error})") from error
    replace_file(path, text.encode())


def read_results(path: Path) -> dict[str, Any]:
    """Read results.json; another schema or a result without its fields is refused in one sentence."""
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise DataError(f"{path} does not exist; `equipoise run` and `equipoise frontier` write it") from error
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise DataError(f"{path} is not JSON ({error})") from error
    if not isinstance(document, dict) or "schema" not in document:
        raise DataError(f"{path} is not a results file: it has no schema")
    if document["schema"] != SCHEMA:
        raise DataError(f"{path} has results schema {document['schema']!r}, this version of equipoise reads {SCHEMA}")
    _check(document, path)
    return document


def replace_file(path: Path, content: bytes) -> None:
    """Put `content` at `path` in one step: a reader sees the old file or the new one."""
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with draft.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        draft.replace(path)
    finally:
        draft.unlink(missing_ok=True)


def _check(document: Mapping[str, Any], path: Path) -> None:
    for key in ("created", "versions", "results"):
        if key not in document:
            raise DataError(f"{path} lacks {key!r}")
    for number, result in enumerate(document["results"]):
        name = result.get("label", f"number {number}")
        missing = [key for key in NEEDED if key not in result]
        if missing:
            raise DataError(f"{path}: result {name!r} lacks {', '.join(missing)}")
        if result["split"] not in ("select", "verdict"):
            raise DataError(f"{path}: result {name!r} has split {result['split']!r}, expected 'select' or 'verdict'")
        for metric, values in result["metrics"].items():
            lacking = [key for key in METRIC if key not in values]
            if lacking:
                raise DataError(f"{path}: metric {metric!r} of result {name!r} lacks {', '.join(lacking)}")
