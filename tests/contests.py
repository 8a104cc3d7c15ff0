"""Verdicts of judges with planted biases, without a judge."""

from __future__ import annotations

import random

from equipoise.evaluate.judge_bias import Contest


def judged(n: int, *, first: float, longer: float, errors: float = 0.2, seed: int = 0) -> list[Contest]:
    """A judge with planted biases on `n` pairs, in three of four of which the right answer is the shorter one."""
    rng = random.Random(seed)

    def wins(is_first: bool, is_longer: bool) -> float:
        drawn = rng.random()
        if drawn < first:
            return float(is_first)
        if drawn < first + longer:
            return float(is_longer)
        return float(rng.random() >= errors)

    return [
        Contest(f"p{i}", (20, 10) if i % 4 == 0 else (10, 20), wins(True, i % 4 == 0), wins(False, i % 4 == 0))
        for i in range(n)
    ]
