"""What it took to make a model: the stages behind it, read off their specs and manifests in the store."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple

from equipoise.store import MANIFEST, SPEC
from equipoise.types import Artefact


class Spent(NamedTuple):
    """What it took to make a model."""

    seconds: float
    tokens: int


def spent_on(model: Artefact, *, without: Iterable[str] = ()) -> Spent:
    """Seconds and trained tokens of all stages behind a model, each counted once.

    `without` are names of stages or ids of artefacts at which the way back ends: they and what led to them are not
    counted, as a base that was there before.
    """
    ends, root = set(without), model.path.parent
    seen: set[str] = set()
    waiting, seconds, tokens = [model.id], 0.0, 0
    while waiting:
        name = waiting.pop()
        folder = root / name
        if name in seen or ends & {name, name.rsplit("-", 1)[0]} or not (folder / MANIFEST).is_file():
            continue
        seen.add(name)
        made = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
        seconds += made["seconds"]
        tokens += made["summary"].get("train_tokens", 0)
        waiting += _named(json.loads((folder / SPEC).read_text(encoding="utf-8")), root)
    return Spent(round(seconds, 1), tokens)


def _named(value: Any, root: Path) -> list[str]:
    """Ids of artefacts anywhere in a spec."""
    if isinstance(value, dict):
        return [name for one in value.values() for name in _named(one, root)]
    if isinstance(value, list):
        return [name for one in value for name in _named(one, root)]
    is_id = isinstance(value, str) and re.fullmatch(r"\w+-[0-9a-f]{12}", value) is not None
    return [value] if is_id and (root / value / SPEC).is_file() else []
