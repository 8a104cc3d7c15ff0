"""IterAlign in the playground: its red-team lists, its oracle, a hand-written constitution, settings."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, Literal

from equipoise.bench import TRAIN, World
from equipoise.config import Config
from equipoise.errors import SettingError
from equipoise.evaluate.constitution import Rule
from equipoise.generate import Sampling
from equipoise.judges import Endpoint
from equipoise.methods.iteralign import Iterated, iteralign
from equipoise.methods.iteralign_stages import How, Said, own_replay
from equipoise.methods.iterating import Loop, Turn
from equipoise.playground.lexicon import CATEGORIES, HELD_OUT_CATEGORIES, WORLD_VERSION
from equipoise.playground.oracle import MODEL, Server
from equipoise.playground.rules import GENERAL
from equipoise.playground.stages import PromptsConfig, playground_prompts
from equipoise.playground.world import ask_of, pretext_of, prompts
from equipoise.records import write_jsonl
from equipoise.stages import GenerateConfig
from equipoise.store import Input, Work, stage
from equipoise.types import Artefact

BATCH, PROMPTS, REPLAY = 20, 600, 3.0
LISTS = ("attempts", "pretexts", "topics")
"""Red-team lists: requests as they come; behind a pretext each; plain ones about half of the categories."""

TUNING: dict[str, Any] = {"learning_rate": 6e-5, "num_train_epochs": 3, "global_batch_size": 8}
SAMPLING = Sampling(temperature=0.7, top_p=0.9, max_new_tokens=64)  # the paper's
HARMLESS = {"borderline": 1500, "benign": 1500}
"""Prompts whose answers by the base are replayed, and on which side effects of rules are measured."""

HAND_WRITTEN = tuple(Rule(f"r{n}", text, 0, "given") for n, text in enumerate(GENERAL, start=1))
"""A constitution as somebody writes it who has seen no failure: harm in general."""

MEASURED = 40  # prompts per rule


class RedTeamConfig(Config):
    """One of `LISTS`, so many of its prompts."""

    world: str = WORLD_VERSION
    name: Literal["attempts", "pretexts", "topics"] = "attempts"
    count: int = PROMPTS
    seed: int = 0


@stage(version=1)
def playground_red_team(work: Work, config: RedTeamConfig) -> None:
    """A red-team list over the topics of training: `prompts.jsonl`."""
    own = [name for name in CATEGORIES if name not in HELD_OUT_CATEGORIES][::2]
    suits: dict[str, Callable[[dict[str, Any]], bool]] = {
        "attempts": lambda row: True,
        "pretexts": lambda row: pretext_of(ask_of(row).wrapper) is not None,
        "topics": lambda row: row["category"] in own and not ask_of(row).wrapper,
    }
    drawn = prompts("train", "harmful", 10 * config.count, config.seed)
    kept = [row for row in drawn if suits[config.name](row)][: config.count]
    if len(kept) < config.count:
        raise SettingError(f"the list {config.name} has {len(kept)} prompts here, and {config.count} are asked for")
    write_jsonl(work.path / "prompts.jsonl", kept)


def oracle_at(server: Server, *, identity: str) -> Endpoint:
    """The playground's oracle where a server has it; replies are kept under `identity`."""
    return Endpoint(base_url=server.base_url, model=MODEL, identity=identity, max_tokens=512)


def playground_how(oracle: Endpoint, *, seed: int, **changes: Any) -> How:
    """The settings of a run here: the base reads one rule at a time, as the system's message."""
    how = How(
        oracle=oracle,
        generate=GenerateConfig(sampling=SAMPLING.but(seed=seed)),
        train=TRAIN.but(seed=seed, **TUNING),
        batch=BATCH,
        shown=1,
        where="system",
        replayed=REPLAY,
        measure=MEASURED,
        account=f"{oracle.identity} {seed}",
    )
    return replace(how, **changes)


def harmless_prompts(seed: int) -> Artefact:
    """Requests that deserve an answer; half of them look as if they did not."""
    return playground_prompts(PromptsConfig(counts={"train": HARMLESS}, seed=seed + 500))


def playground_iteralign(
    base: Artefact,
    world: World,
    server: Server,
    *,
    seed: int,
    red_team: str = "attempts",
    count: int = PROMPTS,
    name: str = "iteralign",
    replay_name: str = "replay",
    given: Sequence[Rule] = (),
    discover: bool = True,
    accumulate: bool = False,
    sweeps: int = 1,
    hear: Callable[[Turn[Input, Said]], None] = lambda turn: None,
    **changes: Any,
) -> Iterated:
    """A run on one base and one list; `changes` are to `How`. Runs with different names share no replies, but
    for those on the answers that are replayed, which have a name of their own."""
    endpoint = oracle_at(server, identity=f"playground {world.base} {red_team} {name} {seed}")
    how = playground_how(endpoint, seed=seed, **changes)
    asked = playground_red_team(RedTeamConfig(name=red_team, count=count, seed=seed))  # type: ignore[arg-type]
    harmless = harmless_prompts(seed)
    replay = None
    if how.replayed:
        free = oracle_at(server, identity=f"playground {world.base} {replay_name} {seed}")  # the same for every arm
        replay, _ = own_replay(base, harmless, replace(how, oracle=free, account="replay"))
    loop = Loop(
        batches=math.ceil(count / how.batch),
        sweeps=sweeps,
        discover=discover,
        accumulate=accumulate,
        given=tuple(given),
    )
    about = {"base": f"playground {world.base}", "red_team": red_team, "prompts": count}
    return iteralign(base, asked, how, loop, replay=replay, harmless=harmless, about=about, hear=hear)
