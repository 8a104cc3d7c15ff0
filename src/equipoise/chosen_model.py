"""Which model somebody means by a run's folder, an artefact of the store, a link to its model, or a directory."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from equipoise.errors import DataError, SettingError, nearest
from equipoise.evaluate.results import read_results
from equipoise.runs import artefact_at
from equipoise.store import MANIFEST, SPEC, current_store

RESULTS, CONFIG = "results.json", "config.yaml"
_NUMBERED = re.compile(r"(\d+)-.+")


@dataclass(frozen=True)
class Chosen:
    """A model: its directory, and as far as they are known its artefact in a store, its run's folder, its label."""

    folder: Path
    artefact: Path | None = None
    run: Path | None = None
    label: str | None = None


@dataclass
class _Offer:
    """A model of a run's folder under all names it goes by."""

    artefact: Path
    names: list[str]
    label: str | None = None
    chosen: bool = False


def choose_model(path: Path, model: str | None = None) -> Chosen:
    """Find the model that is meant; `model` is a label or number of those in a run's folder.

    Without it the only one with a verdict or a link is taken, or the one that results.json calls chosen. Raises
    SettingError where that leaves more than one, DataError for a path that is no model at all.
    """
    if is_model(path):
        return _refusing(model, path, _from_directory(path))
    if path.is_dir() and not (path / SPEC).is_file() and _is_run(path):
        return _from_run(path, model)
    artefact = artefact_at(path)
    if not is_model(artefact / "model"):
        raise DataError(f"{artefact} holds no model: a stage '{artefact.name.rpartition('-')[0]}' leaves none")
    return _refusing(model, path, Chosen(artefact / "model", _finished(artefact)))


def is_model(path: Path) -> bool:
    """Whether a directory holds a model or an adapter."""
    return (path / "config.json").is_file() or (path / "adapter_config.json").is_file()


def _refusing(model: str | None, path: Path, chosen: Chosen) -> Chosen:
    if model is not None:
        raise SettingError(f"--model {model}: {path} is one model, not the folder of a run: leave --model out")
    return chosen


def _from_directory(path: Path) -> Chosen:
    real = path.resolve()
    artefact = real.parent if (real.parent / SPEC).is_file() and real.name == "model" else None
    run = path.absolute().parent if path.is_symlink() and (path.absolute().parent / CONFIG).is_file() else None
    return Chosen(real, None if artefact is None else _finished(artefact), run)


def _finished(artefact: Path) -> Path:
    if not (artefact / MANIFEST).is_file():
        raise DataError(f"{artefact} is not finished: run its command again, it continues")
    return artefact


def _is_run(path: Path) -> bool:
    return (path / CONFIG).is_file() or (path / RESULTS).is_file() or any(map(_is_link, path.iterdir()))


def _is_link(link: Path) -> bool:
    return link.is_symlink() and (link.resolve().parent / SPEC).is_file()


def _from_run(path: Path, model: str | None) -> Chosen:
    offers = _offers(path, labelled=model is not None)
    if not offers:
        raise DataError(f"{path} is a run's folder without models: no links to any, no results of any in the store")
    if model is not None:
        found = [offer for offer in offers if model in offer.names]
        if not found:
            raise SettingError(f"--model {model}: {path} has no such model{nearest(model, _names(offers))}")
    else:
        found = offers if len(offers) == 1 else [offer for offer in offers if offer.chosen]
    if len(found) != 1:
        listed = "; ".join(" or ".join(offer.names) for offer in found or offers)
        raise SettingError(f"{path} has {len(offers)} models: say which with --model ({listed})")
    (offer,) = found
    return Chosen((offer.artefact / "model").resolve(), _finished(offer.artefact), path.absolute(), offer.label)


def _offers(path: Path, *, labelled: bool) -> list[_Offer]:
    """Models by the links of a folder, then those that its verdict results name and the store has.

    With `labelled`, also those that other results name.
    """
    offers: dict[Path, _Offer] = {}
    for link in sorted(path.iterdir(), key=_place):
        if _is_link(link):
            artefact = link.resolve().parent
            number = _NUMBERED.fullmatch(link.name)
            offers[artefact] = _Offer(artefact, [*([number[1]] if number else []), link.name])
    for result in _results(path, labelled=labelled):
        for name in result.get("models") or [result["model"]]:
            artefact = next((known for known in offers if known.name == name), current_store().root.resolve() / name)
            if artefact not in offers and not is_model(artefact / "model"):
                continue
            offer = offers.setdefault(artefact, _Offer(artefact, []))
            another = _ambiguous(result["label"], offers, artefact)
            called = artefact.name if another else result["label"]
            if called not in offer.names:
                offer.names.append(called)
            offer.label = offer.label or result["label"]
            offer.chosen = offer.chosen or (bool(result.get("chosen")) and not another)
    return list(offers.values())


def _ambiguous(label: str, offers: Mapping[Path, _Offer], artefact: Path) -> bool:
    """Whether another seed's model goes by the label already: the first keeps it, others go by their artefact."""
    return any(label in offer.names for place, offer in offers.items() if place != artefact)


def _place(link: Path) -> tuple[int, str]:
    number = _NUMBERED.fullmatch(link.name)
    return (int(number[1]) if number else 10**6, link.name)


def _names(offers: Sequence[_Offer]) -> list[str]:
    return [name for offer in offers for name in offer.names]


def _results(path: Path, *, labelled: bool) -> list[dict[str, Any]]:
    """Verdict results, then others: who has both goes by the former."""
    if not (path / RESULTS).is_file():
        return []
    found: list[dict[str, Any]] = read_results(path / RESULTS)["results"]
    verdicts = [result for result in found if result["split"] == "verdict"]
    return verdicts + [result for result in found if result["split"] != "verdict" and labelled]
