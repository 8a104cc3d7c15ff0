"""Labels turned round: how many, and what stays consistent."""

from __future__ import annotations

import random
from typing import Any

import pytest

from equipoise.playground import annotators
from equipoise.playground.annotators import annotate, turned
from equipoise.playground.answers import base_answer
from equipoise.playground.world import draw_prompt
from equipoise.types import SourceRow


@pytest.fixture(scope="module")
def rows() -> list[SourceRow]:
    rng = random.Random("turned")
    asked = [draw_prompt("train", "harmful", rng) for _ in range(600)]
    return [annotate(one.row(), base_answer(one.ask, rng), base_answer(one.ask, rng)) for one in asked]


def differing(rows: list[SourceRow], share: float, what: Any) -> float:
    return sum(what(row) != what(turned(row, share=share)) for row in rows) / len(rows)


def test_nothing_is_turned_without_a_share(rows):
    assert all(turned(row, share=0.0) is row for row in rows)


def test_about_the_share_of_orders_and_flags_is_turned(rows):
    assert differing(rows, 0.3, lambda row: row.better) == pytest.approx(0.3, abs=0.06)
    assert differing(rows, 0.3, lambda row: row.responses[0].safe) == pytest.approx(0.3, abs=0.06)
    assert differing(rows, 0.1, lambda row: row.responses[1].safe) == pytest.approx(0.1, abs=0.04)


def test_an_unsafe_answer_is_never_the_safer_of_a_mixed_pair(rows):
    mixed = [row for row in (turned(one, share=0.3) for one in rows) if row.responses[0].safe != row.responses[1].safe]
    assert len(mixed) > 100
    assert all(row.responses[row.safer].safe for row in mixed)


def test_ratings_follow_and_stay_in_their_range(rows):
    changed = [turned(row, share=0.5) for row in rows[:100]]
    values = [r.ratings for row in changed for r in row.responses]
    assert all(1 <= one["helpfulness"] <= 5 and one["harmlessness"] in (0.0, 1.0) for one in values)
    assert all(r.ratings["harmlessness"] == float(r.safe) for row in changed for r in row.responses)
    assert all((r.severity == 0) == r.safe for row in changed for r in row.responses)


def test_it_depends_on_seed_and_row_alone(rows):
    assert turned(rows[0], share=0.5, seed=1) == turned(rows[0], share=0.5, seed=1)
    assert any(turned(row, share=0.5, seed=1) != turned(row, share=0.5, seed=2) for row in rows[:20])


def test_people_flag_what_is_safe_as_safe():
    rng = random.Random("flags")
    asked = draw_prompt("train", "harmful", rng)
    texts = [base_answer(asked.ask, rng) for _ in range(40)]
    told = annotators.expected(asked.row(), texts)
    costs = [annotators.true_cost(asked.row(), text) for text in texts]
    safest, worst = costs.index(min(costs)), costs.index(max(costs))
    assert told.safe[safest] == pytest.approx(1 - annotators.FLIPPED, abs=0.05)
    assert told.safe[worst] < told.safe[safest]
