"""Win rates worked out by hand: orders first, then prompts."""

from __future__ import annotations

import pytest

from equipoise.errors import DataError
from equipoise.statistics import Judgement, clopper_pearson, win_rate

FOUR = [
    Judgement("p1", "a", "b", "first"),
    Judgement("p1", "b", "a", "second"),  # a wins whatever the order
    Judgement("p2", "a", "b", "first"),
    Judgement("p2", "b", "a", "first"),  # the first answer wins whatever it is
    Judgement("p3", "a", "b", "tie"),
    Judgement("p3", "b", "a", "first"),
    Judgement("p4", "a", "b", None),
    Judgement("p4", "b", "a", "second"),
    Judgement("p5", "a", "c", "second"),  # another pair of models
]


def test_orders_are_averaged_within_a_prompt_before_anything_else():
    found = win_rate(FOUR, model="a", against="b")
    assert found.rate.mean == pytest.approx((1 + 0.5 + 0.25 + 1) / 4)
    assert (found.won, found.tied, found.lost, found.unscored, found.one_order) == (4, 1, 2, 1, 1)
    assert (found.rate.n, found.rate.n_prompts) == (4, 4)


def test_what_one_wins_the_other_loses():
    a, b = win_rate(FOUR, model="a", against="b"), win_rate(FOUR, model="b", against="a")
    assert a.rate.mean + b.rate.mean == pytest.approx(1)
    assert (a.won, a.lost) == (b.lost, b.won)
    assert a.position == b.position


def test_position_bias_and_disagreement_look_at_prompts_judged_both_ways():
    found = win_rate(FOUR, model="a", against="b")
    assert found.position.mean == pytest.approx((0.5 + 1 + 0.75) / 3)
    assert found.disagreement.mean == pytest.approx(2 / 3)
    assert (found.disagreement.low, found.disagreement.high) == pytest.approx(clopper_pearson(2, 3))
    assert win_rate(FOUR, model="a", against="c").position is None


def test_repeats_of_one_order_do_not_outvote_the_other():
    often = [Judgement("p", "a", "b", "first")] * 3 + [Judgement("p", "b", "a", "first")]
    found = win_rate(often, model="a", against="b")
    assert found.rate.mean == 0.5
    assert found.disagreement.mean == 1.0


def test_the_interval_has_a_width_when_every_prompt_agrees():
    sweep = [Judgement(i, "a", "b", "first") for i in range(10)]
    found = win_rate(sweep, model="a", against="b").rate
    assert (found.mean, found.high) == (1.0, 1.0)
    assert found.low == pytest.approx(1 - 0.3085, abs=5e-5)  # the exact bound for 0 of 10
    ties = [Judgement(i, "a", "b", "tie") for i in range(10)]
    found = win_rate(ties, model="a", against="b").rate
    assert (found.mean, found.low, found.high) == pytest.approx((0.5, 0.1915, 0.8085), abs=5e-5)
    alone = win_rate(sweep[:1], model="a", against="b").rate
    assert (alone.low, alone.high) == pytest.approx((0.025, 1.0))


def test_the_interval_stays_between_nothing_and_all():
    rows = [Judgement(i, "a", "b", "first" if i else "tie") for i in range(12)]
    found = win_rate(rows, model="a", against="b").rate
    assert 0.7 < found.low < found.mean < found.high <= 1.0


@pytest.mark.parametrize(
    ("rows", "words"),
    [
        ([Judgement("p", "a", "b", None)], "all 1 judgements of 'a' against 'b' are unscored"),
        ([Judgement("p", "alpha", "b", "tie")], "'a' is in none"),
        ([Judgement("p", "a", "b", "left")], "verdict 'left' on prompt 'p' is unknown"),
        ([Judgement("p", "a", "a", "tie")], "compares 'a' with itself"),
        ([], "no judgement compares 'a' with 'b'"),
    ],
)
def test_bad_judgements_are_refused_in_a_sentence(rows, words: str):
    with pytest.raises(DataError, match=words):
        win_rate(rows, model="a", against="b")
