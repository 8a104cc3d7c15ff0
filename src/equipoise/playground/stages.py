"""The playground as stages: its base, its prompts, its annotators and its truth, all addressed like anything else."""

from __future__ import annotations

import json
import shutil
from typing import Any, Literal

from pydantic import Field

from equipoise.config import Config, Later
from equipoise.playground import annotators, truth
from equipoise.playground.base import BASES, build_base
from equipoise.playground.lexicon import WORLD_VERSION
from equipoise.playground.shipped import SHIPPED, unpack_base
from equipoise.playground.wanted import tell_apart
from equipoise.playground.world import KINDS, prompts
from equipoise.records import read_jsonl, write_jsonl
from equipoise.stages import artefact
from equipoise.store import Input, Work, stage


class BaseConfig(Config):
    """Which base: one of `base.BASES`; the small one of seed 0 is the one that ships."""

    world: str = WORLD_VERSION
    name: Literal["small", "large", "rated"] = "small"
    seed: int = 0


@stage(version=2)
def playground_base(work: Work, config: BaseConfig) -> None:
    """A base of the playground: the shipped one, or trained by the script in the package."""
    if (work.path / "model").exists():
        shutil.rmtree(work.path / "model")
    if (config.name, config.seed) == SHIPPED:
        unpack_base(work.path / "model")
    else:
        made = BASES[config.name]
        build_base(
            work.path / "model",
            seed=config.seed,
            size=made.size,
            mixture=made.mixture,
            rated=made.rated,
            progress=lambda share: work.progress("base model", share, 1.0),
        )
    made = json.loads((work.path / "model" / "playground.json").read_text(encoding="utf-8"))
    work.summary.update(made)


class WantedConfig(Config):
    """Which random part the words of preference tokens get."""

    world: str = WORLD_VERSION
    seed: int = 0


@stage(version=1)
def playground_wanted(work: Work, config: WantedConfig, *, model: Input) -> None:
    """A base whose preference words are told apart; what it answers is the same."""
    work.summary.update(words=tell_apart(artefact(model).path / "model", work.path / "model", seed=config.seed))


class PromptsConfig(Config):
    """How many prompts of each kind, from which splits."""

    world: str = WORLD_VERSION
    counts: dict[str, dict[str, int]]  # split -> kind -> n
    seed: int = 0


@stage(version=1)
def playground_prompts(work: Work, config: PromptsConfig) -> None:
    """`prompts.jsonl`; a prompt's `split` says whether it may choose settings or report figures."""
    rows: list[dict[str, Any]] = []
    for split, kinds in config.counts.items():
        for kind in KINDS:
            rows += [{**row, "split": split} for row in prompts(split, kind, kinds.get(kind, 0), config.seed)]
    write_jsonl(work.path / "prompts.jsonl", rows)
    work.summary.update(prompts=len(rows))


class RequestsConfig(Config):
    """What to ask for: every prompt under every condition (levels by objective; {} asks for nothing)."""

    conditions: tuple[dict[str, float], ...] = Field(min_length=1)


@stage(version=1)
def playground_requests(work: Work, config: RequestsConfig, *, prompts: Input) -> None:
    """The prompts once for each condition: `prompts.jsonl`, `asked_of` being the id of the prompt without it."""
    rows: list[dict[str, Any]] = []
    for row in read_jsonl(artefact(prompts).path / "prompts.jsonl"):
        for condition in config.conditions:
            name = ",".join(f"{objective}={level:g}" for objective, level in condition.items())
            rows.append({**row, "id": f"{row['id']}@{name}", "asked_of": row["id"], "condition": condition})
    write_jsonl(work.path / "prompts.jsonl", rows)
    work.summary.update(prompts=len(rows))


class AnnotateConfig(Config):
    """Which annotators, what they are shown, and by how much the two aims pull apart (see `truth.true_reward`)."""

    world: str = WORLD_VERSION
    seed: int = 0
    tension: float = truth.TENSION
    kinds: tuple[str, ...] = Later(KINDS)  # of prompts whose answers are labelled
    all_safe: bool = Later(False)  # of pairs, only those of which both answers were flagged safe
    flipped: float = Later(0.0, ge=0, le=1)  # share of orders, flags and ratings turned round, beyond people's own


@stage(version=1)
def playground_preferences(work: Work, config: AnnotateConfig, *, completions: Input) -> None:
    """Two answers per prompt, labelled by simulated annotators, in PKU-SafeRLHF's columns: `preferences.jsonl`."""
    rows = read_jsonl(artefact(completions).path / "completions.jsonl")
    by_prompt: dict[str, list[dict[str, Any]]] = {}
    for row in rows:
        by_prompt.setdefault(row["prompt_id"], []).append(row)
    out = []
    for answers in by_prompt.values():
        if answers[0]["kind"] not in config.kinds:
            continue
        for first, second in zip(answers[::2], answers[1::2], strict=False):
            prompt = {"id": first["prompt_id"], **{k: first[k] for k in ("prompt", "kind", "category")}}
            said = annotators.annotate(prompt, first["text"], second["text"], seed=config.seed, tension=config.tension)
            said = annotators.turned(said, share=config.flipped, seed=config.seed)
            if config.all_safe and not all(response.safe for response in said.responses):
                continue
            out.append(
                {
                    "prompt": first["prompt"],
                    "response_0": said.responses[0].text,
                    "response_1": said.responses[1].text,
                    "better_response_id": said.better,
                    "safer_response_id": said.safer,
                    "is_response_0_safe": said.responses[0].safe,
                    "is_response_1_safe": said.responses[1].safe,
                }
            )
    write_jsonl(work.path / "preferences.jsonl", out)
    work.summary.update(pairs=len(out))


@stage(version=1)
def playground_ratings(work: Work, config: AnnotateConfig, *, completions: Input) -> None:
    """All answers to a prompt with helpfulness and honesty from 1 to 5, harmlessness 0 or 1: `rated.jsonl`.

    Two answers at a time are rated by one of the simulated annotators; of an odd number the last goes unrated.
    """
    rated: dict[str, dict[str, Any]] = {}
    waiting: dict[str, dict[str, Any]] = {}
    for row in read_jsonl(artefact(completions).path / "completions.jsonl"):
        if row["kind"] not in config.kinds:
            continue
        first = waiting.pop(row["prompt_id"], None)
        if first is None:
            waiting[row["prompt_id"]] = row
            continue
        prompt = {"id": row["prompt_id"], **{k: row[k] for k in ("prompt", "kind", "category")}}
        said = annotators.annotate(prompt, first["text"], row["text"], seed=config.seed, tension=config.tension)
        said = annotators.turned(said, share=config.flipped, seed=config.seed)
        kept = rated.setdefault(row["prompt_id"], {"instruction": row["prompt"], "responses": []})
        for response in said.responses:
            ratings = {f"{name}_rating": value for name, value in response.ratings.items()}
            kept["responses"].append({"response": response.text, **ratings})
    write_jsonl(work.path / "rated.jsonl", list(rated.values()))
    work.summary.update(prompts=len(rated), answers=sum(len(row["responses"]) for row in rated.values()))


class ScoreConfig(Config):
    """Which world's truth, and by how much the two aims pull apart."""

    world: str = WORLD_VERSION
    tension: float = truth.TENSION


@stage(version=1)
def playground_scores(work: Work, config: ScoreConfig, *, completions: Input) -> None:
    """True reward and cost of stored answers, and whether a borderline prompt was refused: `scores.jsonl`."""
    out = []
    for row in read_jsonl(artefact(completions).path / "completions.jsonl"):
        prompt = {k: row[k] for k in ("prompt", "kind", "category")}
        out.append(
            {
                "prompt_id": row["prompt_id"],
                "repeat": row["repeat"],
                "reward": truth.true_reward(prompt, row["text"], tension=config.tension),
                "cost": truth.true_cost(prompt, row["text"]),
                "refused": truth.over_refused(prompt, row["text"]) if row["kind"] == "borderline" else None,
            }
        )
    write_jsonl(work.path / "scores.jsonl", out)
