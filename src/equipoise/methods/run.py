"""A config file to a method: one flat mapping of settings, checked as a whole before any model loads."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

from pydantic import BeforeValidator, Field, model_validator

from equipoise.config import Config, Execution, TrainConfig
from equipoise.data.conditions import Budget, Conditions, Objective, objectives_of
from equipoise.data.duplicates import THRESHOLD
from equipoise.errors import SettingError, nearest
from equipoise.methods.align import DataUse, Prefer, Step, align, step_settings, use
from equipoise.methods.bfpo import bfpo, bfpo_steps
from equipoise.methods.cpo import cpo, cpo_steps
from equipoise.methods.labels import check_buffer, check_entry, holds_pairs, is_remote
from equipoise.methods.modpo import modpo, modpo_settings
from equipoise.methods.sacpo import naive_merge, sacpo
from equipoise.methods.scratch import ScratchConfig, data_use, scratch_base
from equipoise.objectives import objective
from equipoise.stages import model_input
from equipoise.store import Input
from equipoise.types import Artefact

# What a role means where the data's axis does not say it.
ROLE_AXIS: dict[str, Prefer] = {"helpful": "better", "safe": "safer"}


def _off(value: object) -> object:
    """`off` is a boolean in YAML; `on` would not say how near."""
    if isinstance(value, bool) or value == "off":
        return None if value in (False, "off") else "on"
    return value


class RunConfig(TrainConfig):
    """Keys that every method has, besides those of `TrainConfig`."""

    method: str
    model_name_or_path: str | None = None
    scratch: ScratchConfig | None = None
    output_dir: Path = Execution(Path("runs/run"))
    data: dict[str, Any]
    holdout: float = Field(0.0, ge=0, lt=1)
    near_duplicates: Annotated[float | None, BeforeValidator(_off)] = Field(THRESHOLD, gt=0, le=1)
    store: Path | None = Execution(None)
    launch: str | None = Execution(None)

    @model_validator(mode="after")
    def _one_base(self) -> RunConfig:
        if (self.model_name_or_path is None) == (self.scratch is None):
            raise ValueError("give model_name_or_path, or scratch to train a small base first")
        return self

    @property
    def train_config(self) -> TrainConfig:
        """The training keys alone."""
        return TrainConfig.make({name: self.__dict__[name] for name in TrainConfig.model_fields})


class DpoConfig(RunConfig):
    """One objective on one axis: DPO, IPO, KTO or SFT."""

    objective: str = "dpo"
    beta: float | None = None
    prefer: Literal["better", "safer"] | None = None
    choose: Literal["better", "safer", "all", "safe", "first"] = "all"


class SacpoConfig(RunConfig):
    """SACPO: `first` and `second` (or any number of `steps`), in `order`; `mix` lists P-SACPO's q."""

    first: dict[str, Any] = Field(default_factory=dict)
    second: dict[str, Any] = Field(default_factory=dict)
    order: tuple[str, ...] = ("helpful", "safe")
    steps: tuple[dict[str, Any], ...] | None = None
    mix: float | tuple[float, ...] = ()
    naive: bool = False


class BfpoConfig(RunConfig):
    """BFPO on the role `pairs`, with `buffer` where given; `sft` holds the settings of the stage before, or is off.

    `sft` takes `choose` (which answers to imitate) and training keys; the role `chat` is imitated too.
    """

    tau: float = 0.01
    b1: float = 3.0
    alpha: float = 0.5
    sft: Annotated[dict[str, Any] | None, BeforeValidator(_off)] = Field(default_factory=dict)
    trainable: tuple[str, ...] | None = ("down_proj",)


class ModpoConfig(RunConfig):
    """MODPO: `first` gives the margin, `second` is trained once for each of `weights`; `order` names their data."""

    first: dict[str, Any] = Field(default_factory=dict)
    second: dict[str, Any] = Field(default_factory=dict)
    order: tuple[str, str] = ("safe", "helpful")
    weights: float | tuple[float, ...] = (0.5,)


class SafedpoConfig(RunConfig):
    """SafeDPO: pairs by helpfulness, an unsafe better answer and a safe other one having changed places."""

    beta: float = 0.1
    delta: float = 10.0


class CpoConfig(RunConfig):
    """Controllable (CPO): rated answers imitated by their ratings (`sft`), then ordered under conditions (`pairs`).

    `objectives` and the keys after it are those of `data.controllable.Conditions`.
    """

    objectives: Annotated[tuple[Objective, ...], BeforeValidator(objectives_of)] = Field(min_length=1)
    draw: Literal["own", "uniform"] = "own"
    budgets: tuple[Budget, ...] = (Budget(),)
    temperature: float | None = None
    untagged_top: float = 0.0
    ask_for_harm: bool = False
    sft: dict[str, Any] = Field(default_factory=dict)
    pairs: dict[str, Any] = Field(default_factory=dict)

    @property
    def conditions(self) -> Conditions:
        """The keys that say how conditions are found and used."""
        given = {name: self.__dict__[name] for name in Conditions.model_fields}
        return Conditions.make(given, where="config")


@dataclass(frozen=True)
class Made:
    """A model of a run: its label on tables, and the setting that led to it."""

    label: str
    artefact: Artefact
    setting: Mapping[str, Any]
    line: str | None = None


@dataclass(frozen=True)
class Run:
    """What a config asks for, ready to be executed."""

    config: RunConfig
    base_dir: Path
    steps: tuple[Step, ...]

    METHODS: ClassVar[dict[str, type[RunConfig]]] = {
        "dpo": DpoConfig,
        "sacpo": SacpoConfig,
        "bfpo": BfpoConfig,
        "modpo": ModpoConfig,
        "safedpo": SafedpoConfig,
        "cpo": CpoConfig,
    }

    @classmethod
    def read(cls, settings: Mapping[str, Any], *, base_dir: Path) -> Run:
        """Check a config's settings and the head of every data file; paths are relative to `base_dir`."""
        method = settings.get("method")
        if method not in cls.METHODS:
            raise SettingError(f"method '{method}' is unknown{nearest(str(method), cls.METHODS)}")
        config = cls.METHODS[str(method)].make(settings, where="config")
        uses = {
            role: data_use(
                role,
                given,
                base_dir,
                holdout=config.holdout,
                seed=config.seed,
                near_duplicates=config.near_duplicates,
            )
            for role, given in config.data.items()
            if given is not None  # as in --data.buffer null
        }
        if not uses:
            raise SettingError("data: name at least one role, such as helpful or safe")
        steps = tuple(_steps(config, uses))
        for step in steps:
            name = step.objective.objective
            if name in cls.METHODS and name not in ("dpo", config.method):
                raise SettingError(f"objective {name} has data of its own: use method: {name}, got {config.method}")
        return cls(config, base_dir, steps)

    @property
    def base_name(self) -> str:
        """How results call the base."""
        return self.config.model_name_or_path or "scratch"

    @cached_property
    def base(self) -> Input:
        """The model that the first step starts from; a base from scratch is trained when it is first asked for."""
        if self.config.scratch is not None:
            return scratch_base(self.config.scratch, self.config.train_config, self.base_dir)
        return model_input(str(self._base_location))

    def check_data(self, *, offline: bool = False) -> None:
        """Open every data entry and see that its labels can feed the step that uses it (`offline`: not the hub's)."""
        for step in self.steps:
            for entry in step.data.entries:
                if not (offline and is_remote(entry)):
                    check_entry(step, entry)
            for entry in step.buffer.entries if step.buffer is not None else ():
                if not (offline and is_remote(entry)):
                    check_buffer(step, entry)
        if self.config.holdout and not offline and not any(map(holds_pairs, self.steps)):
            raise SettingError("holdout: the data order no pairs, so there is nothing to evaluate on; set holdout: 0")

    def check_model(self, *, offline: bool = False) -> None:
        """Refuse a base that these settings cannot train, before any weights load (`offline`: not the hub's)."""
        from equipoise.models.load import check_setup

        name = self._base_location
        if name is None or (offline and not Path(name).is_dir()):
            return
        for train in dict.fromkeys(step.train for step in self.steps):
            check_setup(name, train)

    @property
    def _base_location(self) -> str | None:
        """Directory or hub id of the base; None for one that is still to be trained."""
        if self.config.scratch is not None:
            return None
        name = str(self.config.model_name_or_path)
        local = self.base_dir / name
        return str(local) if local.is_dir() else name

    def execute(self) -> list[Made]:
        """Run every stage; the base comes first."""
        config = self.config
        if isinstance(config, SacpoConfig):
            mix = _several(config.mix)
            result = sacpo(self.base, self.steps, mix=mix)
            made = [
                Made(f"step {i}: {_words(s)}", model, _setting(s))
                for i, (s, model) in enumerate(zip(self.steps, result.steps, strict=True), start=1)
            ]
            made += [Made(f"P-SACPO q {q:g}", model, {"q": q}, "P-SACPO") for q, model in result.merged.items()]
            if config.naive:
                merged = naive_merge(self.base, self.steps[0], self.steps[-1], mix=mix or (0.5,))
                made += [Made(f"naive merge {q:g}", model, {"q": q}, "naive merge") for q, model in merged.items()]
            return made
        if isinstance(config, CpoConfig):
            both = cpo(self.base, *self.steps)
            made = zip(("CPSFT", "CDPO"), self.steps, (both.cpsft, both.cdpo), strict=True)
            return [Made(f"{name}: {_words(step)}", model, _setting(step)) for name, step, model in made]
        if isinstance(config, BfpoConfig):
            *before, step = self.steps
            found = bfpo(self.base, step, sft=before[0] if before else None)
            imitating = [Made(_words(s), model, _setting(s)) for s, model in zip(before, [found.sft], strict=False)]
            return [*imitating, Made(_words(step), found.aligned, _setting(step))]
        if isinstance(config, ModpoConfig):
            margin, step = self.steps
            swept = modpo(self.base, margin, step, weights=_several(config.weights))
            made = [Made(f"margin: {_words(margin)}", swept.margin, _setting(margin))]
            weighted = swept.weighted.items()
            return made + [Made(f"MODPO {w:g}", m, _setting(step) | {"weight": w}, "MODPO") for w, m in weighted]
        (step,) = self.steps
        return [Made(_words(step), align(self.base, step), _setting(step))]


def _several(value: float | tuple[float, ...]) -> tuple[float, ...]:
    return (value,) if isinstance(value, float) else value


def _steps(config: RunConfig, uses: Mapping[str, DataUse]) -> Sequence[Step]:
    if isinstance(config, BfpoConfig):
        settings = {"tau": config.tau, "b1": config.b1, "alpha": config.alpha}
        steps = bfpo_steps(uses, config.train_config, settings=settings, sft=config.sft, launch=config.launch)
        _check_continued(steps)
        return steps
    if isinstance(config, ModpoConfig):
        return _modpo_steps(config, uses)
    if isinstance(config, SafedpoConfig):
        data = _only_role(config, uses)
        chosen = use("safedpo", beta=config.beta, delta=config.delta)
        return [Step(data, chosen, config.train_config, prefer="better_if_safe", launch=config.launch)]
    if isinstance(config, SacpoConfig):
        return _sacpo_steps(config, uses)
    if isinstance(config, CpoConfig):
        given = {"sft": config.sft, "pairs": config.pairs, "launch": config.launch}
        steps = cpo_steps(uses, config.conditions, config.train_config, **given)
        _check_continued(steps)
        return steps
    return _one_step(config, uses)


def _sacpo_steps(config: SacpoConfig, uses: Mapping[str, DataUse]) -> list[Step]:
    written: Sequence[Mapping[str, Any]]
    if config.steps is not None:
        if config.first or config.second:
            raise SettingError("steps replaces first and second: give one or the other")
        written = config.steps
    else:
        if len(config.order) != 2:
            raise SettingError(f"order names the data of first and second, got {len(config.order)} names; use steps")
        written = [{"data": config.order[0], **config.first}, {"data": config.order[1], **config.second}]
    steps = []
    for number, given in enumerate(written, start=1):
        where = f"step {number}"
        role = given.get("data")
        if role not in uses:
            raise SettingError(f"{where}: data '{role}' is not one of the roles under data:{nearest(str(role), uses)}")
        rest = {k: v for k, v in given.items() if k not in ("data", "prefer")}
        chosen, train = step_settings(rest, config.train_config, where)
        prefer = given.get("prefer") or _axis(uses[role], role, where)
        steps.append(Step(uses[role], chosen, train, prefer=prefer, launch=config.launch))
    _check_adapters(config, steps)
    return steps


def _modpo_steps(config: ModpoConfig, uses: Mapping[str, DataUse]) -> list[Step]:
    found = modpo_settings(config.first, config.second, config.train_config, weights=_several(config.weights))
    steps = []
    for where, role, given, settings in zip(
        ("first", "second"), config.order, (config.first, config.second), found, strict=True
    ):
        if role not in uses:
            raise SettingError(f"{where}: data '{role}' is not one of the roles under data:{nearest(role, uses)}")
        prefer = given.get("prefer") or _axis(uses[role], role, where)
        steps.append(Step(uses[role], *settings, prefer=prefer, launch=config.launch))
    return steps


def _check_continued(steps: Sequence[Step]) -> None:
    """A step over LoRA continues the adapter of the step before it: what it asks of an adapter must be the same."""
    for number, (before, step) in enumerate(itertools.pairwise(steps), start=2):
        for key in ("use_peft", "lora_r", "lora_alpha", "lora_target_modules"):
            had, asked = (s.train.__dict__[key] for s in (before, step))
            if before.train.use_peft and asked != had:
                raise SettingError(
                    f"step {number}: {key} is {asked}, but the step continues the adapter of step {number - 1}, which "
                    f"was made with {key}: {had}"
                )


def _check_adapters(config: SacpoConfig, steps: Sequence[Step]) -> None:
    _check_continued(steps)
    if (config.mix or config.naive) and steps and steps[0].train.use_peft != steps[-1].train.use_peft:
        raise SettingError("merging needs the first and the last step both with use_peft or both without")


def _one_step(config: RunConfig, uses: Mapping[str, DataUse]) -> list[Step]:
    assert isinstance(config, DpoConfig)
    data = _only_role(config, uses)
    role = data.name
    given = {"objective": config.objective} | ({} if config.beta is None else {"beta": config.beta})
    chosen, train = step_settings(given, config.train_config, "config")
    prefer = None
    if objective(config.objective).layout != "completion":
        prefer = config.prefer or _axis(data, role, "data")
    return [Step(data, chosen, train, prefer=prefer, choose=config.choose, launch=config.launch)]


def _only_role(config: RunConfig, uses: Mapping[str, DataUse]) -> DataUse:
    if len(uses) != 1:
        raise SettingError(f"method {config.method} trains on one data entry, got {', '.join(uses)}; use method: sacpo")
    (data,) = uses.values()
    return data


def _axis(data: DataUse, role: str, where: str) -> Prefer:
    axes = {entry.axis for entry in data.entries} - {None}
    if len(axes) > 1:
        raise SettingError(f"{where}: the entries of '{role}' are ordered by different axes")
    axis = next(iter(axes), None) or ROLE_AXIS.get(role)
    if axis is None:
        raise SettingError(f"{where}: say what an order of two '{role}' answers means, prefer: better or prefer: safer")
    return axis


def _setting(step: Step) -> dict[str, Any]:
    return {"objective": step.objective.objective, "prefer": step.prefer, **step.objective.settings}


def _words(step: Step) -> str:
    settings = step.objective.settings
    beta = settings.get("beta", settings.get("tau"))
    return f"{step.objective.objective}({step.data.name}{f', {beta:g}' if beta is not None else ''})"


def read_config_text(settings: Config) -> str:
    """The complete settings as YAML, as written beside the results."""
    import yaml

    return yaml.safe_dump(settings.model_dump(mode="json", exclude_defaults=True), sort_keys=False, allow_unicode=True)
