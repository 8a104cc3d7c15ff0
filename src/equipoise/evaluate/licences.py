"""Licences as the files beside a model or a set state them; what nobody states is unknown, and nothing is inferred."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, NamedTuple

import yaml

CARDS = ("README.md", "README.MD", "readme.md")
SOURCES = ("SOURCE.txt", "SOURCE.md", "SOURCE")
_STATED = re.compile(r"^\s*(?P<key>[^:\n]*\blicen[cs]e\b[^:\n]*):\s*(?P<value>\S.*?)\s*$", re.IGNORECASE | re.MULTILINE)
_FRONT = re.compile(r"\A---\s*\n(?P<yaml>.*?)\n---\s*(\n|\Z)", re.DOTALL)


class Licence(NamedTuple):
    """A licence in the words of where it was found; `text` is None where it is unknown.

    `identifier` is what a model card on the hub may say, where the source says just that.
    """

    text: str | None
    where: str
    identifier: str | None = None


UNKNOWN = Licence(None, "nothing beside it states one")


def front_matter(text: str) -> dict[str, Any]:
    """The YAML that a card begins with; empty where there is none or it does not parse."""
    found = _FRONT.match(text)
    if found is None:
        return {}
    try:
        value = yaml.safe_load(found["yaml"])
    except yaml.YAMLError:
        return {}
    return value if isinstance(value, dict) else {}


def card_of(folder: Path) -> dict[str, Any]:
    """The front matter of a folder's card."""
    for name in CARDS:
        if (folder / name).is_file():
            return front_matter((folder / name).read_text(encoding="utf-8", errors="replace"))
    return {}


def licence_beside(path: Path) -> Licence:
    """The licence of a local file or folder: by a card's front matter, or by a line `licence: ...` of a SOURCE file."""
    folder = path if path.is_dir() else path.parent
    if (found := _of_card(card_of(folder), f"{folder.name}/README.md")) is not None:
        return found
    for name in SOURCES:
        if (folder / name).is_file():
            text = (folder / name).read_text(encoding="utf-8", errors="replace")
            lines = [m for m in _STATED.finditer(text) if not m["key"].lower().startswith("file")]
            if lines:
                only = lines[0]["value"] if len(lines) == 1 else None
                said = only or "; ".join(f"{m['key'].strip()}: {m['value']}" for m in lines)
                return Licence(said, f"{folder.name}/{name}", _identifier(only))
    texts = sorted(file.name for file in folder.glob("LICEN[CS]E*") if file.is_file())
    if texts:
        return Licence(None, f"a file {texts[0]} lies beside it, which was not interpreted")
    return UNKNOWN


def licence_of_model(folder: Path) -> Licence:
    """The licence of a model directory: by its card, or by `license` in its config.json."""
    found = licence_beside(folder)
    if found.text is None and (folder / "config.json").is_file():
        said = json.loads((folder / "config.json").read_text(encoding="utf-8")).get("license")
        if isinstance(said, str) and said:
            return Licence(said, f"{folder.name}/config.json", _identifier(said))
    return found


def hub_card(name: str, revision: str | None, kind: Literal["model", "dataset"]) -> dict[str, Any]:
    """The front matter of a hub repository's card as far as it is on this machine; the hub is not asked."""
    from huggingface_hub import try_to_load_from_cache

    found = try_to_load_from_cache(name, "README.md", revision=revision, repo_type=kind)
    if not isinstance(found, str):
        return {}
    return front_matter(Path(found).read_text(encoding="utf-8", errors="replace"))


def hub_licence(name: str, revision: str | None, kind: Literal["model", "dataset"]) -> Licence:
    """The licence on a hub card that is on this machine."""
    found = _of_card(hub_card(name, revision, kind), f"the hub card of {name}")
    return found or Licence(None, f"the hub card of {name} is not on this machine")


def given_licence(text: str) -> Licence:
    """A licence that the command line states."""
    return Licence(text, "given by whoever exported it", _identifier(text))


def _of_card(card: Mapping[str, Any], where: str) -> Licence | None:
    said = card.get("license")
    if isinstance(said, list):
        said = ", ".join(map(str, said))
    if not isinstance(said, str) or not said or said.lower() == "unknown":
        return None
    named = card.get("license_name")
    return Licence(f"{said} ({named})" if named else said, where, _identifier(said))


def _identifier(text: str | None) -> str | None:
    """The hub writes identifiers in small letters, without spaces."""
    return text.lower() if text is not None and re.fullmatch(r"[A-Za-z0-9][\w.+-]*", text) else None
