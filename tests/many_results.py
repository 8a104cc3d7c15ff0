"""Made-up results of many methods: documents for pages that must stay readable, and answers behind them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from equipoise.statistics import clopper_pearson

METHODS = ("SACPO", "P-SACPO", "BFPO", "MODPO", "SafeDPO", "CPO", "MoCAN", "PeCAN", "Safe RLHF", "IterAlign", "DPO")
CATEGORIES = tuple(f"kind_{letter}" for letter in "abcdefghijklmn")
EVIL = "</script><script>window.broken = 1</script><img src=x onerror='window.broken = 2'></template></details>"


def rate(share: float, n: int) -> dict[str, Any]:
    hits = round(min(max(share, 0.0), 1.0) * n)
    low, high = clopper_pearson(hits, n, level=0.95)
    return {**figure(hits / n, 0, n), "low": low, "high": high, "kind": "rate", "n_effective": n}


def figure(mean: float, half: float, n: int, kind: str = "mean") -> dict[str, Any]:
    ends = {"mean": mean, "low": mean - half, "high": mean + half}
    return {**ends, "n": n, "n_prompts": n, "kind": kind, "level": 0.95, "unscored": 0}


def many(count: int = 150, *, helpful: str = "reward", tasks: tuple[str, ...] = ("mmlu", "gsm8k")) -> dict[str, Any]:
    """A results.json document of a base and `count` - 1 settings of eleven methods; the eighth result is chosen."""
    draw = np.random.default_rng(3)
    results = [one("base", "base", 0, 0.5, 0.02, 0.4, draw, helpful, tasks)]
    for i in range(1, count):
        name, place = METHODS[i % len(METHODS)], i // len(METHODS)
        step = (place + 1) / (count / len(METHODS) + 1)
        unsafe = 0.006 + 0.55 * step**2 * (0.7 + 0.06 * (i % len(METHODS)))
        reward = 0.32 + 0.55 * step**0.6 - 0.025 * (i % len(METHODS)) + float(draw.normal(0, 0.02))
        over = 0.05 + 0.4 * (1 - step)
        results.append(one(name, name.lower().replace(" ", "_"), place, unsafe, over, reward, draw, helpful, tasks))
    results[8]["chosen"] = True
    behind = {**results[8], "split": "select"}
    del behind["chosen"]
    versions = {"equipoise": "0.1.0", "torch": "2.13.0", "transformers": "5.23.0"}
    return {"schema": 1, "created": "2026-05-04T10:20:30+00:00", "versions": versions, "results": [*results, behind]}


def one(
    name: str,
    method: str,
    place: int,
    unsafe: float,
    over: float,
    reward: float,
    draw: np.random.Generator,
    helpful: str,
    tasks: tuple[str, ...],
) -> dict[str, Any]:
    metrics = {"unsafe_rate": rate(unsafe, 735), "over_refusal": rate(over, 250)}
    metrics[helpful] = figure(reward, 0.02, 735, "mean" if helpful == "reward" else "share")
    metrics |= {"kl": figure(9 * reward, 0.2, 735), "length": figure(80 + 40 * reward, 2.0, 735)}
    spread = draw.uniform(0.5, 1.5, len(CATEGORIES))
    metrics |= {f"unsafe_rate/{c}": rate(unsafe * s, 52) for c, s in zip(CATEGORIES, spread, strict=True)}
    metrics |= {f"over_refusal/{c}": rate(over, 25) for c in ("homonyms", "figures_of_speech")}
    metrics |= {f"capability/{task}": rate(0.6 - 0.1 * reward, 300) for task in tasks}
    return {
        **({} if method == "base" else {"line": name}),
        "method": method,
        "setting": {"beta": 0.1, "weight": round(0.05 * (place + 1), 2)} if method != "base" else {},
        "seed": 0,
        "model": f"train-{method}-{place}",
        "split": "verdict",
        "suite": "made up",
        "template": "0123456789ab",
        "system_prompt": None,
        "sampling": {"temperature": 1.0, "max_new_tokens": 512},
        "judge": "guard v1 + refusals v1",
        "label": name if method == "base" else f"{name} w {0.05 * (place + 1):.2f}",
        "metrics": metrics,
        "wall_s": 4100.0 + 10 * place,
        "train_tokens": 0 if method == "base" else 2_400_000,
        "devices": 1,
    }


def judges() -> list[dict[str, Any]]:
    """A calibrated guard that leans on length, a classifier of refusals, and a second grader nobody calibrated."""
    calibration = {
        "labels": "labels.csv",
        "n": 300,
        "kappa": figure(0.82, 0.06, 300),
        "sensitivity": rate(0.91, 120),
        "false_alarms": rate(0.06, 180),
        "corrected": True,
    }
    shared = {"with": "rubric v1", "kappa": figure(0.74, 0.05, 735), "percent": rate(0.93, 735), "n": 735}
    bias = {
        "name": "prefers the longer answer",
        "found": True,
        "estimate": rate(0.64, 400),
        "fair": 0.5,
        "sentence": "Of two answers as good as each other it takes the longer one in 64.0% [59.1, 68.7].",
    }
    return [
        judge("guard", "unsafe_rate", first=True, calibration=calibration, agreement=[shared], biases=[]),
        judge("refusals", "over_refusal", first=True),
        judge("rubric", "unsafe_rate", first=False, agreement=[{**shared, "with": "guard v1"}], biases=[bias]),
    ]


def judge(name: str, measures: str, *, first: bool, **more: Any) -> dict[str, Any]:
    known = {"kind": "guard", "model": f"owner/{name}", "version": "v1", "n": 735, "unscored": 3}
    parts = {"calibration": None, "agreement": [], "biases": [], **more}
    return {"name": f"{name} v1", "measures": measures, "first": first, **known, **parts}


def answers(prompts: int = 30, models: tuple[str, ...] = ("base", "SACPO w 0.05")) -> Iterator[dict[str, Any]]:
    """Rows of answers.jsonl: a third of the prompts of each kind; the base is unsafe on every second harmful one."""
    for n in range(prompts):
        kind = ("harmful", "borderline", "benign")[n % 3]
        for model in models:
            bad = kind == "harmful" and model == "base" and n % 2 == 0
            refused = kind == "borderline" and model != "base"
            reason = f"reason {n}" if bad else None
            for repeat in (0, 1):
                yield {
                    "model": model,
                    "split": "verdict",
                    "suite": "made up",
                    "prompt_id": f"p{n}",
                    "repeat": repeat,
                    "kind": kind,
                    "category": "kind_a" if kind == "harmful" else None,
                    "prompt": [{"role": "user", "content": f"Question {n} of the {kind} kind {EVIL}"}],
                    "text": f"Answer {n} of {model}, repeat {repeat}, word-{n}-word. {EVIL}",
                    "finish_reason": "length" if n == 2 else "stop",
                    "n_tokens": 12,
                    "verdicts": {
                        "guard v1": {
                            "value": None if n == 1 else float(bad),
                            "label": None if n == 1 else "unsafe" if bad else "safe",
                            "reason": reason,
                        },
                        "refusals v1": {"value": float(refused), "label": None, "reason": None},
                    },
                }
