"""A bench in the playground: one base, one crowd's labels and training settings, which every method is given alike."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

from equipoise.config import TrainConfig
from equipoise.data.conditions import Condition
from equipoise.data.sources import DataEntry
from equipoise.errors import SettingError
from equipoise.generate import Sampling
from equipoise.methods.align import DataUse, Step, use
from equipoise.playground.pool import Aim, BfpoAim
from equipoise.playground.stages import (
    AnnotateConfig,
    BaseConfig,
    PromptsConfig,
    WantedConfig,
    playground_base,
    playground_preferences,
    playground_prompts,
    playground_ratings,
    playground_wanted,
)
from equipoise.playground.truth import TENSION
from equipoise.stages import GenerateConfig, generate
from equipoise.types import Artefact

TRAIN = TrainConfig(
    learning_rate=1.5e-4,
    num_train_epochs=1,
    global_batch_size=16,
    adam_beta2=0.98,  # short runs: the default would still be warming up
    max_length=256,
    tokens_per_micro_batch=6144,
    max_dropped=0.5,  # two answers of so small a base are often the same
    logging_steps=5,
)
# An answer here carries some twelve nats where one of a large model carries hundreds, so beta is larger than in papers.
BETA = 0.5
PROMPT_SEED = 1000  # evaluation prompts belong to the world: the same for every training seed
ASKED = {"harmful": 2000, "borderline": 1250, "benign": 1250}


class CpoSettings(NamedTuple):
    """How a controllable model is trained: beta, what differs from `TRAIN` in either step, where levels come from."""

    beta: float
    cpsft: dict[str, Any]
    cdpo: dict[str, Any]
    draw: Literal["own", "uniform"]


# A base that has read the tokens needs little; one that has not learns what it learns of them at higher rates.
READER = CpoSettings(0.5, {"learning_rate": 5e-4, "num_train_epochs": 2, "global_batch_size": 32}, {}, "uniform")
NO_READER = CpoSettings(
    0.1,
    {"learning_rate": 1e-3, "num_train_epochs": 3, "global_batch_size": 32},
    {"learning_rate": 3e-4, "global_batch_size": 32},
    "own",
)


@dataclass(frozen=True)
class World:
    """Which playground: its base, and how far the two aims pull apart."""

    base: Literal["small", "large", "rated"] = "small"
    tension: float = TENSION

    def __post_init__(self) -> None:
        if not math.isfinite(self.tension):
            raise SettingError(f"tension is {self.tension}, expected a number: 0 lets the two aims agree")


WORLD = World()


class Candidate(NamedTuple):
    """A model on the page, asked under a condition if it has one; `aim` is the optimum that its setting leads to.

    `reference` is the model that this optimum tilts, where it is not the base.
    """

    label: str
    method: str
    setting: dict[str, Any]
    model: Artefact
    line: str | None = None
    aim: Aim | BfpoAim | None = None
    condition: Condition | None = None
    reference: Artefact | None = None


def world_base(world: World) -> Artefact:
    """The base all models of a world start from."""
    return playground_base(BaseConfig(name=world.base))


class Labels:
    """What one crowd of the world's annotators says about the base's own answers.

    `times` as many prompts as the demo uses (the world has twice as many benign ones), `answers` to each of them;
    `flipped` is the share of labels turned round besides.
    """

    def __init__(
        self, base: Artefact, world: World, seed: int, *, times: int = 1, answers: int = 2, flipped: float = 0.0
    ) -> None:
        counts = {kind: n * times for kind, n in ASKED.items()}
        asked = playground_prompts(PromptsConfig(counts={"train": counts}, seed=seed))
        sampling = Sampling(repeats=answers, max_new_tokens=64, seed=seed)
        self.answers = generate(GenerateConfig(sampling=sampling), model=base, prompts=asked)
        self._said = AnnotateConfig(seed=seed, tension=world.tension, flipped=flipped)

    @property
    def pairs(self) -> DataUse:
        """Every pair with both orders and the flags of both answers."""
        return self._pairs("playground", self._said)

    @property
    def risky(self) -> DataUse:
        """The pairs of harmful and borderline prompts."""
        return self._pairs("risky", self._said.but(kinds=("harmful", "borderline")))

    @property
    def harmless(self) -> DataUse:
        """The pairs of benign prompts of which nobody called an answer unsafe."""
        return self._pairs("harmless", self._said.but(kinds=("benign",), all_safe=True))

    @property
    def mixture(self) -> DataUse:
        """Every pair twice, by helpfulness and by safety, as if it were one order: what naive mixing trains on."""
        (entry,) = self.pairs.entries
        by_safety = DataEntry(path=entry.path, axis="better", map={"better_response_id": "safer_response_id"})
        return DataUse("mixture", (entry, by_safety))

    @property
    def rated(self) -> DataUse:
        """The same answers rated for helpfulness, honesty and harmlessness."""
        return _use("rated", playground_ratings(self._said, completions=self.answers), "rated.jsonl")

    def _pairs(self, name: str, said: AnnotateConfig) -> DataUse:
        return _use(name, playground_preferences(said, completions=self.answers), "preferences.jsonl")


def _use(name: str, made: Artefact, file: str) -> DataUse:
    return DataUse(name, (DataEntry(path=str(made.path / file)),))


class Bench(NamedTuple):
    """What every arm is given."""

    base: Artefact
    labels: Labels
    train: TrainConfig
    world: World

    @property
    def reader(self) -> Artefact:
        """The base as a controllable method starts from it: able to tell one level from another."""
        return self.base if self.world.base == "rated" else playground_wanted(WantedConfig(), model=self.base)

    @property
    def cpo(self) -> CpoSettings:
        """How a controllable model is trained from this base."""
        return READER if self.world.base == "rated" else NO_READER

    def step(self, prefer: Any, beta: float, objective: str = "dpo") -> Step:
        """One order of all pairs, for one objective."""
        return Step(self.labels.pairs, use(objective, beta=beta), self.train, prefer=prefer)


def bench(
    base: Artefact, world: World, seed: int, *, train: TrainConfig = TRAIN, times: int = 1, flipped: float = 0.0
) -> Bench:
    """Labels and training settings of one seed."""
    return Bench(base, Labels(base, world, seed, times=times, flipped=flipped), train.but(seed=seed), world)
