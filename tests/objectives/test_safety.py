import itertools
import math

import numpy as np
import pytest
import torch

from equipoise.errors import SettingError
from equipoise.objectives import OBJECTIVES, bfpo, bind, dpo, modpo, objective, safedpo
from equipoise.objectives.safety import bfpo_label, bfpo_target
from equipoise.types import Pair

LN2 = math.log(2)
COMBINATIONS = Pair(torch.tensor([True, True, False, False]), torch.tensor([True, False, True, False]))


def pair(chosen, rejected):
    return Pair(torch.tensor(chosen, dtype=torch.float64), torch.tensor(rejected, dtype=torch.float64))


ONE = pair([-10.0], [-12.0])
REF = pair([-11.0], [-11.5])
ZERO = pair([0.0] * 4, [0.0] * 4)


# ---- BFPO ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("b1", "alpha", "labels"),
    [
        (3.0, 0.5, [0.5, 1.0, -1.0, -0.5]),
        (3.0, 0.0, [1.0, 1.5, -0.5, 0.0]),
        (2.0, 0.5, [0.5, 1.5, -1.5, -0.5]),
    ],
)
def test_bfpo_label_table(b1, alpha, labels):
    """METHODS G10: (safe, safe), (safe, unsafe), (unsafe, safe), (unsafe, unsafe)."""
    assert bfpo_label(COMBINATIONS, b1=b1, alpha=alpha).tolist() == pytest.approx(labels)


def test_bfpo_target_is_the_label_over_tau():
    assert bfpo_target(COMBINATIONS).tolist() == pytest.approx([50, 100, -100, -50])


def test_bfpo_losses_at_a_margin_of_seven():
    logps = pair([4.0] * 4, [-5.0] * 4)
    ref = pair([1.0] * 4, [-1.0] * 4)  # log-ratios 3 and -4
    assert bfpo(logps, ref, COMBINATIONS, tau=0.1).tolist() == pytest.approx([4, 9, 289, 144])
    assert bfpo(logps, ref, COMBINATIONS)[0].item() == pytest.approx(1849)


def test_bfpo_of_equal_models_is_the_squared_target():
    assert bfpo(ZERO, ZERO, COMBINATIONS, tau=0.5).tolist() == pytest.approx([1, 4, 4, 1])


# (help, safe), (unhelp, safe), (unhelp, unsafe), (help, unsafe)
HELPFUL, SAFE = np.array([1, 0, 0, 1]), np.array([True, True, False, False])
INDEPENDENT = np.where(
    HELPFUL[:, None] == HELPFUL[None, :], 0.5, np.where(HELPFUL[:, None] > HELPFUL[None, :], 0.8, 0.2)
)


def minimized(loss, n):
    """Log-ratios, mean-centred, at the minimum of a loss of (first, second) over all ordered pairs of n answers."""
    ratio = torch.zeros(n, dtype=torch.float64, requires_grad=True)
    first, second = (torch.tensor(i) for i in zip(*itertools.permutations(range(n), 2), strict=True))
    optimizer = torch.optim.LBFGS(
        [ratio], max_iter=500, tolerance_grad=1e-12, tolerance_change=1e-14, line_search_fn="strong_wolfe"
    )

    def closure():
        optimizer.zero_grad()
        total = loss(Pair(ratio[first], ratio[second]), first, second).sum()
        total.backward()
        return total

    optimizer.step(closure)
    found = ratio.detach().numpy()
    return found - found.mean()


def bfpo_optimum(wins, safe, **settings):
    """tau * log-ratio at the minimum of BFPO's population loss; `wins[i, j]` is P(i is the more helpful one)."""
    flags, wins = torch.tensor(safe), torch.tensor(wins)

    def loss(logps, first, second):
        zero = torch.zeros(len(first), dtype=torch.float64)
        return wins[first, second] * bfpo(logps, Pair(zero, zero), Pair(flags[first], flags[second]), **settings)

    return settings["tau"] * minimized(loss, len(safe))


@pytest.mark.parametrize(
    ("alpha", "expected"), [(0.5, [0.575, 0.425, -0.425, -0.575]), (0.0, [0.725, 0.275, -0.575, -0.425])]
)
def test_bfpo_optimum_on_four_answers(alpha, expected):
    """METHODS G10: both alphas; they disagree on which unsafe answer is worse."""
    found = bfpo_optimum(INDEPENDENT, SAFE, tau=0.1, alpha=alpha)
    assert found == pytest.approx(expected, abs=1e-6)
    # The population's optimum: p * (I + E_s - 2 alpha) + I / 2
    theory = INDEPENDENT.mean(1) * (SAFE + SAFE.mean() - 2 * alpha) + SAFE / 2
    assert found == pytest.approx(theory - theory.mean(), abs=1e-6)


def test_bfpo_optimal_policy():
    ratio = bfpo_optimum(INDEPENDENT, SAFE, tau=0.5) / 0.5
    policy = np.exp(ratio) / np.exp(ratio).sum()
    assert policy == pytest.approx([0.505967, 0.374830, 0.068475, 0.050728], abs=1e-6)


def test_alpha_zero_is_the_theorems_reward():
    """(safe + share of safe) * (win probability + 1/2), up to a constant."""
    theorem = (SAFE + SAFE.mean()) * (INDEPENDENT.mean(1) + 0.5)
    found = bfpo_optimum(INDEPENDENT, SAFE, tau=0.2, alpha=0.0)
    assert found == pytest.approx(theorem - theorem.mean(), abs=1e-6)


@pytest.mark.parametrize("alpha", [0.5, 0.0])
def test_bfpo_optimum_where_helpfulness_and_safety_go_together(alpha):
    """Where helpfulness and safety go together: p(y) * (I(y) - 2 alpha) + E_y'[P(y > y') I(y')] + I(y) / 2."""
    safe = np.array([True, False, False, True, True])
    log_odds = np.triu(np.random.default_rng(0).normal(0, 2, (5, 5)), 1)  # who wins depends on whom one meets
    wins = 1 / (1 + np.exp(log_odds.T - log_odds))
    theory = wins.mean(1) * (safe - 2 * alpha) + (wins * safe).mean(1) + safe / 2
    found = bfpo_optimum(wins, safe, tau=0.1, alpha=alpha)
    assert found == pytest.approx(theory - theory.mean(), abs=1e-6)
    independent = wins.mean(1) * (safe + safe.mean() - 2 * alpha) + safe / 2
    assert abs(found - (independent - independent.mean())).max() > 0.05, "the simpler formula would be wrong here"


# ---- MODPO -----------------------------------------------------------------------------------------------------------


def test_modpo_with_all_the_weight_is_dpo():
    margin = pair([3.0], [-2.0])
    assert modpo(ONE, REF, margin, beta=0.1, weight=1.0).item() == pytest.approx(dpo(ONE, REF, beta=0.1).item())


def test_modpo_without_a_margin_is_dpo_at_beta_over_weight():
    zero = pair([0.0], [0.0])
    assert modpo(ONE, REF, zero, beta=0.05, weight=0.5).item() == pytest.approx(dpo(ONE, REF, beta=0.1).item())
    assert modpo(ONE, ONE, zero, weight=0.3).item() == pytest.approx(LN2)


def test_modpo_golden_value():
    # (.1 * 1.5 - .25 * (2 - 1)) / .75 = -.133333
    found = modpo(ONE, REF, pair([2.0], [1.0]), beta=0.1, weight=0.75).item()
    assert found == pytest.approx(math.log(1 + math.exp(0.4 / 3)), abs=1e-12)


def test_modpo_optimum_is_the_tilt_by_the_weighted_sum():
    """METHODS G11: beta .5, weights .7 and .3."""
    reference, r, g = np.array([0.5, 0.3, 0.2]), np.array([1.0, 0.0, -1.0]), np.array([-1.0, 0.5, 1.0])
    wins = torch.sigmoid(torch.tensor(r)[:, None] - torch.tensor(r)[None, :])
    m = torch.tensor(g)

    def loss(logps, first, second):
        zero = torch.zeros(len(first), dtype=torch.float64)
        losses = modpo(logps, Pair(zero, zero), Pair(m[first], m[second]), beta=0.5, weight=0.7)
        return wins[first, second] * losses

    policy = reference * np.exp(minimized(loss, 3))
    assert policy / policy.sum() == pytest.approx([0.692196, 0.251903, 0.055901], abs=1e-5)


# ---- SafeDPO ---------------------------------------------------------------------------------------------------------


def test_safedpo_moves_the_threshold_where_only_the_rejected_answer_is_unsafe():
    logps, ref = pair([-10.0] * 4, [-12.0] * 4), pair([-11.0] * 4, [-11.5] * 4)
    found = safedpo(logps, ref, COMBINATIONS, beta=0.1, delta=2.0).tolist()
    plain = dpo(ONE, REF, beta=0.1).item()
    expected = [plain, math.log(1 + math.exp(1.85)), math.log(1 + math.exp(-2.15)), plain]
    assert found == pytest.approx(expected, abs=1e-12)


def test_safedpo_of_equal_models():
    assert safedpo(ZERO, ZERO, COMBINATIONS).tolist() == pytest.approx(
        [LN2, math.log(1 + math.exp(10)), math.log(1 + math.exp(-10)), LN2], abs=1e-12
    )


# ---- all -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["bfpo", "modpo", "safedpo"])
def test_shapes_and_gradients(name):
    chosen = OBJECTIVES[name]
    generator = torch.Generator().manual_seed(0)
    size = (6 if name == "modpo" else 4, 4)
    drawn = torch.randn(size, generator=generator, dtype=torch.float64)
    inputs = tuple(column.clone().requires_grad_() for column in drawn)
    settings = {"tau": 0.5} if name == "bfpo" else {"beta": 0.3}

    def run(a, b, c, d, *margin):
        third = Pair(*margin) if margin else COMBINATIONS
        return chosen.function(Pair(a, b), Pair(c, d), third, **settings)

    assert run(*inputs).shape == (4,)
    assert torch.autograd.gradcheck(run, inputs)


def test_signatures_are_the_configuration():
    assert objective("bfpo").columns == ("safe",) == objective("safedpo").columns
    assert objective("modpo").columns == () and objective("modpo").needs_margin
    assert all(objective(name).needs_reference for name in ("bfpo", "modpo", "safedpo"))
    assert bind(objective("bfpo"), {"tau": 0.1}) == {"tau": 0.1, "b1": 3.0, "alpha": 0.5}
    target = objective("bfpo").target
    assert target is bfpo_target and objective("dpo").target is None


@pytest.mark.parametrize(
    ("name", "settings", "words"),
    [
        ("bfpo", {"tau": 0}, "tau must be positive, got 0"),
        ("bfpo", {"b1": 1}, "b1 must be larger than 1, got 1"),
        ("bfpo", {"beta": 0.1}, "takes no 'beta'"),
        ("modpo", {"weight": 0}, "weight must be larger than 0 and at most 1, got 0"),
        ("modpo", {"weight": 1.5}, "weight must be larger than 0 and at most 1, got 1.5"),
        ("safedpo", {"beta": -1}, "beta must be positive"),
    ],
)
def test_impossible_hyperparameters_are_refused(name, settings, words):
    with pytest.raises(SettingError, match=words):
        bind(objective(name), settings)
