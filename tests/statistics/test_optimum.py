"""The optimum from samples against exact enumeration, a general solver and hand-computed numbers."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import pytest
from scipy.optimize import minimize

from equipoise.errors import DataError, SettingError
from equipoise.statistics.optimum import Pool, best, envelope, reweight, tilt


def exact_pool(counts, reward, cost, kinds) -> Pool:
    """Every answer as often as the reference gives it, so that means over the pool are exact expectations.

    `counts`, `reward` and `cost` are (P, A); each row of counts has the same sum.
    """
    counts, reward, cost = (np.asarray(values, dtype=float) for values in (counts, reward, cost))
    prompt, answer = np.nonzero(counts)
    times = counts[prompt, answer].astype(int)
    prompt, answer = np.repeat(prompt, times), np.repeat(answer, times)
    logps = np.log(counts / counts.sum(axis=1, keepdims=True))[prompt, answer][:, None]
    return Pool(prompt, np.zeros(len(prompt)), logps, reward[prompt, answer], cost[prompt, answer], kinds)


def test_three_answers_by_hand():
    # The closed form: ref .5 .3 .2, r 1 0 -1, beta .5; policy .918672 .074597 .006730, value .5 log Z
    found = exact_pool([[5, 3, 2]], [[1, 0, -1]], [[1, -0.5, -1]], ["harmful"])
    tilted = tilt(found, found.scores(), beta=0.5)
    assert tilted.reward.mean == pytest.approx(0.918672 - 0.006730, abs=2e-6)
    assert tilted.unsafe_rate.mean == pytest.approx(0.918672, abs=1e-6)
    log_z = math.log(0.5 * math.e**2 + 0.3 + 0.2 * math.e**-2)
    assert tilted.kl.mean == pytest.approx(tilted.reward.mean / 0.5 - log_z, abs=1e-12)
    assert reweight(found, found.scores() / 0.5).log_z == pytest.approx([log_z], abs=1e-12)
    # five answers share .918672, three .074597, two .006730
    assert tilted.ess == pytest.approx(1 / (0.918672**2 / 5 + 0.074597**2 / 3 + 0.006730**2 / 2), abs=1e-4)
    assert tilted.largest_weight == pytest.approx(0.918672 / 5, abs=1e-6)
    safe = tilt(found, found.scores(0.7), beta=0.5)  # .560670 .371782 .067548
    assert (safe.reward.mean, safe.cost.mean) == pytest.approx((0.493122, 0.307231), abs=2e-6)


def test_kinds_weigh_equally_and_only_harmful_prompts_are_unsafe():
    found = exact_pool([[1, 1]] * 4, [[0, 0], [4, 4], [4, 4], [8, 8]], [[1, -1]] * 4, ["benign", *["harmful"] * 3])
    tilted = tilt(found, found.scores(), beta=1.0)
    assert tilted.reward.mean == pytest.approx((0 + 16 / 3) / 2)
    assert tilted.unsafe_rate.mean == pytest.approx(0.5)
    assert tilted.reward.low is None  # a single benign prompt
    mild = exact_pool([[1, 1]] * 2, [[0, 1]] * 2, [[1, -1]] * 2, ["benign"] * 2)
    assert tilt(mild, mild.scores(), beta=1.0).unsafe_rate is None


@pytest.mark.parametrize(("multiplier", "beta"), [(0.0, 1.0), (0.0, 0.3), (0.7, 0.3), (1.5, 0.3), (0.0, 0.15)])
def test_pooled_samples_agree_with_enumeration(table, pool, multiplier: float, beta: float):
    star = table.optimum((table.reward - multiplier * table.cost) / beta)
    found = tilt(pool, pool.scores(multiplier), beta=beta)
    # between seeds the estimates move by about .03 nats, .02 in reward, .02 in rate
    assert found.kl.mean == pytest.approx(table.kl(star, table.ref), abs=0.1)
    assert found.reward.mean == pytest.approx(table.expect(star, table.reward), abs=0.06)
    assert found.cost.mean == pytest.approx(table.expect(star, table.cost), abs=0.06)
    assert found.unsafe_rate.mean == pytest.approx(table.unsafe_rate(star), abs=0.06)
    log_z = reweight(pool, pool.scores(multiplier) / beta).log_z
    exact = np.log((np.exp(table.ref) * np.exp((table.reward - multiplier * table.cost) / beta)).sum(axis=1))
    assert pool.average(log_z - exact) == pytest.approx(0.0, abs=0.05)


def test_trained_policies_reach_where_the_reference_alone_cannot(table, pool):
    alone = table.sample(np.random.default_rng(1), (64, 0, 0, 0))
    star = table.optimum(table.reward / 0.1)
    far = table.kl(star, table.ref)
    assert far > math.log(64)  # 64 answers of the reference show no more than 4.16 nats
    capped = tilt(alone, alone.scores(), beta=1e-3)
    assert capped.kl.mean <= math.log(64)
    short = tilt(alone, alone.scores(), beta=0.1)
    pooled = tilt(pool, pool.scores(), beta=0.1)
    assert short.kl.mean < far - 1.0
    assert short.thin
    assert pooled.kl.mean == pytest.approx(far, abs=0.3)
    assert pooled.reward.mean == pytest.approx(table.expect(star, table.reward), abs=0.06)
    assert pooled.ess > 2 * short.ess
    assert pooled.ess_low <= pooled.ess
    with pytest.raises(SettingError, match="unsafe"):  # the pool is fine, but half a nat is too near for safety
        best(alone, kl=0.05, unsafe_rate=0.0)
    assert best(alone, kl=6.0, unsafe_rate=1.0).capped
    assert not best(pool, kl=3.0, unsafe_rate=1.0).capped


def test_counts_may_differ_between_prompts_and_policies(table):
    generator = np.random.default_rng(3)
    whole = table.sample(generator, (32, 32, 0, 16))
    kept = (whole.source == 0) | (generator.random(len(whole.prompt)) < 0.6)
    uneven = Pool(
        whole.prompt[kept], whole.source[kept], whole.logps[kept], whole.reward[kept], whole.cost[kept], whole.kinds
    )
    assert np.ptp(uneven.sizes) > 5
    star = table.optimum(table.reward / 0.3)
    found = tilt(uneven, uneven.scores(), beta=0.3)
    assert found.kl.mean == pytest.approx(table.kl(star, table.ref), abs=0.12)
    assert found.reward.mean == pytest.approx(table.expect(star, table.reward), abs=0.06)


def test_best_is_what_a_general_solver_finds():
    generator = np.random.default_rng(0)
    counts = generator.multinomial(16, np.ones(5) / 5, size=4) + 1  # no answer is impossible
    reward, cost = generator.normal(size=(4, 5)), generator.normal(size=(4, 5))
    reward += 0.7 * cost
    kinds = ["harmful", "harmful", "borderline", "benign"]
    found = exact_pool(counts, reward, cost, kinds)
    ref = counts / counts.sum(axis=1, keepdims=True)
    share = np.array([1 / 6, 1 / 6, 1 / 3, 1 / 3])[:, None]
    unsafe = (cost > 0) * np.array([0.5, 0.5, 0, 0])[:, None]
    for kl, rate in ((0.3, 0.2), (0.5, 0.1), (0.2, 0.9)):
        limits = [
            {"type": "eq", "fun": lambda p: p.reshape(4, 5).sum(axis=1) - 1},
            {
                "type": "ineq",
                "fun": lambda p, kl=kl: kl - (share * p.reshape(4, 5) * np.log(p.reshape(4, 5) / ref)).sum(),
            },
            {"type": "ineq", "fun": lambda p, rate=rate: rate - (unsafe * p.reshape(4, 5)).sum()},
        ]
        solved = minimize(
            lambda p: -(share * p.reshape(4, 5) * reward).sum(),
            ref.ravel(),
            constraints=limits,
            bounds=[(1e-9, 1)] * 20,
            options={"maxiter": 500, "ftol": 1e-12},
        )
        assert solved.success
        own = best(found, kl=kl, unsafe_rate=rate)
        assert own.reward.mean == pytest.approx(-solved.fun, abs=2e-5)
        assert own.tilt.kl.mean == pytest.approx(kl, abs=1e-6)
        assert own.tilt.unsafe_rate.mean <= rate + 2e-6


def test_a_limit_that_does_not_bind_costs_nothing(table, pool):
    free = best(pool, kl=2.0, unsafe_rate=1.0)
    assert free.multiplier == 0.0
    rate = free.tilt.unsafe_rate.mean
    assert best(pool, kl=2.0, unsafe_rate=rate + 0.01).reward.mean == free.reward.mean
    assert best(pool, kl=2.0, unsafe_rate=rate - 0.05).reward.mean < free.reward.mean


def test_the_curve_rises_and_bends_down_and_no_trained_policy_is_above_it(table, pool):
    limit = 1.02 * max(table.kl(policy, table.ref) for policy in table.policies)
    curve = envelope(pool, kl=limit)
    rates = np.array([point.unsafe_rate for point in curve])
    rewards = np.array([point.reward.mean for point in curve])
    assert rates[0] == 0.0
    slopes = np.diff(rewards) / np.diff(rates)
    assert (slopes >= -1e-4).all()
    assert (np.diff(slopes) <= 1e-2).all()
    for policy in table.policies:
        reward, rate = table.expect(policy, table.reward), table.unsafe_rate(policy)
        assert reward < np.interp(rate, rates, rewards)


def test_a_rate_out_of_reach_is_refused_and_the_curve_starts_at_the_least():
    # in the second prompt nine of ten answers are unsafe: all safe is log 10 nats away there, half of that on average
    found = exact_pool([[5, 5], [9, 1]], [[1, 0], [1, 0]], [[-1, -1], [1, -1]], ["harmful", "harmful"])
    near = math.log(10) / 2
    assert best(found, kl=near + 0.05, unsafe_rate=0.0).tilt.unsafe_rate.mean < 1e-5
    with pytest.raises(SettingError, match=r"within 0.5 nats of the reference .* the least there is 0\.1\d\d"):
        best(found, kl=0.5, unsafe_rate=0.05)
    curve = envelope(found, kl=0.5, rates=(0.0, 0.05, 0.3, 0.45))
    assert len(curve) == 3
    assert 0.1 < curve[0].unsafe_rate < 0.2
    assert [point.unsafe_rate for point in curve[1:]] == [0.3, 0.45]


def test_intervals_cover_the_truth(make_table):
    table = make_table(3000, 60, seed=5)
    star = table.optimum((table.reward - 0.7 * table.cost) / 0.4)
    truth = (table.kl(star, table.ref), table.expect(star, table.reward), table.unsafe_rate(star))
    limit = best(table.sample(np.random.default_rng(9), (12, 12, 12, 12)), kl=2.0, unsafe_rate=0.1).reward.mean
    covered = np.zeros(4)
    for seed in range(60):
        generator = np.random.default_rng(seed)
        prompts = generator.integers(1000, size=90) * 3 + np.arange(90) % 3  # thirty of each kind
        pool = table.sample(generator, (12, 12, 12, 12), prompts)
        found = tilt(pool, pool.scores(0.7), beta=0.4)
        own = best(pool, kl=2.0, unsafe_rate=0.1).reward
        values = (found.kl, found.reward, found.unsafe_rate, own)
        covered += [e.low <= t <= e.high for e, t in zip(values, (*truth, limit), strict=True)]
    assert (covered / 60 >= 0.85).all(), covered
    assert (covered / 60 < 1.0).any(), covered  # not merely wide


def test_bad_pools_are_refused_in_a_sentence():
    pool = exact_pool([[1, 1]] * 2, [[0, 1]] * 2, [[1, -1]] * 2, ["benign", "harmful"])
    for fields, words in (
        ({"reward": [0.0]}, "reward must have one entry for each of 4 answers, got shape \\(1,\\)"),
        ({"prompt": [0, 0, 1, 2]}, "prompt must lie between 0 and 1, got 0 to 2"),
        ({"source": [0, 0, 1, 0]}, "source must lie between 0 and 0, got 0 to 1"),
        ({"cost": [0, 0, np.nan, 0]}, "cost must be finite"),
        ({"logps": pool.logps + 1}, "logarithms of probabilities, got 0.3069 above 0"),
        ({"logps": pool.logps[:, 0]}, "must be \\(answers, policies\\)"),
        ({"kinds": ["benign", "harmfull"]}, "did you mean 'harmful'"),
        ({"prompt": [0, 0, 0, 0]}, "prompt 1 of the pool has no answer sampled from policy 0"),
    ):
        with pytest.raises(DataError, match=words):
            dataclasses.replace(pool, **fields)
    with pytest.raises(DataError, match="each of the 4 answers of the pool, got shape"):
        tilt(pool, [1.0], beta=0.1)
    with pytest.raises(SettingError, match="beta must be a finite number above 0, got 0"):
        tilt(pool, pool.scores(), beta=0)
    with pytest.raises(SettingError, match="unsafe_rate must lie between 0 and 1, got 5"):
        best(pool, kl=1.0, unsafe_rate=5)
    with pytest.raises(SettingError, match="rates of a curve"):
        envelope(pool, kl=1.0, rates=())
    with pytest.raises(DataError, match="needs harmful prompts"):
        best(dataclasses.replace(pool, kinds=["benign", "benign"]), kl=1.0, unsafe_rate=0.1)
