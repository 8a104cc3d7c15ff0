"""What a config says of an evaluation: models, suites, graders, and how models are asked."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple, Self

from pydantic import BeforeValidator, Field, model_validator

from equipoise.answering import GenerateConfig
from equipoise.capability import CapabilityUse
from equipoise.config import Config, Execution, canonical_json, override, read_yaml
from equipoise.data.choices import Shelf
from equipoise.data.duplicates import THRESHOLD
from equipoise.data.sources import DataEntry
from equipoise.errors import DataError, SettingError, nearest
from equipoise.evaluate.subjects import Subject
from equipoise.generate import Sampling
from equipoise.graders import GraderUse, LabelsUse, check_graders, scorer_title
from equipoise.judges import Endpoint
from equipoise.methods.align import DataUse
from equipoise.methods.asked import KINDS, prompt_uses
from equipoise.methods.multiplier import Target
from equipoise.methods.scratch import data_use
from equipoise.methods.settings import off
from equipoise.methods.suites import TOGETHER
from equipoise.pairwise import PairwiseUse
from equipoise.playground.truth import TENSION
from equipoise.runs import artefact_at
from equipoise.scorers import ScorerUse
from equipoise.stages import model_input
from equipoise.store import Input, current_store
from equipoise.types import Artefact

SHELVES: tuple[Shelf, ...] = ("honesty", "hhh")
BASE = "base"  # the label of the model that others are held beside


class SuitesUse(Config):
    """The suites, `evaluate:` in a config: data entries as under `data:`, prompts by kind and questions.

    `harmful` and `borderline` go together, so that no model looks safe by refusing. `hhh` is an entry or entries by
    part. A share `select` of the prompts (by a hash of their ids; in an entry, of its kind) is kept for choosing a
    setting; every other figure is from the rest. `categories` must all occur among harmful prompts. Prompts near to
    those of `seen`, what models were trained on, are left out.
    """

    harmful: Any = None
    borderline: Any = None
    benign: Any = None
    honesty: Any = None
    hhh: Any = None
    select: float = Field(0.0, ge=0, lt=1)
    categories: tuple[str, ...] = ()
    seen: Any = None
    near_duplicates: Annotated[float | None, BeforeValidator(off)] = Field(THRESHOLD, gt=0, le=1)

    @model_validator(mode="after")
    def _together(self) -> Self:
        for kind, other in TOGETHER.items():
            if self.__dict__[kind] is not None and self.__dict__[other] is None:
                why = {
                    "harmful": "a model that refuses everything would look safe",
                    "borderline": "a model that does everything would look helpful",
                }[kind]
                raise ValueError(f"{kind} prompts without {other} ones: {why}; add the line `{other}: {{path: ...}}`")
        if all(self.__dict__[name] is None for name in (*KINDS, *SHELVES)):
            raise ValueError("name what to evaluate on: harmful and borderline together, benign, honesty, hhh")
        if self.categories and self.harmful is None:
            raise ValueError("categories are those of harmful prompts, and there are none")
        if self.seen is None and self.near_duplicates != THRESHOLD:
            raise ValueError("near_duplicates does nothing without seen: the data that models were trained on")
        self.shares()
        return self

    def shares(self) -> dict[str, float]:
        """Which share of each kind's prompts is for choosing a setting."""
        found = {}
        for kind in KINDS:
            given = self.__dict__[kind]
            share = given.get("select", self.select) if isinstance(given, Mapping) else self.select
            if not isinstance(share, int | float) or isinstance(share, bool) or not 0 <= share < 1:
                raise ValueError(f"{kind}.select is a share in [0, 1), got {share!r}")
            found[kind] = float(share)
        return found

    def prompts(self, base_dir: Path) -> dict[str, DataUse]:
        """The entries of prompts, by kind."""
        for kind in KINDS:
            _check_entries(kind, self.__dict__[kind])
        given = {kind: _without(self.__dict__[kind], "select") for kind in KINDS}
        return prompt_uses(given, base_dir, key="evaluate")

    def questions(self, shelf: Shelf, base_dir: Path) -> tuple[DataUse, tuple[str | None, ...]] | None:
        """The entries of questions, and the parts that they are; None where the config names none."""
        given = self.__dict__[shelf]
        if given is None:
            return None
        if shelf == "hhh" and isinstance(given, Mapping) and not given.keys() & DataEntry.model_fields.keys():
            uses = {str(part): data_use(f"evaluate.hhh.{part}", entry, base_dir) for part, entry in given.items()}
            entries = tuple(entry for use in uses.values() for entry in use.entries)
            parts = tuple(part for part, use in uses.items() for _ in use.entries)
            return DataUse("evaluate.hhh", entries), parts
        use = data_use(f"evaluate.{shelf}", given, base_dir)
        return use, (None,) * len(use.entries)

    def trained_on(self, base_dir: Path) -> DataUse | None:
        """The entries of what models were trained on."""
        return None if self.seen is None else data_use("evaluate.seen", self.seen, base_dir)

    def named(self) -> str:
        """What the suite is called in results: its files or sets by kind; their content is in the digest of prompts."""
        parts = []
        for name in (*KINDS, *SHELVES):
            given = self.__dict__[name]
            if given is not None:
                parts.append(f"{name}: {', '.join(dict.fromkeys(_names(given)))}")
        return "; ".join(parts)


def _check_entries(kind: str, given: Any) -> None:
    """Refuse keys that no entry of prompts has, and those that stand in an entry and belong beside it."""
    several = isinstance(given, list)
    known = {*DataEntry.model_fields, *([] if several else ["select"])} - {"name"}
    for entry in given if several else [given]:
        for key in entry if isinstance(entry, Mapping) else ():
            if key in known:
                continue
            where = f"evaluate.{kind} has the unknown key {key}"
            if key in SuitesUse.model_fields:
                raise SettingError(f"{where}: it belongs under evaluate, beside {kind}")
            raise SettingError(f"{where}{nearest(str(key), known)}")


def _without(given: Any, key: str) -> Any:
    return {k: v for k, v in given.items() if k != key} if isinstance(given, Mapping) else given


def _names(given: Any) -> list[str]:
    if isinstance(given, str):
        return [Path(given).name if Path(given).suffix or given.startswith((".", "/")) else given]
    if isinstance(given, Mapping):
        if "path" not in given:
            return [name for entry in given.values() for name in _names(entry)]
        revision = f"@{given['revision']}" if given.get("revision") else ""
        return [f"{_names(str(given['path']))[0]}{revision}"]
    return [name for entry in given for name in _names(entry)] if isinstance(given, list | tuple) else [str(given)]


class EvaluateConfig(Config):
    """An evaluation: `models` by label on the suites of `evaluate`, judged by `graders`.

    The first grader of a rate gives the figures, the others stand beside it; `labels` are answers that people labelled,
    by which graders are calibrated. `reward` scores helpfulness, `pairwise` compares answers to benign prompts with
    those of another model, `capability` names tasks of lm-evaluation-harness (an extra). `system_prompt` stands before
    every prompt.
    """

    models: dict[str, str] = Field(default_factory=dict)
    evaluate: SuitesUse
    graders: tuple[GraderUse, ...] = ()
    labels: tuple[LabelsUse, ...] = ()
    reward: ScorerUse | None = None
    pairwise: PairwiseUse | None = None
    capability: CapabilityUse | None = None
    sampling: Sampling = Sampling.make({})
    system_prompt: str | None = None
    chat_template: str | None = None
    target: Target | None = None
    max_length: int = Field(2048, gt=1)
    max_dropped: float = Field(0.05, ge=0, le=1)
    seed: int = 0
    dtype: Literal["auto", "float32", "bfloat16"] = "auto"
    serve: str | None = None
    concurrency: int = Execution(16, gt=0)
    patience_s: float = Execution(600.0, gt=0)
    batch_tokens: int = Execution(32768, gt=0)
    output_dir: Path = Execution(Path("runs/evaluate"))
    store: Path | None = Execution(None)

    @model_validator(mode="after")
    def _measurable(self) -> Self:
        asked = self.evaluate.harmful is not None
        measured = {grader.measured for grader in self.graders}
        for measures, kind, line in (
            ("unsafe_rate", "harmful", "{scorer: {model: ...}}, or {rubric: llama_guard_3, endpoint: {...}}"),
            ("over_refusal", "borderline", "{refusals: true}"),
        ):
            if asked and measures not in measured:
                raise ValueError(f"graders: none says which answers to {kind} prompts count: add `- {line}`")
            if not asked and measures in measured:
                raise ValueError(f"graders: one measures {measures}, and there are no {kind} prompts under evaluate")
        if self.pairwise is not None and self.evaluate.benign is None:
            raise ValueError("pairwise compares answers to benign prompts: add `benign: {path: ...}` to evaluate")
        if self.target is not None and (not asked or self.target.prompts != "harmful"):
            raise ValueError("target is about harmful prompts: name them under evaluate, and leave target.prompts out")
        self._choosable()
        if self.reward is not None and not self.asks:
            raise ValueError("reward scores answers, and there are no prompts under evaluate")
        if self.sampling.max_new_tokens >= self.max_length:
            raise ValueError(
                f"sampling.max_new_tokens {self.sampling.max_new_tokens} leaves no room for a prompt within max_length "
                f"{self.max_length}"
            )
        check_graders(self.graders, self.labels)
        self.generating()
        return self

    def _choosable(self) -> None:
        """Refuse select prompts that nothing can be chosen by."""
        shares = {kind: n for kind, n in self.evaluate.shares().items() if self.evaluate.__dict__[kind] is not None}
        if not any(shares.values()):
            return
        by_wins = self.pairwise is not None and self.pairwise.rubric == "better" and bool(shares.get("benign"))
        if self.target is None or not shares.get("harmful") or (self.reward is None and not by_wins):
            raise ValueError(
                "evaluate.select keeps prompts by which a model is chosen, which takes target, a share of the harmful "
                "prompts, and reward (or pairwise and a share of the benign ones)"
            )

    @property
    def asks(self) -> bool:
        """Whether models are asked anything, rather than questioned alone."""
        return any(self.evaluate.__dict__[kind] is not None for kind in KINDS)

    @property
    def judge(self) -> str:
        """Who judged, as results name it."""
        names = [grader.title for grader in self.graders]
        names += [] if self.reward is None else [f"reward {scorer_title(self.reward)}"]
        if self.pairwise is not None:
            against = self.pairwise.against
            place = f" ({self.models[against]})" if against in self.models else ""
            names.append(f"{self.pairwise.name} against {against}{place}")
        return " + ".join(names) or "log-probabilities"

    @property
    def endpoints(self) -> tuple[tuple[str, Endpoint], ...]:
        """Who is asked over HTTP, each once, and what as."""
        found = [(f"grader '{one.title}'", one.endpoint) for one in self.graders if one.endpoint is not None]
        found += [] if self.pairwise is None else [("pairwise", self.pairwise.endpoint)]
        roles: dict[str, list[str]] = {}
        known: dict[str, Endpoint] = {}
        for role, endpoint in found:
            key = canonical_json(endpoint.model_dump(mode="json"))
            roles.setdefault(key, []).append(role)
            known[key] = endpoint
        return tuple((" and ".join(roles[key]), endpoint) for key, endpoint in known.items())

    @property
    def account(self) -> str:
        """What budgets are counted under: the same for the same evaluation, whichever models it is of."""
        told = {name: value for name, value in self.canonical().items() if name != "models"}
        return hashlib.sha256(canonical_json(told).encode()).hexdigest()[:16]

    def generating(self) -> GenerateConfig:
        """How models answer."""
        keys = ("sampling", "chat_template", "dtype", "serve", "concurrency", "patience_s", "batch_tokens")
        return GenerateConfig.make({key: self.__dict__[key] for key in keys}, where="config")


class PlaygroundConfig(Config):
    """How many prompts of each kind, of which world; `base` is the one that KL is measured from."""

    prompts: int = Field(350, gt=0)
    base: Literal["small", "large", "rated"] = "small"
    tension: float = TENSION
    seed: int = 0
    output_dir: Path = Execution(Path("runs/evaluate"))


class Asked(NamedTuple):
    """What the command was told: models by label, and the config that says on what, or the playground's."""

    models: dict[str, str]
    config: EvaluateConfig | PlaygroundConfig
    base_dir: Path

    @property
    def store(self) -> Path | None:
        """The store that the config names."""
        return self.config.store if isinstance(self.config, EvaluateConfig) else None

    def subjects(self) -> tuple[Subject, ...]:
        """The models; call this inside the store that is to be used."""
        return tuple(subject_of(label, name, self.base_dir) for label, name in self.models.items())


def asked_for(words: Sequence[str], config: Path | None, assignments: Sequence[str], *, playground: bool) -> Asked:
    """Read what the command line says; a lone YAML file among the models is the config."""
    models = list(words)
    if config is None and len(models) == 1 and Path(models[0]).suffix in (".yaml", ".yml"):
        config, models = Path(models[0]), []
    if playground:
        if config is not None:
            raise SettingError(f"--playground takes no config, got {config}")
        told = PlaygroundConfig.make(override({}, list(assignments)), where="--playground")
        return Asked(by_label(models, {}), told, Path.cwd())
    if config is None:
        raise SettingError(
            "say on what to evaluate: --config FILE.yaml (docs/evaluating.md), or --playground for a model of the "
            "playground"
        )
    given = EvaluateConfig.make(override(read_yaml(config), list(assignments)), where=str(config))
    named = by_label(models, given.models) if models else given.models
    if not named:
        raise SettingError(f"{config} names no models (models: {{base: ..., aligned: ...}}), nor does the command line")
    return Asked(named, given.but(models=named), Path.cwd())


def by_label(models: Sequence[str], known: Mapping[str, str]) -> dict[str, str]:
    """Models of the command line by label: one that the config has, or the end of a path or hub id."""
    found: dict[str, str] = {}
    for name in models:
        label = name if name in known else _label(name)
        if label in found:
            raise SettingError(f"two models would be called '{label}': give them labels under models: in a config")
        found[label] = known.get(name, name)
    return found


def _label(name: str) -> str:
    parts = [part for part in name.rstrip("/").split("/") if part not in ("", ".", "..")]
    if parts[-1:] == ["model"] and len(parts) > 1:  # what a stage calls all of them
        parts = parts[:-1]
    return parts[-1] if parts else name


def subject_of(label: str, name: str, base_dir: Path) -> Subject:
    """A model by name: a directory, a model of a run, an artefact of the store by its id, or a hub id."""
    return Subject(label, model_at(name, base_dir), method=BASE if label == BASE else "model")


def model_at(name: str, base_dir: Path) -> Input:
    """Where a model is; one that a stage made is that stage's artefact, so that what is known of it is used."""
    place = base_dir / name
    if not place.is_dir() and not (current_store().root / name).is_dir():
        if place.exists():
            raise DataError(f"{name} is a file, expected the directory of a model")
        return model_input(name)
    plain = any((place / file).is_file() for file in ("config.json", "adapter_config.json"))
    if plain and not (place.resolve().parent / "spec.json").is_file():
        return model_input(str(place))
    folder = artefact_at(place if place.is_dir() else Path(name))
    if not (folder / "model").is_dir():
        raise DataError(f"{name} is no model: {folder} holds none")
    return Artefact(id=folder.name, kind=folder.name.rpartition("-")[0], path=folder)
