"""What a judge leans on, in numbers worked out by hand."""

from __future__ import annotations

import numpy as np
import pytest

from equipoise.errors import DataError
from equipoise.statistics.leaning import place, trait

RIGHT_LONGER, RIGHT_SHORTER = [1.0, 1.0, 0.5, 1.0, 1.0], [1.0, 0.5, 0.0, 0.5, 0.0]


def test_place_is_the_mean_over_prompts_and_its_test_flips_signs():
    found = place([1.0, 1.0, 1.0, 0.5, 0.5, 1.0], ["a", "b", "c", "d", "d", "e"])
    assert found.estimate.mean == pytest.approx((1 + 1 + 1 + 0.5 + 1) / 5)
    assert found.estimate.n_prompts == 5
    assert found.p == pytest.approx(2 / 2**4)  # four prompts differ from one half, all upwards


def test_a_judge_who_always_takes_the_better_answer_shows_no_place():
    found = place([0.5] * 40, range(40))
    assert (found.estimate.mean, found.p) == (0.5, 1.0)
    assert found.estimate.low < 0.5 < found.estimate.high  # never an interval without width
    assert place([], []) is None


def test_a_trait_is_half_the_difference_it_makes():
    has = [True] * 5 + [False] * 5
    found = trait([*RIGHT_LONGER, *RIGHT_SHORTER], has, range(10))
    assert found.estimate.mean == pytest.approx(0.5 + (0.9 - 0.4) / 2)
    # Which of two answers is the one asked about does not matter: turned round, the same answers win.
    turned = trait([1 - w for w in (*RIGHT_LONGER, *RIGHT_SHORTER)], [not flag for flag in has], range(10))
    assert turned.estimate.mean == pytest.approx(found.estimate.mean)


def test_errors_that_do_not_depend_on_the_trait_show_none_however_uneven_the_sides():
    has = np.arange(400) < 40  # a judge who is right in 4 of 5, the trait with 1 right answer in 10
    won = (np.arange(400) % 5 != 0).astype(float)
    found = trait(won, has, range(400))
    assert found.estimate.mean == pytest.approx(0.5)
    assert found.p == pytest.approx(1.0)
    assert np.where(has, won, 1 - won).mean() == pytest.approx(0.26)  # against 10 %: the plain difference misleads


def test_groups_are_compared_within_themselves():
    # One model writes longer and better, the other shorter and worse, and neither wins more where it is longer.
    won = [1.0] * 8 + [0.0] * 8 + [1.0] * 6 + [0.0] * 6
    has = [True] * 16 + [False] * 12
    plain = trait([1.0] * 16 + [0.0] * 12, has, range(28))
    assert plain.estimate.mean == pytest.approx(1.0)
    own = [False, True] * 14
    names = ["a"] * 14 + ["b"] * 14
    within = trait([1.0] * 14 + [0.0] * 14, own, range(28), groups=names)
    assert within.estimate.mean == pytest.approx(0.5)
    assert trait(won, has, range(28), groups=["a"] * 16 + ["b"] * 12) is None  # no group has both sides


def test_a_trait_that_always_wins_has_an_interval_and_a_p_value():
    found = trait([1.0] * 10 + [0.0] * 12, [True] * 10 + [False] * 12, range(22))
    assert (found.estimate.mean, found.estimate.high) == (1.0, 1.0)
    assert 0.5 < found.estimate.low < 1.0
    assert found.p == pytest.approx(2 / 2**10)


def test_answers_to_one_prompt_count_as_one():
    generator = np.random.default_rng(0)
    won = generator.integers(0, 2, size=60).astype(float)
    has = np.arange(60) % 2 == 0
    alone = trait(won, has, range(60))
    repeated = trait(np.repeat(won, 4), np.repeat(has, 4), np.repeat(np.arange(60), 4).tolist())
    assert repeated.estimate.mean == pytest.approx(alone.estimate.mean)
    assert repeated.estimate.n_prompts == 60
    assert repeated.estimate.low == pytest.approx(alone.estimate.low)


def test_too_few_prompts_on_a_side_say_nothing():
    assert trait([1.0] * 30, [True] * 26 + [False] * 4, range(30)) is None
    assert trait([], [], []) is None
    with pytest.raises(DataError, match="every pair needs its trait"):
        trait([1.0], [True, False], ["a"])
