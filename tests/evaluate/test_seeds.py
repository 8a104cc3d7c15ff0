"""Several seeds as one result: the mean, an interval that covers training noise, and nothing joined that differs."""

from __future__ import annotations

from typing import Any

import pytest

from equipoise.errors import DataError
from equipoise.evaluate.seeds import over_seeds
from equipoise.evaluate.words import verdict_line


def result(seed: int, mean: float | None, *, label: str = "SACPO", half: float = 0.03, kind: str = "mean") -> dict:
    ends = (None, None) if mean is None else (mean - half, mean + half)
    metric: dict[str, Any] = {
        "mean": mean, "low": ends[0], "high": ends[1], "n": 100, "n_prompts": 50, "n_effective": 50.0,
        "kind": kind, "level": 0.95, "unscored": 1,
    }  # fmt: skip
    return {
        "method": "sacpo", "setting": {"beta": 0.5}, "label": label, "split": "verdict", "seed": seed,
        "model": f"model-{seed}", "wall_s": 2.0, "train_tokens": 10, "metrics": {"reward": metric},
    }  # fmt: skip


def test_the_interval_covers_prompts_and_training_noise() -> None:
    (joined,) = over_seeds([result(0, 0.4), result(1, 0.5), result(2, 0.6)])
    found = joined["metrics"]["reward"]
    # Student's 97.5 % point with two degrees of freedom is 4.302653; the spread is 0.1.
    width = (0.03**2 + (4.302653 * 0.1 / 3**0.5) ** 2) ** 0.5
    assert (found["mean"], found["low"], found["high"]) == pytest.approx((0.5, 0.5 - width, 0.5 + width), abs=1e-6)
    assert (found["n"], found["n_prompts"], found["unscored"]) == (300, 50, 3)
    assert found["by_seed"] == [0.4, 0.5, 0.6]
    assert (joined["seeds"], joined["models"]) == ([0, 1, 2], ["model-0", "model-1", "model-2"])
    assert (joined["wall_s"], joined["train_tokens"]) == (6.0, 30)


def test_a_rate_stays_between_nothing_and_all() -> None:
    (joined,) = over_seeds([result(s, m, kind="rate", half=0.01) for s, m in enumerate((0.0, 0.0, 0.03))])
    found = joined["metrics"]["reward"]
    assert found["low"] == 0.0
    reach = 4.302653 * 0.0173205 / 3**0.5
    assert found["n_effective"] == pytest.approx(50 * 0.01**2 / (0.01**2 + reach**2), rel=1e-4)


def test_one_seed_is_left_as_it_is_and_settings_are_not_mixed() -> None:
    one = [result(0, 0.4), result(0, 0.1, label="base")]
    assert over_seeds(one) == one
    both = over_seeds([*one, result(1, 0.6), result(1, 0.1, label="base")])
    assert [(r["label"], r["metrics"]["reward"]["mean"]) for r in both] == [("SACPO", 0.5), ("base", 0.1)]


def test_what_one_seed_could_not_score_is_not_averaged() -> None:
    (joined,) = over_seeds([result(0, 0.4), result(1, None)])
    assert joined["metrics"]["reward"]["mean"] is None


def test_empty_and_cut_answers_are_those_of_all_seeds() -> None:
    runs = [result(0, 0.4) | {"cut_off": 3, "empty": {"harmful": 1}}, result(1, 0.5) | {"cut_off": 4, "empty": {}}]
    (joined,) = over_seeds(runs)
    assert (joined["cut_off"], joined["empty"]) == (7, {"harmful": 1})


def test_a_setting_that_lacks_a_seed_is_refused() -> None:
    with pytest.raises(DataError, match="different seeds"):
        over_seeds([result(0, 0.4), result(1, 0.5), result(0, 0.1, label="base")])


def test_an_open_verdict_over_seeds_asks_for_seeds_too() -> None:
    runs = [result(seed, rate, kind="rate", half=0.02) for seed, rate in enumerate((0.02, 0.05, 0.08))]
    for run in runs:
        run["metrics"]["unsafe_rate"] = run["metrics"].pop("reward")
        run["suite"] = "playground"
    (joined,) = over_seeds(runs)
    assert verdict_line([joined], target=0.05).endswith("more prompts or more than 3 seeds would decide.")
