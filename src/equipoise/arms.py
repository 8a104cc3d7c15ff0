"""What the demo and the benchmarks compare: each method in the playground, on the same labels.

Every function trains its models with one seed and returns them as candidates for the page. `ARMS` is the table of
contents; the base, DPO on one aim alone and the method's own baselines come first.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence

from equipoise.bench import BETA, Bench, Candidate
from equipoise.constitutional import playground_iteralign
from equipoise.data.conditions import Budget, Conditions
from equipoise.dualized import Solved, cdpo_at, mocan_at, pecan_at
from equipoise.errors import SettingError, nearest
from equipoise.lagrangian import PPO, rounds_of
from equipoise.methods.align import Step, align, use
from equipoise.methods.bfpo import bfpo
from equipoise.methods.cpo import Controllable, cpo, for_imitation
from equipoise.methods.iteralign import Iterated
from equipoise.methods.modpo import modpo
from equipoise.methods.sacpo import Sacpo, naive_merge, sacpo
from equipoise.playground.oracle import Oracle, serving
from equipoise.playground.pool import Aim
from equipoise.playground.wanted import OBJECTIVES
from equipoise.types import Artefact

BETA_OVER_LAMBDA = (0.5, 0.25, 0.125)
MIX = (0.25, 0.5, 0.75)
TAU = 0.25  # for the same reason: .01 would ask for margins of 50 nats
BFPO_RATE, BFPO_RATE_PART = 3e-4, 1e-3  # of all layers, and of a part of them
WEIGHTS = (0.5, 0.3, 0.1)  # of helpfulness, in MODPO
TOP = {o.name: o.high for o in OBJECTIVES}
# Harm is asked for here, so that it can be measured whether the token does what it says.
CONDITIONS = Conditions(
    objectives=OBJECTIVES,
    # Everything asked for at any level, everything at its best, or one thing.
    budgets=(Budget(), Budget(control=TOP), *(Budget(control={o.name: None}) for o in OBJECTIVES)),
    untagged_top=0.5,
    ask_for_harm=True,
    partial=0.5,
)


TARGETS = (0.1, 0.02)  # unsafe rates that MoCAN is asked for
PECAN_MARGINS, CDPO_TARGET = (0.3, 0.6), 0.05
QUICK_RED_TEAM = 400  # prompts that IterAlign tries the base on in the demo
QUICK_PAIRS = 3000  # of each budget in the demo; the benchmark takes all there are


def single_aims(at: Bench) -> list[Candidate]:
    """The base, and DPO on one aim alone; `demo.pool_of` expects the base and the helpful model first."""
    return [
        Candidate("base", "base", {}, at.base),
        _dpo(at, "DPO helpful", "better", Aim(BETA, helpful=1, safe=0)),
        _dpo(at, "DPO safe", "safer", Aim(BETA, helpful=0, safe=1)),
    ]


def _dpo(at: Bench, label: str, prefer: str, aim: Aim) -> Candidate:
    return Candidate(label, "dpo", {"prefer": prefer, "beta": BETA}, align(at.base, at.step(prefer, BETA)), aim=aim)


def sacpo_arms(at: Bench) -> list[Candidate]:
    """SACPO over beta/lambda; P-SACPO over q, and naive merging, from the strongest setting."""
    helpful = at.step("better", BETA)
    strongest = min(BETA_OVER_LAMBDA)
    found = []
    for ratio in BETA_OVER_LAMBDA:
        model = sacpo(at.base, [helpful, at.step("safer", ratio)]).steps[-1]
        setting = {"beta": BETA, "beta/lambda": ratio}
        aim = Aim(BETA, helpful=1, safe=BETA / ratio)
        found.append(Candidate(f"SACPO β/λ {ratio:g}", "sacpo", setting, model, "SACPO", aim))
    mixed: Sacpo = sacpo(at.base, [helpful, at.step("safer", strongest)], mix=MIX)
    for q, model in mixed.merged.items():
        setting = {"q": q, "beta/lambda": strongest}
        aim = Aim(BETA, helpful=1, safe=q * BETA / strongest)
        found.append(Candidate(f"P-SACPO q {q:g}", "p-sacpo", setting, model, "P-SACPO", aim))
    for q, model in naive_merge(at.base, helpful, at.step("safer", BETA), mix=(0.5,)).items():
        found.append(Candidate(f"naive merge {q:g}", "naive-merge", {"q": q}, model, aim=Aim(BETA, 1 - q, q)))
    return found


def mixtures(at: Bench) -> list[Candidate]:
    """What BFPO is compared with besides single aims: imitation of the safer answers, DPO on both orders mixed."""
    mixed = Step(at.labels.mixture, use("dpo", beta=BETA), at.train, prefer="better")
    setting = {"prefer": "both", "beta": BETA}
    return [
        Candidate("SFT safer", "sft", {"choose": "safer"}, align(at.base, imitation(at))),
        Candidate("DPO mixture", "dpo", setting, align(at.base, mixed)),
    ]


def imitation(at: Bench) -> Step:
    """BFPO's first stage."""
    return Step(at.labels.pairs, use("sft"), at.train, choose="safer")


def bfpo_arms(at: Bench) -> list[Candidate]:
    """BFPO as its authors train it and in all layers, beside what they compare it with."""
    return [*mixtures(at), bfpo_arm(at, "BFPO"), bfpo_arm(at, "BFPO, all layers", layers=None)]


def bfpo_arm(
    at: Bench,
    label: str,
    *,
    alpha: float = 0.5,
    buffer: bool = True,
    layers: tuple[str, ...] | None = ("down_proj",),
    imitate: bool = True,
) -> Candidate:
    """BFPO on the risky pairs, the harmless ones being its buffer; the defaults are the authors' choices."""
    train = at.train.but(trainable=layers, learning_rate=BFPO_RATE_PART if layers else BFPO_RATE)
    step = Step(
        at.labels.risky,
        use("bfpo", tau=TAU, alpha=alpha),
        train,
        prefer="better",
        buffer=at.labels.harmless if buffer else None,
    )
    setting = {"tau": TAU, "alpha": alpha, "buffer": buffer, "layers": layers or "all", "imitate": imitate}
    return Candidate(label, "bfpo", setting, bfpo(at.base, step, sft=imitation(at) if imitate else None).aligned)


def modpo_arms(at: Bench, weights: Sequence[float] | None = None) -> list[Candidate]:
    """MODPO over the weight of helpfulness, the margin coming from DPO on safety."""
    step = Step(at.labels.pairs, use("modpo", beta=BETA), at.train, prefer="better")
    swept = modpo(at.base, at.step("safer", BETA), step, weights=weights or WEIGHTS)
    return [
        Candidate(f"MODPO w {w:g}", "modpo", {"beta": BETA, "weight": w}, model, "MODPO", Aim(BETA, w, 1 - w))
        for w, model in swept.weighted.items()
    ]


def safedpo_arms(at: Bench) -> list[Candidate]:
    """SafeDPO at its published offset."""
    step = Step(at.labels.pairs, use("safedpo", beta=BETA), at.train, prefer="better_if_safe")
    return [Candidate("SafeDPO", "safedpo", dict(step.objective.settings), align(at.base, step))]


def cpo_arms(at: Bench) -> list[Candidate]:
    """The controllable model asked for the best of everything, and for nothing."""
    quick = CONDITIONS.but(budgets=tuple(budget.but(pairs=QUICK_PAIRS) for budget in CONDITIONS.budgets))
    model = controllable(at, quick).cdpo
    setting = {"beta": at.cpo.beta}
    return [
        Candidate("CPO asked for the top", "cpo", {**setting, "asked": "top"}, model, condition=TOP),
        Candidate("CPO unasked", "cpo", {**setting, "asked": "nothing"}, model),
    ]


def controllable(at: Bench, conditions: Conditions = CONDITIONS) -> Controllable:
    """CPSFT and CDPO on the rated answers."""
    drawn = conditions.but(draw=at.cpo.draw)
    first = Step(at.labels.rated, use("sft"), at.train.but(**at.cpo.cpsft), conditions=for_imitation(drawn))
    second = Step(at.labels.rated, use("dpo", beta=at.cpo.beta), at.train.but(**at.cpo.cdpo), conditions=drawn)
    return cpo(at.reader, first, second)


def mocan_arms(at: Bench) -> list[Candidate]:
    """MoCAN with scorers learned from the labels, asked for several unsafe rates."""
    out = []
    for rate in TARGETS:
        setting = {"beta": BETA, "target": rate}
        out.append(Candidate(f"MoCAN {rate:.0%}", "mocan", setting, *_line("MoCAN", mocan_at(at, rate))))
    return out


def pecan_arms(at: Bench) -> list[Candidate]:
    """PeCAN asked for several rises of safety above the base."""
    return [
        Candidate(
            f"PeCAN margin {margin:g}", "pecan", {"beta": BETA, "margin": margin}, *_line("PeCAN", pecan_at(at, margin))
        )
        for margin in PECAN_MARGINS
    ]


def cdpo_arms(at: Bench) -> list[Candidate]:
    """C-DPO with scorers learned from the labels, moved towards one target."""
    setting = {"beta": BETA, "target": CDPO_TARGET}
    return [Candidate(f"C-DPO {CDPO_TARGET:.0%}", "cdpo", setting, *_line("C-DPO", cdpo_at(at, CDPO_TARGET)))]


def _line(name: str, found: Solved) -> tuple[Artefact, str, Aim]:
    return found.model, name, found.aim


def safe_rlhf_arms(at: Bench) -> list[Candidate]:
    """One round of Safe RLHF with models learned from the labels; the aim is what its last multiplier leads to."""
    (one,) = rounds_of(at, PPO)
    found = json.loads((one.policy.path / "training.json").read_text(encoding="utf-8"))
    setting = {"kl_coeff": PPO.kl_coeff, "target": PPO.unsafe_rate}
    aim = Aim(PPO.kl_coeff, helpful=1, safe=0, unsafe=found["multiplier"], true=True)
    return [Candidate("Safe RLHF", "safe_rlhf", setting, one.policy, aim=aim)]


def quick_iteralign(at: Bench) -> Iterated:
    """IterAlign with the playground's oracle, on fewer prompts than the benchmark's; it needs no labels."""
    seed = at.train.seed
    with serving(Oracle(seed)) as server:
        return playground_iteralign(at.base, at.world, server, seed=seed, count=QUICK_RED_TEAM, measure=20)


def iteralign_arms(at: Bench) -> list[Candidate]:
    """The model that it leaves."""
    found = quick_iteralign(at)
    assert isinstance(found.model, Artefact)
    return [Candidate("IterAlign", "iteralign", {"prompts": QUICK_RED_TEAM}, found.model)]


ARMS: Mapping[str, Callable[[Bench], list[Candidate]]] = {
    "sacpo": sacpo_arms,
    "bfpo": bfpo_arms,
    "cpo": cpo_arms,
    "modpo": modpo_arms,
    "safedpo": safedpo_arms,
    "mocan": mocan_arms,
    "pecan": pecan_arms,
    "cdpo": cdpo_arms,
    "safe_rlhf": safe_rlhf_arms,
    "iteralign": iteralign_arms,
}


def candidates(at: Bench, methods: Sequence[str] = ("sacpo",)) -> list[Candidate]:
    """Train everything that a comparison of methods shows, each model once."""
    check_methods(methods)
    return [*single_aims(at), *(arm for name in ARMS if name in methods for arm in ARMS[name](at))]


def named_methods(names: Sequence[str]) -> list[str]:
    """The methods that are meant by names, of which `all` is one."""
    return list(ARMS) if list(names) == ["all"] else list(names)


def check_methods(methods: Sequence[str]) -> None:
    """Refuse a method that the playground has no arm for."""
    if not methods:
        raise SettingError(f"name at least one method to compare: {', '.join(ARMS)}")
    for name in methods:
        if name not in ARMS:
            raise SettingError(f"method '{name}' is not one that the demo compares{nearest(name, (*ARMS, 'all'))}")
