"""What all commands share: consoles, where finished stages are kept, `--key value` as settings."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from rich.console import Console

from equipoise.errors import SettingError
from equipoise.progress import Display
from equipoise.store import Store

console = Console()
errors = Console(stderr=True)
state: dict[str, Any] = {"debug": False, "store": None}

ANY_KEY = {"allow_extra_args": True, "ignore_unknown_options": True}
"""Of commands that take `--key value` for every key of their config."""


def open_store(display: Display, fresh: tuple[str, ...] = ()) -> Store:
    """Where finished stages are kept, its events shown on `display`."""
    root = state["store"] or Path(os.environ.get("EQUIPOISE_STORE", "store"))
    return Store(root, fresh=fresh, on_event=display.event, on_progress=display.progress, on_note=display.note)


def as_assignments(words: list[str]) -> list[str]:
    """`--key value` and `--key=value` as key=value."""
    out = []
    rest = iter(words)
    for word in rest:
        if not word.startswith("--"):
            raise SettingError(f"'{word}' is not of the form --key value")
        name, sign, value = word[2:].partition("=")
        if not sign:
            following = next(rest, None)
            if following is None:
                raise SettingError(f"--{name} needs a value")
            value = following
        out.append(f"{name}={value}")
    return out
