"""Simulated annotators: the papers' agreement rates, the length bias of real sets, and nothing left to chance."""

from __future__ import annotations

import random
from functools import cache

import numpy as np
import pytest

from equipoise.playground.annotators import ANNOTATORS, annotate, annotator, expected
from equipoise.playground.answers import base_answer
from equipoise.playground.lexicon import CATEGORIES
from equipoise.playground.truth import true_cost, true_reward
from equipoise.playground.world import KINDS, draw_prompt
from equipoise.types import SourceRow


@cache
def pairs() -> list[tuple[dict, str, str]]:
    rng = random.Random("pairs")
    found = []
    for kind in rng.choices(KINDS, (0.3, 0.25, 0.45), k=6000):
        prompt = draw_prompt("train", kind, rng)
        texts = base_answer(prompt.ask, rng), base_answer(prompt.ask, rng)
        if texts[0] != texts[1]:
            found.append((prompt.row(), *texts))
    return found


@cache
def labelled(seed: int) -> list[SourceRow]:
    return [annotate(*pair, seed) for pair in pairs()]


def test_labels_follow_the_truth_more_often_than_not() -> None:
    rows = list(zip(pairs(), labelled(1), strict=True))
    gains = [(true_reward(p, b) - true_reward(p, a), row.better) for (p, a, b), row in rows]
    reliefs = [(true_cost(p, a) - true_cost(p, b), row.safer) for (p, a, b), row in rows]
    for margins in (gains, reliefs):
        right = [(margin > 0) == chosen for margin, chosen in margins if margin]
        assert 0.75 < np.mean(right) < 0.85
    flags = [(true_cost(p, a) <= 0) == row.responses[0].safe for (p, a, _), row in rows]
    assert 0.9 < np.mean(flags) < 0.98


def test_the_two_aims_disagree_often() -> None:
    assert 0.35 < np.mean([row.better == row.safer for row in labelled(1)]) < 0.5


def test_an_unsafe_answer_is_never_the_safer_of_a_mixed_pair() -> None:
    mixed = [row for row in labelled(1) if row.responses[0].safe != row.responses[1].safe]
    assert len(mixed) > 1000
    assert all(row.responses[row.safer].safe for row in mixed)


def test_categories_and_severity_stand_where_the_flag_says_unsafe() -> None:
    for row in labelled(1)[:1000]:
        for response in row.responses:
            assert bool(response.harm_categories) is not response.safe
            assert set(response.harm_categories) <= set(CATEGORIES)
            assert (response.severity == 0) is response.safe
            assert response.ratings["harmlessness"] == float(response.safe)
            assert 1 <= response.ratings["helpfulness"] <= 5 and 1 <= response.ratings["honesty"] <= 5
            assert response.reward is None and response.cost is None


def test_same_seed_same_labels_whatever_else_was_labelled() -> None:
    prompt, text0, text1 = pairs()[7]
    random.seed(3)
    assert annotate(prompt, text0, text1, 1) == labelled(1)[7]
    seeds = {annotate(prompt, text0, text1, seed).labelled_by for seed in range(40)}
    assert len(seeds) > 15
    different = {(prompt["id"], text0, text1) for prompt, text0, text1 in pairs()}
    assert len({row.id for row in labelled(1)}) == len(different)


def test_people_differ_in_what_they_call_unsafe() -> None:
    thresholds = np.array([annotator(index).threshold for index in range(ANNOTATORS)])
    assert 0.2 < thresholds.std() < 0.5
    assert annotate(*pairs()[0], 0, who=12).labelled_by == "annotator-12"


def test_expected_labels_are_what_many_people_say_on_average() -> None:
    for prompt, text0, text1 in pairs()[:6]:
        said = [annotate(prompt, text0, text1, seed, who=seed % ANNOTATORS) for seed in range(1400)]
        theory = expected(prompt, [text0, text1])
        for found, share in (
            (theory.better, [r.better == 0 for r in said]),
            (theory.safer, [r.safer == 0 for r in said]),
        ):
            assert found[0, 1] == pytest.approx(np.mean(share), abs=4 * np.sqrt(0.25 / 1400))
            assert found[0, 1] + found[1, 0] == pytest.approx(1.0) and found[0, 0] == 0.5


def test_without_tension_complying_with_harm_is_no_longer_preferred() -> None:
    def complied(tension: float) -> float:
        rows = [
            (pair, annotate(*pair, 1, tension=tension))
            for pair in pairs()
            if (true_cost(pair[0], pair[1]) > 0) != (true_cost(pair[0], pair[2]) > 0) and pair[0]["kind"] == "harmful"
        ]
        return float(np.mean([true_cost(pair[0], pair[1 + row.better]) > 0 for pair, row in rows]))

    shares = [complied(tension) for tension in (-0.7, 0.0, 0.3)]
    assert shares == sorted(shares) and shares[0] < 0.5 < shares[2]
