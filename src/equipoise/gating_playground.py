"""A model in the playground, answered and scored by the world's truth as a gate reads it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from equipoise.bench import PROMPT_SEED, WORLD, world_base
from equipoise.demo import playground_result
from equipoise.errors import DataError
from equipoise.evaluate.results import write_results
from equipoise.evaluate.subjects import Subject
from equipoise.evaluate.suites import prompt_set, summarize
from equipoise.evaluating_playground import as_told, truth_judges
from equipoise.generate import Sampling
from equipoise.playground.pool import scored
from equipoise.playground.stages import PromptsConfig, ScoreConfig, playground_prompts, playground_scores
from equipoise.playground.world import KINDS
from equipoise.records import read_jsonl, write_jsonl
from equipoise.stages import GenerateConfig, generate
from equipoise.store import input_id, versions
from equipoise.types import Artefact

SUITE, COUNT = "playground", 350  # prompts of each kind, as many as the demo's verdict has
SAMPLING = Sampling(max_new_tokens=64, seed=PROMPT_SEED)


def evaluate_playground(
    subject: Subject, out: Path, *, like: Mapping[str, Any] | None = None, count: int | None = None
) -> None:
    """Write results.json and answers.jsonl of a model, on the prompts and with the sampling of the result `like`.

    With the same seed an unchanged model gives the same answers in process, so that nothing but a change is seen.
    """
    if like is not None and like["suite"] != SUITE:
        raise DataError(f"suite differs: the candidate has {SUITE}, the baseline {like['suite']}")
    if count is None:
        count = COUNT if like is None else max(1, like.get("prompts", {}).get("n", COUNT * len(KINDS)) // len(KINDS))
    sampling = SAMPLING if like is None else Sampling.make(like["sampling"], where="the baseline's sampling")
    prompts = playground_prompts(PromptsConfig(counts={"verdict": dict.fromkeys(KINDS, count)}, seed=PROMPT_SEED))
    rows = scored_answers(subject, prompts, sampling)
    about = {"method": subject.method, "label": subject.label, "setting": dict(subject.setting), "seed": subject.seed}
    model = subject.served or str(input_id(subject.model))
    result = playground_result(about, model, "verdict", summarize(rows), sampling)
    write_jsonl(out / "answers.jsonl", as_told(subject.label, rows))
    harmful = sum(row["kind"] == "harmful" for row in rows)
    write_results(
        out / "results.json", [{**result, "prompts": prompt_set(rows)}], versions(), judges=truth_judges(harmful)
    )


def scored_answers(subject: Subject, prompts: Artefact, sampling: Sampling) -> list[dict[str, Any]]:
    """Answers with `reward`, `cost` and `refused` by the truth; with log-probabilities where the model is at hand."""
    if subject.answers is None:
        answers = generate(GenerateConfig(sampling=sampling), model=subject.model, prompts=prompts)
        return scored(answers, world_base(WORLD), tension=WORLD.tension)
    answers = subject.answers(prompts, sampling)
    known = read_jsonl(playground_scores(ScoreConfig(tension=WORLD.tension), completions=answers).path / "scores.jsonl")
    return [{**row, **score} for row, score in zip(read_jsonl(answers.path / "completions.jsonl"), known, strict=True)]
