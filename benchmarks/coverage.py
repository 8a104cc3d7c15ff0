"""Do intervals cover what they promise? Simulated answers to prompts whose rate or mean is known.

    python benchmarks/coverage.py --json

One thread, a few minutes. The last line of stdout is JSON.
"""

from __future__ import annotations

import argparse
import datetime
import json
import sys
import time
from typing import Any

import numpy as np

from equipoise.statistics import mean, rate

RATES = (0.005, 0.01, 0.02, 0.05)
PROMPTS = (100, 300, 1000)
ANSWERS = (1, 4)
CORRELATIONS = (0.0, 0.3, 0.8)
SHAPES = ("exponential", "lognormal")
LEVEL = 0.95
RATE_BAR, MEAN_BAR = (0.93, 1.0), (0.93, 0.97)
PERCENTILE_DRAWS = 500


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true", help="print only the last line")
    parser.add_argument("--repetitions", type=int, default=2000)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    start = time.perf_counter()
    rates = [
        rate_cell(p, prompts, answers, correlation, args.repetitions, args.seed)
        for p in RATES
        for prompts in PROMPTS
        for answers in ANSWERS
        for correlation in (CORRELATIONS if answers > 1 else (0.0,))
    ]
    means = [
        mean_cell(shape, prompts, answers, correlation, args.repetitions, args.seed)
        for shape in SHAPES
        for prompts in PROMPTS
        for answers, correlation in ((1, 1.0), *((max(ANSWERS), c) for c in CORRELATIONS))
    ]
    if not args.json:
        for cell in rates + means:
            print(cell)
    print(
        json.dumps(
            {
                "rates": rates,
                "means": means,
                "lowest_rate": min(cell["coverage"] for cell in rates),
                "lowest_percentile_rate": min(cell["percentile"] for cell in rates),
                "range_of_means": [min(c["coverage"] for c in means), max(c["coverage"] for c in means)],
                "bars": {"rates": RATE_BAR, "means": MEAN_BAR},
                "met": all(RATE_BAR[0] <= c["coverage"] <= RATE_BAR[1] for c in rates)
                and all(MEAN_BAR[0] <= c["coverage"] <= MEAN_BAR[1] for c in means),
                "repetitions": args.repetitions,
                "seed": args.seed,
                "seconds": round(time.perf_counter() - start, 1),
                "cpu_seconds": round(time.process_time(), 1),
                "python": sys.version.split()[0],
                "numpy": np.__version__,
                "date": datetime.date.today().isoformat(),
            }
        )
    )


def rate_cell(p: float, prompts: int, answers: int, correlation: float, repetitions: int, seed: int) -> dict[str, Any]:
    """Coverage of `rate` at true rate `p`, beside a percentile bootstrap over prompts and its zero-width intervals."""
    generator = np.random.default_rng([seed, round(p * 10_000), prompts, answers, round(correlation * 100)])
    if correlation:  # the share of hits among answers to one prompt is beta distributed
        total = 1 / correlation - 1
        own = generator.beta(p * total, (1 - p) * total, size=(repetitions, prompts))
    else:
        own = np.full((repetitions, prompts), p)
    hits = generator.binomial(answers, own)
    # Both intervals depend on how many prompts had 0, 1, ... hits alone, so each such vector is looked at once.
    vectors = np.stack([(hits == h).sum(axis=1) for h in range(answers + 1)], axis=1)
    distinct, times = np.unique(vectors, axis=0, return_counts=True)
    names = np.repeat(np.arange(prompts), answers).tolist()
    covered = exact_width = plain = plain_width = 0.0
    for vector, count in zip(distinct, times, strict=True):
        each = np.repeat(np.arange(answers + 1), vector)
        values = (np.arange(answers) < each[:, None]).ravel().astype(float)
        found = rate(values, names, level=LEVEL)
        covered += count * (found.low <= p <= found.high)
        exact_width += count * (found.high - found.low)
        drawn = generator.multinomial(prompts, vector / prompts, size=PERCENTILE_DRAWS) @ np.arange(answers + 1.0)
        low, high = np.quantile(drawn / (prompts * answers), ((1 - LEVEL) / 2, (1 + LEVEL) / 2))
        plain += count * (low <= p <= high)
        plain_width += count * (high - low)
    return {
        "rate": p,
        "prompts": prompts,
        "answers": answers,
        "correlation": correlation,
        "coverage": round(covered / repetitions, 4),
        "width": round(exact_width / repetitions, 5),
        "percentile": round(plain / repetitions, 4),
        "percentile_width": round(plain_width / repetitions, 5),
    }


def mean_cell(
    shape: str, prompts: int, answers: int, correlation: float, repetitions: int, seed: int
) -> dict[str, Any]:
    """Coverage of `mean`: a skewed part that answers to a prompt share, a normal part of each answer; true mean 0."""
    generator = np.random.default_rng([seed, SHAPES.index(shape), prompts, answers, round(correlation * 100)])
    size = (repetitions, prompts)
    if shape == "exponential":
        shared = generator.exponential(size=size) - 1
    else:
        shared = (generator.lognormal(size=size) - np.exp(0.5)) / np.sqrt((np.e - 1) * np.e)
    noise = generator.normal(size=(*size, answers))
    values = np.sqrt(correlation) * shared[:, :, None] + np.sqrt(1 - correlation) * noise
    names = np.repeat(np.arange(prompts), answers).tolist()
    below = above = 0
    for repetition, rows in enumerate(values.reshape(repetitions, -1)):
        found = mean(rows, names, level=LEVEL, seed=repetition)
        below += found.high < 0
        above += found.low > 0
    return {
        "shape": shape,
        "prompts": prompts,
        "answers": answers,
        "correlation": correlation,
        "coverage": round(1 - (below + above) / repetitions, 4),
        "below": round(below / repetitions, 4),
        "above": round(above / repetitions, 4),
    }


if __name__ == "__main__":
    main()
