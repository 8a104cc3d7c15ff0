"""Small results with answers, as a gate reads them: unsafe answers to harmful prompts, refusals of borderline ones."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from equipoise.evaluate.suites import prompt_set, summarize

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


def answers_of(rows: list[dict[str, Any]], label: str = "model", suite: str = "mischief") -> list[dict[str, Any]]:
    """What answers.jsonl holds of a model."""
    return [{"model": label, "split": "verdict", "suite": suite, **row} for row in rows]


def written(
    folder: Path, rows: list[dict[str, Any]], label: str = "model", *, answers: bool = True, **changes: Any
) -> Path:
    """results.json and answers.jsonl in a folder; the path of the former."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "results.json").write_text(json.dumps(document_of(result_of(rows, label, **changes))))
    if answers:
        lines = [json.dumps(row) + "\n" for row in answers_of(rows, label)]
        (folder / "answers.jsonl").write_text("".join(lines))
    return folder / "results.json"
