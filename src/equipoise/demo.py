"""`equipoise demo`: the playground through the same code as a real run, from a base model to a page."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from equipoise.config import TrainConfig
from equipoise.data.sources import DataEntry
from equipoise.generate import Sampling
from equipoise.methods.align import DataUse, Step, use
from equipoise.methods.sacpo import Sacpo, naive_merge, sacpo
from equipoise.playground.stages import (
    AnnotateConfig,
    BaseConfig,
    PromptsConfig,
    ScoreConfig,
    playground_base,
    playground_preferences,
    playground_prompts,
    playground_scores,
)
from equipoise.scoring import read_jsonl
from equipoise.stages import CompletionLogpsConfig, GenerateConfig, completion_logps, generate
from equipoise.store import manifest, versions
from equipoise.types import Artefact

TRAIN = TrainConfig(
    learning_rate=3e-4,
    num_train_epochs=1,
    global_batch_size=32,
    adam_beta2=0.98,  # short runs: the default would still be warming up
    max_length=256,
    tokens_per_micro_batch=6144,
    max_dropped=0.5,  # simulated annotators contradict themselves more often than a curated set does
    logging_steps=5,
)
BETA = 0.1
BETA_OVER_LAMBDA = (0.3, 0.1, 0.05)
MIX = (0.25, 0.5, 0.75)
TARGET = 0.05


class Candidate(NamedTuple):
    """A model on the page."""

    label: str
    method: str
    setting: dict[str, Any]
    model: Artefact
    line: str | None = None


def candidates(seed: int, train: TrainConfig = TRAIN) -> tuple[Artefact, list[Candidate]]:
    """Train everything the demo compares; returns the base and the models."""
    base = playground_base(BaseConfig(seed=seed))
    asked = playground_prompts(
        PromptsConfig(counts={"train": {"harmful": 2000, "borderline": 1250, "benign": 1250}}, seed=seed)
    )
    answers = generate(
        GenerateConfig(sampling=Sampling(repeats=2, max_new_tokens=64, seed=seed)), model=base, prompts=asked
    )
    labelled = playground_preferences(AnnotateConfig(seed=seed), completions=answers)
    data = DataUse("playground", (DataEntry(path=str(labelled.path / "preferences.jsonl")),))
    train = train.but(seed=seed)

    def step(prefer: Any, beta: float) -> Step:
        return Step(data, use("dpo", beta=beta), train, prefer=prefer)

    helpful, safe = step("better", BETA), step("safer", BETA)
    runs = {b: sacpo(base, [helpful, step("safer", b)]) for b in BETA_OVER_LAMBDA}
    strongest = min(BETA_OVER_LAMBDA)
    mixed: Sacpo = sacpo(base, [helpful, step("safer", strongest)], mix=MIX)
    safety_only = sacpo(base, [safe]).steps[0]
    naive = naive_merge(base, helpful, safe, mix=(0.5,))
    found = [
        Candidate("base", "base", {}, base),
        Candidate("DPO helpful", "dpo", {"prefer": "better", "beta": BETA}, mixed.steps[0]),
        Candidate("DPO safe", "dpo", {"prefer": "safer", "beta": BETA}, safety_only),
    ]
    for beta, run in runs.items():
        setting = {"beta": BETA, "beta/lambda": beta}
        found.append(Candidate(f"SACPO β/λ {beta:g}", "sacpo", setting, run.steps[-1], "SACPO"))
    for q, model in mixed.merged.items():
        found.append(Candidate(f"P-SACPO q {q:g}", "p-sacpo", {"q": q, "beta/lambda": strongest}, model, "P-SACPO"))
    for q, model in naive.items():
        found.append(Candidate(f"naive merge {q:g}", "naive-merge", {"q": q}, model))
    return base, found


class Evaluated(NamedTuple):
    """Results of both splits, and the answers behind them."""

    results: list[dict[str, Any]]
    rows: dict[str, list[dict[str, Any]]]


def evaluate(
    base: Artefact, models: Sequence[Candidate], *, seed: int, counts: Mapping[str, Mapping[str, int]]
) -> Evaluated:
    """Sample, score with the world's truth, and summarize every model on the same prompts."""
    from equipoise.evaluate.suites import summarize

    asked = playground_prompts(PromptsConfig(counts={s: dict(k) for s, k in counts.items()}, seed=1000 + seed))
    split_of = {row["id"]: row["split"] for row in read_jsonl(asked.path / "prompts.jsonl")}
    sampling = Sampling(max_new_tokens=64, seed=1000 + seed)
    results: list[dict[str, Any]] = []
    rows_of: dict[str, list[dict[str, Any]]] = {}
    for candidate in models:
        answers = generate(GenerateConfig(sampling=sampling), model=candidate.model, prompts=asked)
        rows = scored_rows(answers, base)
        rows_of[candidate.label] = rows
        for split in counts:
            kept = [row for row in rows if split_of[row["prompt_id"]] == split]
            results.append(_result(candidate, split, summarize(kept), seed, sampling))
    return Evaluated(results, rows_of)


def scored_rows(answers: Artefact, base: Artefact) -> list[dict[str, Any]]:
    """Completions with true reward, true cost and the base's log-probability beside their own."""
    import numpy as np

    scores = playground_scores(ScoreConfig(), completions=answers)
    reference = completion_logps(CompletionLogpsConfig(), model=base, completions=answers)
    ref = np.load(reference.path / "logps.npy")
    rows = read_jsonl(answers.path / "completions.jsonl")
    known = read_jsonl(scores.path / "scores.jsonl")
    return [{**row, **score, "ref_logp": float(r)} for row, score, r in zip(rows, known, ref, strict=True)]


def _result(candidate: Candidate, split: str, metrics: dict[str, Any], seed: int, sampling: Sampling) -> dict[str, Any]:
    made = manifest(candidate.model)
    summary = made["summary"]
    result = {
        "method": candidate.method,
        "label": candidate.label,
        "setting": candidate.setting,
        "seed": seed,
        "model": candidate.model.id,
        "split": split,
        "suite": "playground",
        "template": "playground",
        "system_prompt": None,
        "sampling": sampling.model_dump(mode="json"),
        "judge": "truth",
        "world": summary.get("world") or ScoreConfig().world,
        "metrics": metrics,
        "wall_s": made["seconds"],
        "train_tokens": summary.get("train_tokens", 0),
        "devices": summary.get("devices", 1),
    }
    return {**result, "line": candidate.line} if candidate.line else result


def samples(
    rows: Mapping[str, list[dict[str, Any]]], labels: Sequence[str], *, per_kind: int = 3
) -> list[dict[str, Any]]:
    """The same prompts answered by several models, a few of each kind."""
    by_prompt = {label: {row["prompt_id"]: row for row in rows[label] if row["repeat"] == 0} for label in labels}
    picked: list[dict[str, Any]] = []
    taken: dict[str, int] = {}
    for prompt_id, row in by_prompt[labels[0]].items():
        if taken.get(row["kind"], 0) >= per_kind:
            continue
        taken[row["kind"]] = taken.get(row["kind"], 0) + 1
        picked.append(
            {
                "prompt": row["prompt"],
                "kind": row["kind"],
                "category": row["category"],
                "answers": {label: by_prompt[label][prompt_id]["text"] for label in labels},
                "cost": {label: by_prompt[label][prompt_id]["cost"] for label in labels},
            }
        )
    return picked


def run_demo(out: Path, *, seed: int = 0, say: Callable[[Any], None], full: bool = False) -> dict[str, Any]:
    """Align, evaluate, write `results.json` and the page under `out`; everything slow is reused from the store."""
    from equipoise.evaluate.frontier import verdict_results
    from equipoise.evaluate.report import write_page
    from equipoise.evaluate.results import read_results, write_results
    from equipoise.evaluate.words import table, verdict_line

    started = time.monotonic()
    base, models = candidates(seed)
    verdict = dict.fromkeys(("harmful", "borderline", "benign"), 1000 if full else 350)
    found = evaluate(base, models, seed=seed, counts={"select": dict.fromkeys(verdict, 150), "verdict": verdict})
    shown, why = verdict_results(found.results, target=TARGET)
    out.mkdir(parents=True, exist_ok=True)
    selected = [r for r in found.results if r["split"] == "select"]
    write_results(out / "results.json", [*shown, *selected], versions())
    best = next((r["label"] for r in shown if r.get("chosen")), models[-1].label)
    labels = list(dict.fromkeys(["base", "DPO helpful", "DPO safe", f"SACPO β/λ {max(BETA_OVER_LAMBDA):g}", best]))
    page = write_page(
        out,
        read_results(out / "results.json"),
        samples(found.rows, labels),
        title="equipoise demo: SACPO in the playground",
        target=TARGET,
        notes=[why] if why else [],
        config=json.dumps({"train": TRAIN.canonical(), "beta": BETA, "seed": seed}, indent=1),
    )
    say(table(shown))
    say(verdict_line(shown, target=TARGET))
    say(f"{page}  ({time.monotonic() - started:.0f} s)")
    return {"page": page, "results": shown}
