"""The parts of an iteration of IterAlign as stages: what was generated, judged, proposed or trained survives a kill."""

from __future__ import annotations

import json
import logging
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from equipoise.config import TrainConfig
from equipoise.data.sources import DataEntry
from equipoise.judges import Endpoint
from equipoise.judges.guards import GUARDS
from equipoise.methods.align import DataUse, Step, align, use
from equipoise.methods.asked import Room
from equipoise.methods.iterating import Cost, Place, Proposal, Tried, Tuned
from equipoise.methods.judged import Judge, ProposeConfig, judge_of, judged, proposed
from equipoise.methods.multiplier import NotYet
from equipoise.methods.self_correction import (
    BatchConfig,
    ImitatedConfig,
    ReplayConfig,
    RulesConfig,
    Where,
    batch,
    imitated,
    replay_rows,
    to_revise,
)
from equipoise.records import read_jsonl
from equipoise.stages import GenerateConfig, generate
from equipoise.store import MANIFEST, Input, manifest
from equipoise.types import Artefact

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class How:
    """What a run does in every iteration.

    `oracle` judges by `rubric`, `proposer` (the oracle, where None) writes rules; answers are drawn as `generate` says.
    `replayed` rows are imitated beside each revision. `measure` prompts per rule (0: none) tell afterwards
    what the `measured_rules` with the most failures did.
    """

    oracle: Endpoint
    generate: GenerateConfig
    train: TrainConfig
    proposer: Endpoint | None = None
    rubric: str = "harm_answer"
    batch: int = 20
    keep_faulty: bool = False
    last_paragraph: bool = False
    shown: int | None = None
    where: Where = "request"
    preface: str = ""
    replayed: float = 0.0
    measure: int = 20
    measured_rules: int = 20
    max_unscored: float = 0.01
    account: str = ""
    launch: str | None = None

    @property
    def judge(self) -> Judge:
        """Who says whether an answer fails."""
        return judge_of(self.oracle, self.rubric, max_unscored=self.max_unscored, account=self.account)

    @property
    def room(self) -> Room:
        """How many tokens a prompt may have, with rules in its context or without."""
        told = self.generate
        return Room(
            max_length=self.train.max_length,
            max_new_tokens=told.sampling.max_new_tokens,
            chat_template=told.chat_template,
        )

    @property
    def refusals(self) -> Judge:
        """Who says whether an answer declines what was asked: a guard that does not leaves it to the proposer."""
        who, rubric, guard = self.oracle, "refusal", GUARDS.get(self.rubric)
        if guard is not None and guard.refusals is not None:
            rubric = guard.refusals
        elif guard is not None and self.proposer is not None:
            who = self.proposer
        return judge_of(who, rubric, max_unscored=self.max_unscored, account=self.account)


@dataclass(frozen=True)
class Said:
    """Answers and the verdicts on them."""

    completions: Artefact
    verdicts: Artefact


@dataclass(frozen=True)
class Staged:
    """The parts of an iteration as stages."""

    how: How
    base: Input
    prompts: Artefact
    replay: Artefact | None = None

    def answered(self, model: Input, prompts: Artefact, judge: Judge, *, seed: int) -> Tried[Said]:
        """Answers and verdicts, which must be there for what comes next."""
        sampling = self.how.generate.sampling
        config = self.how.generate.but(sampling=sampling.but(seed=sampling.seed + seed))
        completions = generate(config, model=model, prompts=prompts)
        verdicts = judged(judge, completions=completions)
        rows = there(verdicts, "verdicts.jsonl")
        judge.check_unscored(rows)  # they may be there from a run that allowed more
        values = {row["prompt_id"]: row["value"] for row in rows}
        return Tried(
            Said(completions, verdicts), values, cost_of(verdicts), {r["prompt_id"]: r.get("category") for r in rows}
        )

    def tried(self, model: Input, place: Place) -> Tried[Said]:
        """The model's answers to the batch, judged."""
        config = BatchConfig(
            size=self.how.batch,
            number=place.batch,
            sweep=place.sweep,
            seed=self.how.train.seed,
        )
        asked = batch(config, prompts=self.prompts)
        return self.answered(model, asked, self.how.judge, seed=2 * (place.sweep - 1))

    def proposed(self, tried: Tried[Said], known: Sequence[str]) -> Proposal:
        """Rules for the answers that failed."""
        config = ProposeConfig(
            endpoint=self.how.proposer or self.how.oracle,
            last_paragraph=self.how.last_paragraph,
            known=tuple(known),
            account=self.how.account,
        )
        found = proposed(config, completions=tried.answers.completions, verdicts=tried.answers.verdicts)
        rules = there(found, "proposal.json")["rules"]
        if not rules and not known:
            logger.warning("the proposer's reply holds no rule: it lies in %s", found.path / "proposal.json")
        return Proposal([(rule["text"], rule["about"]) for rule in rules], cost_of(found))

    def revised(self, model: Input, tried: Tried[Said], rules: Sequence[str], place: Place) -> Tried[Said]:
        """The same model's answers with rules in its context, judged."""
        config = RulesConfig(
            rules=tuple(rules),
            room=self.how.room,
            preface=self.how.preface,
            shown=self.how.shown,
            where=self.how.where,
            seed=self.how.train.seed + place.iteration,
        )
        said = tried.answers
        asked = to_revise(config, completions=said.completions, verdicts=said.verdicts, model=self.base)
        done = self.answered(model, asked, self.how.judge, seed=2 * (place.sweep - 1) + 1)
        return replace(done, shown={row["id"]: row["shown"] for row in there(asked, "prompts.jsonl")})

    def tuned(self, model: Input, revised: Tried[Said], place: Place) -> Tuned[Input]:
        """The model after imitation of the revisions that pass."""
        given: dict[str, Input] = {"replay": self.replay} if self.replay is not None and self.how.replayed else {}
        config = ImitatedConfig(
            keep_faulty=self.how.keep_faulty, replayed=self.how.replayed, seed=self.how.train.seed + place.iteration
        )
        rows = imitated(config, completions=revised.answers.completions, verdicts=revised.answers.verdicts, **given)
        there(rows, "rows.jsonl")
        said = manifest(rows)["summary"]
        if not said["revised"]:
            return Tuned(model, ())
        data = DataUse("revisions", (DataEntry(path=str(rows.path / "rows.jsonl")),))
        step = Step(data, use("sft"), self.how.train, launch=self.how.launch)
        return Tuned(align(model, step), said["ids"], said["replayed"])


def own_replay(base: Input, prompts: Artefact, how: How) -> tuple[Artefact, Cost]:
    """The base's own answers to harmless prompts that decline nothing, as the oracle says: not to be forgotten.

    They are drawn at temperature 1: to imitate likelier ones would sharpen the model, which is more than to keep it.
    """
    plain = how.generate.sampling.but(temperature=1.0, top_p=1.0, top_k=None)
    completions = generate(how.generate.but(sampling=plain), model=base, prompts=prompts)
    verdicts = judged(how.refusals, completions=completions)
    how.refusals.check_unscored(there(verdicts, "verdicts.jsonl"))
    return replay_rows(ReplayConfig(), completions=completions, verdicts=verdicts), cost_of(verdicts)


def there(found: Artefact, name: str) -> Any:
    """What a stage wrote; NotYet where a plan is only being made."""
    if not (found.path / MANIFEST).is_file():
        raise NotYet(f"what {found.id} finds is not known yet")
    path = found.path / name
    return read_jsonl(path) if path.suffix == ".jsonl" else json.loads(path.read_text(encoding="utf-8"))


def cost_of(found: Artefact) -> Cost:
    """What the replies that a stage read took."""
    said = manifest(found)["summary"]
    return Cost(said["requests"], said["prompt_tokens"], said["completion_tokens"], said["price"])
