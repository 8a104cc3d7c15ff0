"""SACPO's theory on a finite set of answers, through the library's own losses (METHODS G1-G4)."""

import numpy as np
import pytest
import torch

from equipoise.objectives import dpo
from equipoise.types import Pair

REF, R, G = np.array([0.5, 0.3, 0.2]), np.array([1.0, 0.0, -1.0]), np.array([-1.0, 0.5, 1.0])
BETA, LAMBDA = 0.5, 0.7


def gibbs(p, f):
    e = np.exp(np.log(p) + f - (np.log(p) + f).max())
    return e / e.sum()


def population(reference, preference, beta):
    """Minimize the library's DPO loss over all ordered pairs weighted by Bradley-Terry probabilities."""
    log_ref = torch.log(torch.tensor(reference))
    theta = log_ref.clone().requires_grad_()
    win = torch.sigmoid(torch.tensor(preference)[:, None] - torch.tensor(preference)[None, :]).flatten()
    first, second = (i.flatten() for i in torch.meshgrid(torch.arange(3), torch.arange(3), indexing="ij"))
    optimizer = torch.optim.LBFGS(
        [theta], max_iter=500, tolerance_grad=1e-12, tolerance_change=1e-14, line_search_fn="strong_wolfe"
    )

    def closure():
        optimizer.zero_grad()
        logps = torch.log_softmax(theta, 0)
        losses = dpo(Pair(logps[first], logps[second]), Pair(log_ref[first], log_ref[second]), beta=beta)
        loss = (win * losses).sum()
        loss.backward()
        return loss

    optimizer.step(closure)
    return torch.softmax(theta.detach(), 0).numpy()


def test_g1_closed_form():
    p = gibbs(REF, R / BETA)
    assert p == pytest.approx([0.918672, 0.074597, 0.006730], abs=1e-6)
    value = p @ R - BETA * (p * np.log(p / REF)).sum()
    assert value == pytest.approx(BETA * np.log((REF * np.exp(R / BETA)).sum()))


def test_g2_population_dpo_has_the_closed_form_optimum():
    assert population(REF, R, BETA) == pytest.approx(gibbs(REF, R / BETA), abs=1e-5)


def test_g3_two_steps_are_one_step():
    one = gibbs(REF, (R + LAMBDA * G) / BETA)
    assert one == pytest.approx([0.560670, 0.371782, 0.067548], abs=1e-6)
    first = population(REF, R, BETA)
    assert population(first, G, BETA / LAMBDA) == pytest.approx(one, abs=1e-4)
    swapped = population(population(REF, G, BETA / LAMBDA), R, BETA)
    assert swapped == pytest.approx(one, abs=1e-4)


def test_g3_the_two_usual_mistakes_give_other_policies():
    first = gibbs(REF, R / BETA)
    one = gibbs(REF, (R + LAMBDA * G) / BETA)
    wrong_beta = population(first, G, BETA)
    wrong_reference = population(REF, G, BETA / LAMBDA)
    assert wrong_beta == pytest.approx([0.329927, 0.538102, 0.131971], abs=1e-4)
    assert wrong_reference == pytest.approx([0.080144, 0.392681, 0.527175], abs=1e-4)
    assert min(abs(wrong_beta - one).max(), abs(wrong_reference - one).max()) > 0.1


def test_g3_normalizer_of_theorem_one():
    ratio = (REF * np.exp((R + LAMBDA * G) / BETA)).sum() / (REF * np.exp(R / BETA)).sum()
    assert ratio == pytest.approx(0.404055, abs=1e-6)
