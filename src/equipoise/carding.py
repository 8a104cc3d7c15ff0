"""What goes onto the card of an exported model: gathered from its store, its run's folder and the command line."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

from equipoise.chosen_model import CONFIG, RESULTS, Chosen
from equipoise.config import PpoConfig, TrainConfig, read_yaml
from equipoise.errors import DataError, SettingError, nearest
from equipoise.evaluate.licences import (
    UNKNOWN,
    Licence,
    card_of,
    given_licence,
    hub_card,
    hub_licence,
    licence_beside,
    licence_of_model,
)
from equipoise.evaluate.lineage import NONE, Lineage, Source, lineage_of, short
from equipoise.evaluate.model_card import Card, Used, config_text
from equipoise.evaluate.results import read_results
from equipoise.scorers import ScorerUse
from equipoise.store import content_id, versions

_HUB = re.compile(r"[A-Za-z0-9][\w.-]*/[\w.-]+")
_OWN = ("model", "base")


@dataclass(frozen=True)
class Base:
    """What a model began with: in words, its hub id, where it lies on this machine, its licence, its languages."""

    words: str | None
    hub: str | None
    licence: Licence
    language: tuple[str, ...]
    scratch: bool = False


@dataclass(frozen=True)
class Carded:
    """What is known of a model before it is written."""

    chosen: Chosen
    lineage: Lineage
    base: Base
    data: tuple[Used, ...]
    stated: Mapping[str, str]
    results: tuple[dict[str, Any], ...]
    untested: tuple[str, ...]
    unfit: str | None = None  # why results that name the model are none of the card's

    @classmethod
    def of(cls, chosen: Chosen, licences: Sequence[str], results: Sequence[Path]) -> Carded:
        """Gather; a licence for a part that there is not, or results without the model, are refused."""
        lineage = lineage_of(chosen.artefact) if chosen.artefact is not None else NONE
        stated = _stated(licences, lineage.sources)
        base = _base(chosen, lineage)
        if "base" in stated:
            base = Base(base.words, base.hub, given_licence(stated["base"]), base.language)
        data = tuple(Used(source, _licence_of(source, stated)) for source in _distinct(lineage.sources))
        documents = [(path, read_results(path)) for path in _result_files(chosen, results)]
        names = {str(chosen.folder), *([chosen.artefact.name] if chosen.artefact is not None else [])}
        if documents:
            names.add(content_id(chosen.folder))
        found: list[dict[str, Any]] = []
        others: list[dict[str, Any]] = []
        for path, document in documents:
            named = [r for r in document["results"] if names & {r["model"], *r.get("models", ())}]
            of_it = [r for r in named if r["split"] == "verdict"]
            if not of_it and results:
                raise DataError(f"--results {path}: none of its verdict results is of {chosen.folder}")
            found += of_it
            others += [r for r in named if r["split"] != "verdict"]
        untested = tuple(dict.fromkeys(s for _, document in documents for s in document.get("untested", ())))
        unfit = None if found else _unfit(chosen, others)
        return cls(chosen, lineage, base, data, stated, tuple(found), untested, unfit)


def card_for(told: Carded, *, name: str, form: str, dtype: str, answers: str) -> Card:
    """The card of a model that was written in a form."""
    from equipoise.models.load import ModelName
    from equipoise.models.scalar import head_of, is_scalar, lacks_zero

    folder, lineage = told.chosen.folder, told.lineage
    scorer = (head_of(str(folder)) or "reward") if is_scalar(ModelName.parse(str(folder))) else None
    label = told.chosen.label or (told.results[0]["label"] if told.results else None)
    made = lineage.chain[-1].manifest.get("versions", {}) if lineage.chain else {}
    now = versions()
    changed = {f"{key} (at export)": value for key, value in now.items() if key in made and made[key] != value}
    config = told.chosen.run / CONFIG if told.chosen.run is not None else None
    return Card(
        name=name,
        form=form,
        scorer=scorer,
        dtype=dtype,
        method=_method(told, config),
        label=label,
        base=told.base.words,
        hub_base=told.base.hub,
        base_licence=told.base.licence,
        licence=_licence(told),
        language=told.base.language,
        lineage=lineage,
        data=told.data,
        config=config_text(config.read_text(encoding="utf-8")) if config is not None and config.is_file() else None,
        results=told.results,
        untested=told.untested,
        answers=answers,
        versions={**(made or now), **changed},
        notes=_notes(told, form),
        unfit=told.unfit,
        defaults=_defaults(),
        zero=not lacks_zero(str(folder)),
    )


def _defaults() -> dict[str, dict[str, Any]]:
    """Defaults of the parts of stages' settings that are the same in all stages, as specs hold them."""
    parts = {"train": TrainConfig, "ppo": PpoConfig, "reward": ScorerUse, "cost": ScorerUse}
    found: dict[str, dict[str, Any]] = {}
    for name, kind in parts.items():
        given = {key: field.get_default(call_default_factory=True) for key, field in kind.model_fields.items()}
        found[name] = {key: list(value) if isinstance(value, tuple) else value for key, value in given.items()}
    return found


def _notes(told: Carded, form: str) -> list[str]:
    notes = []
    if any(_train(node.config).get("load_in_4bit") for node in told.lineage.chain):
        notes.append("Trained over a base in 4 bits: over the plain base it is near to what was trained, not equal.")
    if form == "adapter" and told.base.hub is None:
        notes.append("Its base is a directory, not a hub id: the adapter loads only where that directory is.")
    return notes


def _train(config: Mapping[str, Any]) -> Mapping[str, Any]:
    found: Mapping[str, Any] = config.get("train") or config.get("ppo") or {}
    return found


def _licence(told: Carded) -> Licence:
    """What the model may be called: as stated, else as its base is (of a plain directory: as its own card says)."""
    if "model" in told.stated:
        return given_licence(told.stated["model"])
    if told.chosen.artefact is None:
        return licence_of_model(told.chosen.folder)
    if told.base.scratch or told.base.licence.text is None:
        return Licence(None, "nobody stated one for this model")
    return told.base.licence._replace(where=f"carried over from the base: {told.base.licence.where}")


def _method(told: Carded, config: Path | None) -> str | None:
    """By the run's config, else by the result, else by what the last stage did."""
    if config is not None and config.is_file():
        said = read_yaml(config).get("method")
        one_of_several = said == "safe_rlhf" and told.lineage.chain and told.lineage.chain[-1].stage == "train"
        if said is not None and not one_of_several:
            return str(said)
    for result in told.results:
        if result["method"] not in ("model", "base"):
            return str(result["method"])
    if not told.lineage.chain:
        return None
    last = told.lineage.chain[-1]
    return str(last.config["objective"]["objective"]) if "objective" in last.config else last.stage


# ---- the base ----------------------------------------------------------------------------------------------------


def _base(chosen: Chosen, lineage: Lineage) -> Base:
    """What the model began with, as far as anything says."""
    if lineage.hub_base is not None:
        return _hub_base(lineage.hub_base)
    first = lineage.chain[0] if lineage.chain else None
    if first is not None and first.stage == "playground_base":
        size = first.config.get("name", "small")
        about = metadata.metadata("equipoise")
        said = about.json.get("license_expression")
        given = Licence(said, "the package that it comes with", said.lower()) if isinstance(said, str) else UNKNOWN
        return Base(f"the playground's {size} base, world {first.config.get('world')}", None, given, ("en",))
    if first is not None and not lineage.bases:
        words = f"none: trained from scratch ({first.id})"
        return Base(words, None, Licence("no base", "the lineage below"), (), scratch=True)
    place = _place_of_base(chosen, lineage)
    if place is None:
        unnamed = f"a directory that is not known here (content {lineage.bases[0]})" if lineage.bases else None
        return Base(unnamed, None, UNKNOWN, ())
    if not place.is_dir():
        return (
            _hub_base(str(place))
            if _HUB.fullmatch(str(place).partition("@")[0])
            else Base(short(str(place)), None, UNKNOWN, ())
        )
    return Base(short(str(place)), None, licence_of_model(place), _languages(card_of(place)))


def _hub_base(text: str) -> Base:
    name, _, revision = text.partition("@")
    words = f"{name}, revision {revision}" if revision else name
    card = hub_card(name, revision or None, "model")
    return Base(words, name, hub_licence(name, revision or None, "model"), _languages(card))


def _place_of_base(chosen: Chosen, lineage: Lineage) -> Path | None:
    """Where the base lies: by the adapter, by the run's config if that is still what was trained, by a plain card."""
    from equipoise.models.load import ModelName

    adapter_base = ModelName.parse(str(chosen.folder)).adapter_base
    if adapter_base is not None:
        return Path(adapter_base)
    if chosen.run is not None and (chosen.run / CONFIG).is_file():
        said = read_yaml(chosen.run / CONFIG).get("model_name_or_path")
        if isinstance(said, str) and Path(said).is_dir() and content_id(Path(said)) in lineage.bases:
            return Path(said).resolve()
    named = card_of(chosen.folder).get("base_model") if chosen.artefact is None else None
    return Path(named) if isinstance(named, str) and _HUB.fullmatch(named) else None


def _languages(card: Mapping[str, Any]) -> tuple[str, ...]:
    said = card.get("language")
    return tuple(map(str, said)) if isinstance(said, list) else (said,) if isinstance(said, str) else ()


# ---- data, licences, results -------------------------------------------------------------------------------------


def _distinct(sources: Sequence[Source]) -> list[Source]:
    """Each entry once for each use of it, although several stages may have read it."""
    return list({(s.name, s.content, s.role, s.use, s.rows): s for s in sources}.values())


def _stated(texts: Sequence[str], sources: Sequence[Source]) -> dict[str, str]:
    """`--license X`, `--license base=X`, `--license DATA=X`: by part; DATA is a name on the card or a role."""
    known = {*_OWN, *(source.name for source in sources), *(source.role for source in sources)}
    stated: dict[str, str] = {}
    for text in texts:
        part, sign, value = text.partition("=")
        part, value = (part.strip(), value.strip()) if sign else ("model", text.strip())
        if part not in known:
            raise SettingError(f"--license {text}: '{part}' is no part of this model{nearest(part, known)}")
        if not value:
            raise SettingError(f"--license {text} states no licence")
        stated[part] = value
    return stated


def _licence_of(source: Source, stated: Mapping[str, str]) -> Licence:
    for part in (source.name, source.role):
        if part in stated:
            return given_licence(stated[part])
    if source.hub is not None:
        return hub_licence(source.hub, source.revision, "dataset")
    if source.path is None or not Path(source.path).exists():
        return Licence(None, "it is no longer where it was read")
    return licence_beside(Path(source.path))


def _unfit(chosen: Chosen, others: Sequence[Mapping[str, Any]]) -> str | None:
    """Why a run's results of a model are no evaluation of it; None where it has none of any kind."""
    if not others:
        return None
    label = chosen.label or others[0]["label"]
    if all(one["suite"] == "rollouts" for one in others):
        why = "of its answers while training, on prompts that it trained on and by the scorers that it learned from"
    else:
        why = "on the prompts by which a setting was chosen"
    return f"{RESULTS} of the run has figures of '{label}' {why}: no evaluation"


def _result_files(chosen: Chosen, results: Sequence[Path]) -> list[Path]:
    if results:
        return list(results)
    return [chosen.run / RESULTS] if chosen.run is not None and (chosen.run / RESULTS).is_file() else []
