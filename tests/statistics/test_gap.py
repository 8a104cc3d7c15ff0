"""The gap of a policy to its own optimum: the identity by hand, samples against enumeration, what labels teach."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.special import expit

from equipoise.errors import DataError, SettingError
from equipoise.statistics.gap import Answers, gap, population_scores, target_gap
from equipoise.statistics.optimum import Pool

REF, R, G = np.array([0.5, 0.3, 0.2]), np.array([1.0, 0.0, -1.0]), np.array([-1.0, 0.5, 1.0])


@pytest.fixture
def three() -> Pool:
    """Three answers, each as often as the reference gives it: means over the pool are exact."""
    answer = np.repeat([0, 1, 2], [5, 3, 2])
    return Pool(np.zeros(10), np.zeros(10), np.log(REF)[answer][:, None], R[answer], -G[answer], ["harmful"])


def test_the_identity_by_hand(three):
    f, beta = three.scores(0.7), 0.5
    other = np.array([0.2, 0.5, 0.3])
    answer = np.repeat([0, 1, 2], [2, 5, 3])
    own = Answers(np.zeros(10, dtype=np.int64), (R + 0.7 * G)[answer], np.log(other)[answer], np.log(REF)[answer])
    found = gap(three, f, own, beta=beta)
    assert beta * found.missing.mean == pytest.approx(0.194635, abs=1e-6)
    assert beta * found.whole.mean == pytest.approx(0.047738, abs=1e-6)
    assert found.value.mean == pytest.approx(0.194635 / 0.047738, abs=1e-4)
    rewarded = target_gap(three, f, three.scores(), beta=beta)
    assert beta * rewarded.missing.mean == pytest.approx(0.159149, abs=1e-6)
    assert found.value.low is None  # one prompt has no interval


def test_the_reference_is_one_and_the_optimum_zero(table, pool):
    f = pool.scores(0.7)
    reference = gap(pool, f, 0, beta=0.5)
    assert (reference.value.mean, reference.value.low, reference.value.high) == (1.0, 1.0, 1.0)
    star = table.optimum((table.reward - 0.7 * table.cost) / 0.5)
    generator = np.random.default_rng(4)
    answers = np.array([generator.choice(120, size=16, p=np.exp(p) / np.exp(p).sum()) for p in star])
    x = np.repeat(np.arange(150), 16)
    a = answers.ravel()
    own = Answers(x, (table.reward - 0.7 * table.cost)[x, a], star[x, a], table.ref[x, a])
    found = gap(pool, f, own, beta=0.5)
    assert found.value.mean == pytest.approx(0.0, abs=0.02)
    assert found.value.low < found.value.mean < found.value.high
    assert not found.thin
    assert target_gap(pool, f, f, beta=0.5).value.mean == pytest.approx(0.0, abs=1e-12)


@pytest.mark.parametrize("policy", [1, 2, 3])
def test_trained_policies_agree_with_enumeration(table, pool, policy: int):
    f = table.reward - 0.7 * table.cost
    star = table.optimum(f / 0.5)
    exact = table.kl(table.policies[policy], star) / table.kl(table.ref, star)
    found = gap(pool, pool.scores(0.7), policy, beta=0.5)
    assert found.value.mean == pytest.approx(exact, abs=0.08)
    assert found.value.low < exact < found.value.high
    assert found.missing.mean == pytest.approx(table.kl(table.policies[policy], star), abs=0.15)


def test_the_interval_covers_the_truth(make_table):
    table = make_table(3000, 60, seed=5)
    star = table.optimum((table.reward - 0.7 * table.cost) / 0.5)
    exact = table.kl(table.policies[3], star) / table.kl(table.ref, star)
    covered = 0
    for seed in range(60):
        generator = np.random.default_rng(seed)
        pool = table.sample(generator, (12, 0, 12, 12), generator.integers(1000, size=90) * 3 + np.arange(90) % 3)
        found = gap(pool, pool.scores(0.7), 2, beta=0.5).value
        covered += found.low <= exact <= found.high
    assert covered / 60 >= 0.85


def bradley_terry(scores):
    return lambda x, rows: expit(scores[rows][:, None] - scores[rows][None, :])


def test_bradley_terry_labels_give_their_utilities_back(pool):
    utilities = pool.scores(0.7)
    found = population_scores(pool, bradley_terry(utilities))
    away = found - utilities
    assert np.abs(away - (pool.sums(away) / pool.sizes)[pool.prompt]).max() < 1e-4
    weights = np.exp(pool.log_weights)
    assert np.abs(pool.sums(weights * found) / pool.sums(weights)).max() < 1e-6  # centred under the reference
    assert target_gap(pool, utilities, found, beta=0.5).value.mean == pytest.approx(0.0, abs=1e-6)


def test_other_annotators_teach_another_target(pool):
    utilities = pool.scores()

    def careless(x, rows):  # three labels in ten are a coin's
        return 0.7 * expit(utilities[rows][:, None] - utilities[rows][None, :]) + 0.15

    found = population_scores(pool, careless)
    part = target_gap(pool, utilities, found, beta=0.5)
    assert 0.02 < part.value.mean < 1.0
    spread = [np.std(s[pool.prompt == 0]) for s in (found, utilities)]
    assert spread[0] < spread[1]


def test_two_answers_by_hand():
    logps = np.log([[0.5], [0.5]])
    pair = Pool([0, 0], [0, 0], logps, [1.0, 0.0], [0.0, 0.0], ["benign"])
    found = population_scores(pair, lambda x, rows: np.array([[0.5, 0.8], [0.2, 0.5]]))
    assert found == pytest.approx([np.log(4) / 2, -np.log(4) / 2], abs=1e-5)


def test_labels_that_always_agree_stay_finite_and_in_order(pool):
    order = np.argsort(np.argsort(pool.reward)).astype(float)
    found = population_scores(pool, lambda x, rows: (np.sign(order[rows][:, None] - order[rows][None, :]) + 1) / 2)
    assert np.isfinite(found).all()
    for x in range(3):
        rows = np.flatnonzero(pool.prompt == x)
        assert (np.argsort(found[rows]) == np.argsort(order[rows])).all()


def test_bad_answers_and_labels_are_refused_in_a_sentence(pool, three):
    f = pool.scores()
    with pytest.raises(DataError, match="policies 0 to 3, got 4"):
        gap(pool, f, 4, beta=1.0)
    with pytest.raises(DataError, match="no answer to prompt 1"):
        gap(pool, f, Answers(np.array([0]), np.zeros(1), np.zeros(1), np.zeros(1)), beta=1.0)
    with pytest.raises(DataError, match="prompts 0 to 149, got 150"):
        gap(pool, f, Answers(np.array([150]), np.zeros(1), np.zeros(1), np.zeros(1)), beta=1.0)
    with pytest.raises(DataError, match="a finite score"):
        gap(pool, f, Answers(np.array([0]), np.array([np.nan]), np.zeros(1), np.zeros(1)), beta=1.0)
    with pytest.raises(DataError, match="no gap to close"):
        gap(three, np.zeros(10), 0, beta=1.0)
    with pytest.raises(SettingError, match="beta"):
        gap(three, three.scores(), 0, beta=-1.0)
    with pytest.raises(DataError, match=r"labels of prompt 0 must be \(10, 10\), got shape \(2, 2\)"):
        population_scores(three, lambda x, rows: np.full((2, 2), 0.5))
    with pytest.raises(DataError, match=r"P\[i, j\] \+ P\[j, i\] = 1, got 0.6 to 0.6, sums off by 0.2"):
        population_scores(three, lambda x, rows: np.full((10, 10), 0.6))
