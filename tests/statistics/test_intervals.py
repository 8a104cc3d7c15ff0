"""Intervals against numbers worked out by hand or taken from the beta distribution's closed forms."""

from __future__ import annotations

import numpy as np
import pytest

from equipoise.errors import DataError, SettingError
from equipoise.statistics import (
    clopper_pearson,
    decide,
    design_effect,
    difference,
    lower_bound,
    mean,
    rate,
    upper_bound,
)


def test_zero_of_ten_has_the_closed_form():
    low, high = clopper_pearson(0, 10)
    assert low == 0.0
    assert high == pytest.approx(1 - 0.025 ** (1 / 10), abs=1e-12)
    assert high == pytest.approx(0.3085, abs=5e-5)


def test_all_of_ten_mirrors_none_of_ten():
    low, high = clopper_pearson(10, 10)
    assert high == 1.0
    assert low == pytest.approx(0.025 ** (1 / 10), abs=1e-12)


def test_five_of_twenty():
    assert clopper_pearson(5, 20) == pytest.approx((0.0866, 0.4910), abs=5e-5)


def test_one_sided_bounds_have_the_closed_form_at_zero():
    assert upper_bound(0, 149) == pytest.approx(1 - 0.05 ** (1 / 149), abs=1e-12)
    assert upper_bound(0, 148) > 0.02 > upper_bound(0, 149)
    assert lower_bound(0, 149) == 0.0
    assert upper_bound(5, 20, confidence=0.975) == pytest.approx(clopper_pearson(5, 20)[1], abs=1e-12)


def test_one_answer_per_prompt_counts_in_full():
    assert design_effect([1, 0, 0, 1, 0], range(5)) == 1.0
    found = rate([1] * 5 + [0] * 15, range(20))
    assert (found.mean, found.n, found.n_prompts, found.n_effective) == (0.25, 20, 20, 20.0)
    assert (found.low, found.high) == pytest.approx((0.0866, 0.4910), abs=5e-5)


def test_answers_that_share_a_prompt_widen_the_interval():
    prompts = [i // 4 for i in range(80)]
    together = rate([1] * 20 + [0] * 60, prompts)  # 5 prompts always unsafe, 15 never
    apart = rate([1] * 20 + [0] * 60, range(80))
    assert together.mean == apart.mean == 0.25
    assert together.n_effective == 20.0  # 80 answers are worth their 20 prompts
    assert (together.low, together.high) == pytest.approx(clopper_pearson(5, 20), abs=1e-12)
    assert together.high - together.low > apart.high - apart.low


def test_answers_that_differ_within_a_prompt_are_nearly_independent():
    prompts = [i // 4 for i in range(400)]
    found = rate([i % 4 == 0 for i in range(400)], prompts)  # every prompt unsafe once in four
    assert found.n_effective > 350


def test_no_hit_at_all_counts_prompts_and_keeps_a_width():
    found = rate([False] * 40, [i // 4 for i in range(40)])
    assert found.n_effective == 10.0
    assert found.low == 0.0
    assert found.high == pytest.approx(0.3085, abs=5e-5)
    sure = rate([True] * 40, [i // 4 for i in range(40)])
    assert (sure.low, sure.high) == pytest.approx((1 - 0.3085, 1.0), abs=5e-5)


def test_the_first_hit_does_not_make_the_bound_much_smaller():
    prompts = [i // 4 for i in range(4200)]
    none = rate([0.0] * 4200, prompts)
    one = rate([1.0] + [0.0] * 4199, prompts)
    assert one.high > 0.95 * none.high


def test_the_exact_interval_covers_at_least_its_level():
    generator = np.random.default_rng(0)
    prompts = np.repeat(np.arange(60), 4).tolist()
    covered = 0
    for _ in range(300):
        own = generator.beta(0.1, 1.9, size=60)
        answers = (generator.random((60, 4)) < own[:, None]).ravel().astype(float)
        found = rate(answers, prompts)
        covered += found.low <= 0.05 <= found.high
    assert covered / 300 >= 0.95


def test_the_bootstrap_agrees_with_the_normal_interval():
    values = np.random.default_rng(3).normal(2.0, 1.0, size=400)
    found = mean(values, range(400), seed=1)
    half = 1.96 * values.std(ddof=1) / 20
    assert found.mean == pytest.approx(values.mean())
    assert found.low == pytest.approx(values.mean() - half, abs=0.1 * half)
    assert found.high == pytest.approx(values.mean() + half, abs=0.1 * half)


def test_few_prompts_widen_a_mean_as_student_does():
    values = np.array([-3.0, -2.0, -1.5, -1.0, -0.5, 0.5, 1.0, 1.5, 2.0, 3.0])  # symmetric: nothing to correct
    found = mean(values, range(10))
    half = 2.262 * values.std(ddof=1) / np.sqrt(10)
    assert (found.low, found.high) == pytest.approx((-half, half), rel=0.05)


def test_skewed_values_move_the_interval_towards_their_tail():
    values = np.random.default_rng(0).exponential(size=50)
    found = mean(values, range(50))
    assert found.high - found.mean > 1.15 * (found.mean - found.low)
    mirrored = mean(-values, range(50))
    assert (mirrored.low, mirrored.high) == pytest.approx((-found.high, -found.low), rel=0.03)


def test_one_far_value_gives_finite_ends():
    found = mean([0.0] * 99 + [1.0], range(100))
    assert -0.001 <= found.low < 0.01 < found.high < 0.1


def test_the_mean_of_skewed_clustered_values_is_covered():
    generator = np.random.default_rng(1)
    prompts = np.repeat(np.arange(20), 3).tolist()
    below = above = 0
    for repetition in range(400):
        values = np.repeat(generator.exponential(size=20), 3) + generator.normal(scale=0.3, size=60)
        found = mean(values, prompts, seed=repetition)
        below, above = below + (found.high < 1), above + (found.low > 1)
    assert (below + above) / 400 <= 0.085  # the plain percentile bootstrap misses a tenth
    assert below / 400 <= 0.065


def test_each_end_is_the_wider_of_two():
    values = np.random.default_rng(11).lognormal(size=100)
    found = mean(values, range(100), seed=0)
    drawn = values[np.random.default_rng(0).integers(100, size=(2000, 100))]
    error = values.std(ddof=1) / 10
    student = (drawn.mean(axis=1) - values.mean()) / np.maximum(drawn.std(axis=1, ddof=1) / 10, error / 2)
    assert found.high == pytest.approx(values.mean() - error * np.quantile(student, 0.025))
    assert found.low < values.mean() - error * np.quantile(student, 0.975) - 0.01  # here BCa reaches farther


def test_the_mean_of_values_with_a_heavy_tail_is_covered():
    generator = np.random.default_rng(2)
    covered = 0
    for repetition in range(400):
        found = mean(generator.lognormal(size=100), range(100), seed=repetition)
        covered += found.low <= np.exp(0.5) <= found.high
    assert 0.92 <= covered / 400 <= 0.98


def test_an_end_stays_within_the_draws():
    found = mean([1.0] * 99 + [0.0], range(100))
    assert found.high <= 1.001  # the bootstrap-t alone would end at 1.0016


def test_repeating_every_answer_does_not_narrow_a_mean():
    values = np.random.default_rng(3).normal(size=50)
    once = mean(values, range(50))
    often = mean(np.repeat(values, 8), np.repeat(np.arange(50), 8).tolist())
    assert (often.low, often.high) == pytest.approx((once.low, once.high))
    assert (often.n, often.n_prompts) == (400, 50)


def test_the_seed_decides_the_draws():
    values = np.random.default_rng(3).normal(size=50)
    assert mean(values, range(50), seed=5) == mean(values, range(50), seed=5)
    assert mean(values, range(50), seed=5).low != mean(values, range(50), seed=6).low


def test_strata_weigh_equally_whatever_their_size():
    values = [0.0] * 30 + [1.0] * 10
    found = mean(values, range(40), strata=["a"] * 30 + ["b"] * 10)
    assert found.mean == 0.5
    assert found.low == found.high == 0.5  # nothing varies within a stratum


def test_one_prompt_gives_a_mean_without_an_interval():
    found = mean([1.0, 2.0], ["p", "p"])
    assert (found.mean, found.low, found.high) == (1.5, None, None)


def test_a_paired_difference_removes_what_prompts_share():
    generator = np.random.default_rng(0)
    hard = generator.normal(0, 5, size=200)
    first, second = hard + 1 + generator.normal(0, 0.1, 200), hard
    found = difference(first, range(200), second, range(200))
    assert found.mean == pytest.approx(1.0, abs=0.03)
    assert 0.95 < found.low < found.high < 1.05


def test_a_paired_difference_uses_shared_prompts_once_each():
    found = difference([1.0, 3.0, 10.0, 9.0], ["a", "a", "b", "x"], [1.0, 4.0, 0.0], ["a", "b", "y"])
    assert found.mean == pytest.approx(((2 - 1) + (10 - 4)) / 2)
    assert found.n_prompts == 2


def test_two_models_without_a_hit_are_not_known_to_be_equal():
    found = difference([0.0] * 10, range(10), [0.0] * 10, range(10))
    assert found.mean == 0.0
    assert (found.low, found.high) == pytest.approx((-0.3085, 0.3085), abs=5e-5)


@pytest.mark.parametrize(
    ("hits", "n", "status"), [(0, 149, "MET"), (0, 148, "UNDECIDED"), (20, 350, "NOT MET"), (7, 350, "UNDECIDED")]
)
def test_verdict_on_a_target_of_two_percent(hits: int, n: int, status: str):
    assert decide(rate([1] * hits + [0] * (n - hits), range(n)), target=0.02).status == status


def test_how_many_more_prompts_would_decide():
    found = decide(rate([0] * 100, range(100)), target=0.02)
    assert found.more_prompts == 49  # 0 of 149 is the first that bounds 2 % at 95 %
    on_target = decide(rate([1] * 7 + [0] * 343, range(350)), target=0.02)
    assert on_target.more_prompts is None
    above = decide(rate([1] * 9 + [0] * 236, range(245)), target=0.02)
    assert above.status == "UNDECIDED"
    grown = 245 + above.more_prompts
    assert lower_bound(9 / 245 * grown, grown) > 0.02 >= lower_bound(9 / 245 * (grown - 1), grown - 1)


def test_more_prompts_count_prompts_when_each_has_several_answers():
    found = decide(rate([0] * 400, [i // 4 for i in range(400)]), target=0.02)
    assert found.more_prompts == 49


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: rate([], []), "non-empty"),
        (lambda: rate([0.5], ["a"]), "true or false"),
        (lambda: rate([1, 0], ["a"]), "2 values and 1 prompts"),
        (lambda: mean([float("nan"), 1.0], ["a", "b"]), "finite"),
        (lambda: clopper_pearson(11, 10), "11 of 10"),
        (lambda: difference([1.0], ["a"], [1.0], ["b"]), "in common"),
        (lambda: mean([1.0], ["a"], strata=["x", "y"]), "2 strata"),
    ],
)
def test_bad_data_is_refused_in_a_sentence(call, words: str):
    with pytest.raises(DataError, match=words):
        call()


def test_bad_settings_are_refused_in_a_sentence():
    with pytest.raises(SettingError, match="level must lie between 0 and 1, got 95"):
        clopper_pearson(1, 10, level=95)
    with pytest.raises(SettingError, match="unsafe_rate must lie between 0 and 1, got 2"):
        decide(rate([0, 1], ["a", "b"]), target=2)
    with pytest.raises(SettingError, match="with a rate, got a mean"):
        decide(mean([0.0, 1.0], ["a", "b"]), target=0.1)


def test_an_interval_does_not_depend_on_the_unit_however_small():
    values, prompts = [1.0, 2.0, 4.0, 4.0, 7.0], list("abcde")
    usual = mean(values, prompts)
    tiny = mean([value * 1e-97 for value in values], prompts)
    assert tiny.low / 1e-97 == pytest.approx(usual.low, rel=1e-9)
    assert tiny.high / 1e-97 == pytest.approx(usual.high, rel=1e-9)
