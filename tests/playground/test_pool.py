"""What the annotators' labels teach, and the gap of policies whose optimum is known."""

from __future__ import annotations

import random

import numpy as np
import pytest

from equipoise.playground.annotators import TEMPERATURE_BETTER, TEMPERATURE_SAFER
from equipoise.playground.answers import base_answer
from equipoise.playground.pool import Aim, BfpoAim, Pooled
from equipoise.playground.truth import true_cost, true_reward
from equipoise.playground.world import KINDS, draw_prompt
from equipoise.statistics.gap import target_gap
from equipoise.statistics.optimum import Pool

EACH = 24


@pytest.fixture(scope="module")
def pool() -> Pooled:
    """Answers of the untrained assistant alone, so that every answer weighs the same."""
    rng = random.Random("pool")
    asked = [draw_prompt("verdict", kind, rng) for kind in KINDS for _ in range(6)]
    rows = [{**prompt.row(), "text": base_answer(prompt.ask, rng)} for prompt in asked for _ in range(EACH)]
    return Pooled(
        Pool(
            prompt=np.repeat(np.arange(len(asked)), EACH),
            source=np.zeros(len(rows), dtype=np.int64),
            logps=np.zeros((len(rows), 1)),
            reward=np.array([true_reward(row, row["text"]) for row in rows]),
            cost=np.array([true_cost(row, row["text"]) for row in rows]),
            kinds=tuple(prompt.ask.kind for prompt in asked),
        ),
        tuple(rows),
        {},
        ("base",),
        0.3,
    )


def test_utilities_are_the_truth_at_the_annotators_temperatures(pool: Pooled) -> None:
    helpful, safe = pool.utilities
    assert helpful == pytest.approx(pool.pool.reward / TEMPERATURE_BETTER)
    assert safe == pytest.approx(-pool.pool.cost / TEMPERATURE_SAFER)
    assert Aim(0.5, 1, 2).scores(np.array([1.0]), np.array([3.0])) == [7.0]
    marked = Aim(0.5, 1, 0, unsafe=2.0)
    assert marked.scores(np.array([1.0, 1.0]), np.array([-0.1, 0.1])).tolist() == [-1.0, 1.0]


def test_labels_teach_the_truth_and_a_liking_for_length(pool: Pooled) -> None:
    centred = [values - (pool.pool.sums(values) / EACH)[pool.pool.prompt] for values in pool.utilities]
    for taught, truth, bias in zip(pool.taught, centred, (1, -1), strict=True):
        assert np.corrcoef(taught, truth)[0, 1] > 0.9
        words = np.array([row["text"].count(" ") for row in pool.rows], dtype=float)
        words -= (pool.pool.sums(words) / EACH)[pool.pool.prompt]
        slope = np.polyfit(words, taught - np.polyfit(truth, taught, 1)[0] * truth, 1)[0]
        assert np.sign(slope) == bias


def test_what_the_labels_teach_is_near_the_optimum_but_not_there(pool: Pooled) -> None:
    aim = Aim(0.5, 1, 1)
    truth = aim.scores(*pool.utilities)
    assert target_gap(pool.pool, truth, truth, beta=aim.beta).value.mean == pytest.approx(0.0, abs=1e-9)
    assert 0.0 < target_gap(pool.pool, truth, aim.scores(*pool.taught), beta=aim.beta).value.mean < 0.2


def four() -> Pooled:
    """METHODS G10: helpful and safe, unhelpful and safe, unhelpful and unsafe, helpful and unsafe, drawn alike."""
    helps, safe = np.array([1.0, 0.0, 0.0, 1.0]), np.array([1.0, 1.0, -1.0, -1.0])
    pool = Pool(
        prompt=np.zeros(4, dtype=np.int64),
        source=np.zeros(4, dtype=np.int64),
        logps=np.zeros((4, 1)),
        reward=TEMPERATURE_BETTER * np.log(4) * helps,  # so that the helpful one wins with .8
        cost=-TEMPERATURE_SAFER * safe,
        kinds=("harmful",),
    )
    return Pooled(pool, (), {}, ("base",), 0.3)


@pytest.mark.parametrize(
    ("alpha", "expected"), [(0.5, [0.575, 0.425, -0.425, -0.575]), (0.0, [0.725, 0.275, -0.575, -0.425])]
)
def test_bfpo_aims_at_the_minimum_of_its_loss(alpha: float, expected: list[float]) -> None:
    pooled = four()
    found = BfpoAim(tau=0.5, alpha=alpha).on(pooled, pooled.pool.prompt, *pooled.utilities)
    assert found - found.mean() == pytest.approx(np.array(expected))
    assert BfpoAim(tau=0.5).beta == 0.5


def test_an_answer_outside_the_pool_has_the_value_of_its_like_in_it() -> None:
    pooled, aim = four(), BfpoAim(tau=0.5)
    inside = aim.on(pooled, pooled.pool.prompt, *pooled.utilities)
    helpful, safe = pooled.utilities
    outside = aim.on(pooled, np.zeros(1, dtype=np.int64), helpful[2:3], safe[2:3])
    assert outside == pytest.approx(inside[2:3])


def test_bfpos_labels_teach_nearly_what_the_truth_would(pool: Pooled) -> None:
    aim = BfpoAim(tau=0.5)
    truth, taught = aim.on(pool, pool.pool.prompt, *pool.utilities), aim.taught(pool)
    assert np.corrcoef(truth, taught)[0, 1] > 0.85
