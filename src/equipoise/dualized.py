"""The methods that solve for a multiplier, in the playground, with scorers learned from the labels."""

from __future__ import annotations

from dataclasses import replace
from typing import NamedTuple

from equipoise.bench import BETA, Bench
from equipoise.lagrangian import scorer_steps
from equipoise.methods.align import Step
from equipoise.methods.cdpo import MoveConfig, cdpo
from equipoise.methods.dualization import Scorers, mocan, pecan
from equipoise.methods.multiplier import DualConfig, Target, read_multiplier
from equipoise.methods.safe_rlhf import trained_scorer
from equipoise.playground.pool import Aim
from equipoise.solving import asked_of_base, sampled_as, target_question
from equipoise.types import Artefact

ANSWERS, PROMPTS = 64, 40  # of the base, to each of so many prompts of each kind, on which multipliers are solved
SOFT = {"num_train_epochs": 2, "learning_rate": 3e-4}  # labels from scores hold no noise: they are learned longer
ROUNDS, RATE = 3, 20.0  # of C-DPO; how far the multiplier moves per unit of unsafe rate
A_ROUND = {"num_train_epochs": 1, "learning_rate": 3e-4}  # its rounds begin anew, so that each costs a training
START = 1.0  # its first multiplier: the same for every target
OWN_ANSWERS = 4  # of each round's model, by which the multiplier moves


class Solved(NamedTuple):
    """A model and the optimum that its multiplier leads to."""

    model: Artefact
    aim: Aim


def learned(at: Bench) -> Scorers:
    """Reward and cost models learned from the bench's labels: Safe RLHF's."""
    steps = scorer_steps(at.labels, at.train)
    return Scorers(*(trained_scorer(at.base, steps[name]).use for name in ("reward", "cost")))


def mocan_at(at: Bench, target: float) -> Solved:
    """MoCAN asked for an unsafe rate."""
    seed = at.train.seed
    question = target_question(Target(unsafe_rate=target), beta=BETA, seed=seed)
    sampling = sampled_as(ANSWERS, seed=seed)
    made = mocan(at.base, _soft(at), asked_of_base(PROMPTS), learned(at), question, sampling=sampling)
    return Solved(made.aligned, Aim(BETA, helpful=1, safe=0, unsafe=_multiplier(made.multiplier)))


def pecan_at(at: Bench, margin: float) -> Solved:
    """PeCAN asked for a rise of safety above the base, in the logits that DPO taught."""
    seed = at.train.seed
    made = pecan(
        at.base,
        at.step("better", BETA),
        at.step("safer", BETA),
        _soft(at),
        asked_of_base(PROMPTS),
        DualConfig(beta=BETA, margin=margin, penalty="cost", seed=seed),
        sampling=sampled_as(ANSWERS, seed=seed),
    )
    return Solved(made.aligned, Aim(BETA, helpful=1, safe=_multiplier(made.multiplier)))


def cdpo_at(at: Bench, target: float) -> Solved:
    """C-DPO moved towards an unsafe rate, after its last round."""
    rounds = cdpo(
        at.base,
        replace(at.step("better", BETA), train=at.train.but(**A_ROUND)),
        asked_of_base(PROMPTS),
        learned(at),
        MoveConfig(rate=RATE, unsafe_rate=target, penalty="unsafe"),
        rounds=ROUNDS,
        start=START,
        sampling=sampled_as(OWN_ANSWERS, seed=at.train.seed),
    )
    return Solved(rounds[-1].aligned, Aim(BETA, helpful=1, safe=0, unsafe=_multiplier(rounds[-1].multiplier)))


def _soft(at: Bench) -> Step:
    return replace(at.step("better", BETA), train=at.train.but(**SOFT))


def _multiplier(found: Artefact) -> float:
    return float(read_multiplier(found)["multiplier"])
