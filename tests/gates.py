"""Small results with answers, as a gate reads them: unsafe answers to harmful prompts, refusals of borderline ones."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from equipoise.evaluate.suites import prompt_set, summarize
from equipoise.evaluate.verdicts import Calibration, corrected_metric
from equipoise.statistics import Grader

SAMPLING = {"temperature": 1.0, "top_p": 1.0, "top_k": None, "max_new_tokens": 64, "repeats": 1, "seed": 0, "stop": []}


def rows_of(
    unsafe: Sequence[int], *, refused: Sequence[int] = (), rewards: Sequence[float] | None = None, n: int | None = None
) -> list[dict[str, Any]]:
    """An answer to each of n harmful (1 in `unsafe` is a harmful answer) and as many borderline prompts."""
    n = len(unsafe) if n is None else n
    rewards = [0.0] * n if rewards is None else rewards
    refused = list(refused) or [0] * n
    about = {"repeat": 0, "text": "an answer", "finish_reason": "stop", "n_tokens": 4}
    rows = [
        {"prompt_id": f"h{i}", "kind": "harmful", "category": ("pranks", "gossip")[i % 2], "refused": None,
         "cost": 1.0 if bad else -1.0, "reward": reward, **about}
        for i, (bad, reward) in enumerate(zip(unsafe, rewards, strict=True))
    ]  # fmt: skip
    rows += [
        {"prompt_id": f"b{i}", "kind": "borderline", "category": None, "refused": bool(bad), "cost": -1.0,
         "reward": reward, **about}
        for i, (bad, reward) in enumerate(zip(refused, rewards, strict=True))
    ]  # fmt: skip
    return rows


def result_of(rows: list[dict[str, Any]], label: str = "model", **changes: Any) -> dict[str, Any]:
    """Their verdict result."""
    return {
        "method": "sacpo",
        "label": label,
        "setting": {},
        "seed": 0,
        "model": f"train-{label}",
        "split": "verdict",
        "suite": "mischief",
        "template": "playground",
        "system_prompt": None,
        "sampling": SAMPLING,
        "judge": "truth",
        "prompts": prompt_set(rows),
        "metrics": summarize(rows),
        "wall_s": 1.0,
        "train_tokens": 10,
        "devices": 1,
        **changes,
    }


def document_of(*results: dict[str, Any], **more: Any) -> dict[str, Any]:
    """What results.json holds."""
    return {"schema": 1, "created": "2026-01-01", "versions": {}, "results": list(results), **more}


def calibrated(
    result: dict[str, Any], counts: Grader, *, measures: str = "unsafe_rate", useless: str = ""
) -> dict[str, Any]:
    """The document of a result whose grader was held against labels, with the rate corrected for its errors."""
    figure = {"mean": 0.8, "low": 0.7, "high": 0.9, "n": 400, "n_prompts": 400, "kind": "mean", "level": 0.95}
    figure |= {"n_effective": 400.0, "unscored": 0}
    shares = (counts.hits / counts.unsafe, counts.false_alarms / counts.safe)
    hits, alarms = ({**figure, "mean": share, "kind": "rate"} for share in shares)
    held = Calibration("unsafe", "labels.csv", 400, figure, hits, alarms, counts, useless)
    metrics = result["metrics"] | {f"{measures}_corrected": corrected_metric(result["metrics"][measures], held)}
    calibration = {"labels": "labels.csv", "n": 400, "kappa": figure, "sensitivity": hits, "false_alarms": alarms}
    calibration |= {"corrected": not useless, "why": useless}
    section = {"name": "guard v1", "kind": "guard", "model": None, "version": "1", "measures": measures, "n": 400}
    section |= {"unscored": 0, "first": True, "calibration": calibration, "agreement": [], "biases": []}
    return document_of({**result, "metrics": metrics, "judge": "guard v1"}, judges=[section])


def answers_of(rows: list[dict[str, Any]], label: str = "model", suite: str = "mischief") -> list[dict[str, Any]]:
    """What answers.jsonl holds of a model."""
    return [{"model": label, "split": "verdict", "suite": suite, **row} for row in rows]


def written(
    folder: Path, rows: list[dict[str, Any]], label: str = "model", *, answers: bool = True, **changes: Any
) -> Path:
    """results.json and answers.jsonl in a folder; the path of the former."""
    return stored(folder, document_of(result_of(rows, label, **changes)), answers_of(rows, label) if answers else None)


def stored(folder: Path, document: dict[str, Any], answers: Sequence[dict[str, Any]] | None = None) -> Path:
    """A document as results.json of a folder, with answers.jsonl beside it; the path of the former."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "results.json").write_text(json.dumps(document))
    if answers is not None:
        lines = [json.dumps(row) + "\n" for row in answers]
        (folder / "answers.jsonl").write_text("".join(lines))
    return folder / "results.json"
