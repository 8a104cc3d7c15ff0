"""What a model was made from: the stages and data behind it, read off the specs and manifests of the store."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from equipoise.records import read_jsonl
from equipoise.store import MANIFEST, SPEC

_ID = re.compile(r"[a-z]\w*-[0-9a-f]{12}")
_CONTENT = re.compile(r"[0-9a-f]{16}")
_MODELS = ("model", "models")
PLAYGROUND = "playground"


@dataclass(frozen=True)
class Node:
    """A stage that led to a model; `manifest` is empty where it was removed from the store."""

    id: str
    spec: Mapping[str, Any]
    manifest: Mapping[str, Any]

    @property
    def stage(self) -> str:
        return self.id.rpartition("-")[0]

    @property
    def config(self) -> Mapping[str, Any]:
        found: Mapping[str, Any] = self.spec.get("config", {})
        return found

    @property
    def inputs(self) -> Mapping[str, Any]:
        found: Mapping[str, Any] = self.spec.get("inputs", {})
        return found

    @property
    def summary(self) -> Mapping[str, Any]:
        found: Mapping[str, Any] = self.manifest.get("summary", {})
        return found


class Source(NamedTuple):
    """One data entry behind a model.

    `path` is where it lay when it was read, `name` how a card calls it: a hub id, or folder/file.
    """

    name: str
    role: str
    use: str
    path: str | None
    hub: str | None
    revision: str | None
    content: str | None
    asks: Mapping[str, Any]  # what the entry says besides: split, axis, map, ...
    rows: int | None  # that the stage kept, of all its entries
    dropped: int
    stage: str


@dataclass(frozen=True)
class Lineage:
    """The stages behind a model, each after what it was made from; `chain` are those that made models.

    `base` is what the chain begins with outside the store: a hub id, or the content hash of a directory.
    """

    nodes: tuple[Node, ...]
    chain: tuple[Node, ...]
    bases: tuple[str, ...]
    sources: tuple[Source, ...]

    @property
    def playground(self) -> bool:
        """Whether anything of it is of the built-in world."""
        return any(node.stage.startswith(PLAYGROUND) for node in self.nodes)

    @property
    def hub_base(self) -> str | None:
        """The hub id that everything began with, where it is one."""
        hubs = [base for base in self.bases if not _CONTENT.fullmatch(base)]
        return hubs[0] if len(hubs) == 1 and len(self.bases) == 1 else None


NONE = Lineage((), (), (), ())


def lineage_of(folder: Path) -> Lineage:
    """Walk the specs of a store from an artefact's folder to what it began with."""
    nodes: dict[str, Node] = {}
    _visit(folder.name, folder.parent, nodes)
    chain, bases = _chain(folder.name, nodes)
    sources = tuple(source for node in nodes.values() for source in _sources(node))
    return Lineage(tuple(nodes.values()), tuple(nodes[name] for name in chain), tuple(bases), sources)


def _visit(name: str, store: Path, nodes: dict[str, Node]) -> None:
    if name in nodes:
        return
    node = Node(name, _json(store / name / SPEC), _json(store / name / MANIFEST))
    for value in _leaves(node.inputs):
        if _ID.fullmatch(value) and value not in nodes:
            _visit(value, store, nodes)
    nodes[name] = node  # after its inputs


def _chain(name: str, nodes: Mapping[str, Node]) -> tuple[list[str], list[str]]:
    """Ids of the stages that made models, base first, and what they began with."""
    chain: list[str] = []
    bases: list[str] = []

    def follow(one: str) -> None:
        if one in chain:
            return
        for key in _MODELS:
            for value in _leaves(nodes[one].inputs.get(key)):
                if value in nodes:
                    follow(value)
                elif value not in bases:
                    bases.append(value)
        chain.append(one)

    follow(name)
    return chain, bases


def _leaves(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping):
        for item in value.values():
            yield from _leaves(item)
    elif isinstance(value, list):
        for item in value:
            yield from _leaves(item)


def _json(path: Path) -> dict[str, Any]:
    return dict(json.loads(path.read_text(encoding="utf-8"))) if path.is_file() else {}


# ---- data --------------------------------------------------------------------------------------------------------

_USES = {
    "prepare": "training rows",
    "buffer": "training rows (buffer)",
    "fresh": "its tokenizer",
    "asked": "prompts",
    "annotated": "labels",
}


def _sources(node: Node) -> Iterator[Source]:
    """The data entries that a stage read."""
    config, paths = node.config, node.manifest.get("execution", {}).get("paths", ())
    if "entries" in config:
        groups = [(str(config.get("name", node.stage)), config["entries"], paths, node.inputs.get("files") or [])]
    elif isinstance(config.get("kinds"), Mapping) and "files" in node.inputs:
        kinds, files = config["kinds"], node.inputs["files"]
        by_kind = paths if isinstance(paths, Mapping) else {}
        groups = [(kind, kinds[kind], by_kind.get(kind, ()), f) for kind, f in zip(kinds, files, strict=False)]
    else:
        return
    counts = node.summary
    rows = next((int(counts[key]) for key in ("rows", "prompts", "documents") if key in counts), None)
    dropped = counts.get("dropped", {})
    lost = sum(dropped.values()) if isinstance(dropped, Mapping) else 0
    use = _USES.get(node.stage, node.stage)
    for role, entries, places, files in groups:
        for index, entry in enumerate(entries):
            place = str(places[index]) if index < len(places) else None
            content = str(files[index]) if index < len(files) else None
            hub = content.split(":")[1].partition("@")[0] if content and content.startswith("hub:") else None
            yield Source(
                name=hub or short(place) or f"a file ({content})",
                role=role,
                use=use,
                path=None if hub else place,
                hub=hub,
                revision=entry.get("revision"),
                content=None if hub else content,
                asks={k: v for k, v in entry.items() if v not in (None, {}, []) and k != "revision"},
                rows=rows,
                dropped=lost,
                stage=node.id,
            )


def short(path: str | None) -> str | None:
    """Folder and file of a path: the rest tells about a machine, not about the data."""
    return None if path is None else "/".join(Path(path).parts[-2:]).lstrip("/")


# ---- what a model was evaluated on -------------------------------------------------------------------------------


def evaluation_prompts(folder: Path, *, count: int) -> list[dict[str, Any]]:
    """Up to `count` prompts that a model in the store was evaluated on: those it answered, or of held-out rows."""
    found: dict[str, list[Any]] = {}
    for path in sorted(folder.parent.glob("generate-*")) + sorted(folder.parent.glob("reference-*")):
        inputs = _json(path / SPEC).get("inputs", {})
        if inputs.get("model") != folder.name or not (path / MANIFEST).is_file():
            continue
        rows = path / "completions.jsonl"
        if path.name.startswith("reference-"):
            data = str(inputs.get("data"))
            if not data.startswith("heldout-"):
                continue
            rows = folder.parent / data / "rows.jsonl"
        if rows.is_file():
            found |= {row.get("prompt_id") or row["id"]: row["prompt"] for row in read_jsonl(rows) if "prompt" in row}
    names = sorted(found)  # any order will do, but the same every time
    step = max(1, len(names) // count)
    return [{"id": name, "prompt": found[name]} for name in names[::step][:count]]
