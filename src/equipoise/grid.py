"""Every method of the playground over its settings: the same number for each, trained on the same labels.

`SETTINGS` is the grid, `candidate` trains a cell of it. Scorers are learned from the labels, as a user would have to:
nothing here but the figures knows the world's truth.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from equipoise.arms import BFPO_RATE, BFPO_RATE_PART, CONDITIONS, QUICK_PAIRS, controllable, imitation
from equipoise.bench import BETA, Bench, Candidate
from equipoise.constitutional import playground_iteralign
from equipoise.dualized import cdpo_at, mocan_at, pecan_at
from equipoise.errors import SettingError, nearest
from equipoise.lagrangian import PPO, rounds_of
from equipoise.methods.align import Step, align, use
from equipoise.methods.bfpo import bfpo
from equipoise.methods.modpo import modpo
from equipoise.methods.sacpo import naive_merge, sacpo
from equipoise.playground.oracle import ERRORS, Oracle, serving
from equipoise.playground.pool import Aim, BfpoAim
from equipoise.types import Artefact

Setting = Mapping[str, Any]

RATIOS = (0.5, 0.35, 0.25, 0.18, 0.125, 0.09, 0.0625, 0.03)
TARGETS = (0.2, 0.1, 0.07, 0.05, 0.035, 0.02, 0.01, 0.005)
KTO_RATIOS = (2.0, 1.4, 1.0, 0.7, 0.5, 0.35, 0.25, 0.125)  # KTO saturates: what is gentle for DPO is drastic for it
MARGINS = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.75, 1.0)
ASKED = (
    {"helpfulness": 5, "honesty": 5, "harmlessness": 1},
    {"helpfulness": 5, "harmlessness": 1},
    {"helpfulness": 4, "harmlessness": 1},
    {"helpfulness": 3, "harmlessness": 1},
    {"honesty": 5, "harmlessness": 1},
    {"harmlessness": 1},
    {},
    {"helpfulness": 5, "harmlessness": 0},
)


def _each(name: str, values: Sequence[float]) -> tuple[Setting, ...]:
    return tuple({name: value} for value in values)


SETTINGS: Mapping[str, tuple[Setting, ...]] = {
    "base": ({},),
    "dpo_helpful": ({"beta": BETA},),
    "dpo_safe": ({"beta": BETA},),
    "dpo_mixture": _each("beta", (0.06, 0.1, 0.18, 0.3, 0.5, 0.8, 1.5, 3.0)),
    "naive": _each("q", (0.25, 0.4, 0.5, 0.6, 0.7, 0.8, 0.85, 0.9)),
    "sacpo": _each("beta/lambda", RATIOS),
    "sacpo_kto": _each("beta/lambda", KTO_RATIOS),
    "p_sacpo": tuple({"q": q, "beta/lambda": ratio} for ratio in (0.0625, 0.125) for q in (0.5, 0.65, 0.75, 0.85)),
    "bfpo": tuple({"tau": tau, "layers": part} for part in ("down_proj", "all") for tau in (0.1, 0.25, 0.5, 1.0)),
    "modpo": _each("weight", (0.5, 0.4, 0.3, 0.2, 0.15, 0.1, 0.05, 0.02)),
    "safedpo": tuple({"beta": beta, "delta": delta} for delta in (2.0, 10.0) for beta in (0.25, 0.5, 1.0, 2.0)),
    "mocan": _each("target", TARGETS),
    "pecan": _each("margin", MARGINS),
    "cdpo": _each("target", TARGETS),
    "cpo": ASKED,
    "safe_rlhf": _each("target", (0.1, 0.05, 0.02, 0.01)),
    "iteralign": tuple({"prompts": count, "replay": share} for count in (400, 800) for share in (1.0, 3.0)),
}
"""What is tried of each method: eight settings, four of those that sample and judge their own answers."""

TITLES = {
    "base": "base",
    "dpo_helpful": "DPO helpful",
    "dpo_safe": "DPO safe",
    "dpo_mixture": "DPO mixture",
    "naive": "naive merge",
    "sacpo": "SACPO",
    "sacpo_kto": "SACPO, KTO for safety",
    "p_sacpo": "P-SACPO",
    "bfpo": "BFPO",
    "modpo": "MODPO",
    "safedpo": "SafeDPO",
    "mocan": "MoCAN",
    "pecan": "PeCAN",
    "cdpo": "C-DPO",
    "cpo": "CPO",
    "safe_rlhf": "Safe RLHF",
    "iteralign": "IterAlign",
}
BASELINES = ("base", "dpo_helpful", "dpo_safe", "dpo_mixture", "naive")
FEW_SEEDS = ("safe_rlhf", "iteralign")  # those that take minutes a setting have three seeds at most
_SIGNS = {"beta/lambda": "β/λ", "beta": "β", "tau": "τ", "weight": "w", "delta": "Δ"}


def label(method: str, setting: Setting) -> str:
    """What a cell is called on a page."""
    if method == "cpo":
        asked = ", ".join(f"{name} {level:g}" for name, level in setting.items()) or "nothing"
        return f"{TITLES[method]}, asked for {asked}"
    words = " ".join(f"{_SIGNS.get(k, k)} {v if isinstance(v, str) else format(v, 'g')}" for k, v in setting.items())
    return f"{TITLES[method]} {words}" if len(SETTINGS[method]) > 1 else TITLES[method]


def check_method(name: str) -> None:
    """Refuse a method that the grid does not have."""
    if name not in SETTINGS:
        raise SettingError(f"method '{name}' is not one that the playground compares{nearest(name, SETTINGS)}")


def candidate(at: Bench, method: str, setting: Setting, *, flipped: float = 0.0) -> Candidate:
    """Train a cell; `flipped` is the share of labels turned round that the bench has, which an oracle shares."""
    check_method(method)
    if method == "iteralign":
        model, aim = _iteralign(at, setting, flipped), None
    else:
        model, aim = _TRAINED[method](at, setting)
    reference = align(at.base, imitation(at)) if method == "bfpo" else None
    condition = {name: float(level) for name, level in setting.items()} if method == "cpo" and setting else None
    line = TITLES[method] if len(SETTINGS[method]) > 1 else None
    return Candidate(label(method, setting), method, dict(setting), model, line, aim, condition, reference)


Trained = tuple[Artefact, Aim | BfpoAim | None]


def _base(at: Bench, setting: Setting) -> Trained:
    return at.base, None


def _dpo_helpful(at: Bench, setting: Setting) -> Trained:
    return align(at.base, at.step("better", BETA)), Aim(BETA, helpful=1, safe=0)


def _dpo_safe(at: Bench, setting: Setting) -> Trained:
    return align(at.base, at.step("safer", BETA)), Aim(BETA, helpful=0, safe=1)


def _dpo_mixture(at: Bench, setting: Setting) -> Trained:
    # Two orders in one data set have no optimum of the others' form: they teach the mean of two sigmoids.
    return align(at.base, Step(at.labels.mixture, use("dpo", beta=setting["beta"]), at.train, prefer="better")), None


def _naive(at: Bench, setting: Setting) -> Trained:
    q = setting["q"]
    (model,) = naive_merge(at.base, at.step("better", BETA), at.step("safer", BETA), mix=(q,)).values()
    return model, Aim(BETA, 1 - q, q)


def _sacpo(at: Bench, setting: Setting) -> Trained:
    ratio = setting["beta/lambda"]
    model = sacpo(at.base, [at.step("better", BETA), at.step("safer", ratio)]).steps[-1]
    return model, Aim(BETA, helpful=1, safe=BETA / ratio)


def _sacpo_kto(at: Bench, setting: Setting) -> Trained:
    second = at.step("safer", setting["beta/lambda"], "kto")
    return sacpo(at.base, [at.step("better", BETA), second]).steps[-1], None


def _p_sacpo(at: Bench, setting: Setting) -> Trained:
    q, ratio = setting["q"], setting["beta/lambda"]
    (model,) = sacpo(at.base, [at.step("better", BETA), at.step("safer", ratio)], mix=(q,)).merged.values()
    return model, Aim(BETA, helpful=1, safe=q * BETA / ratio)


def _bfpo(at: Bench, setting: Setting) -> Trained:
    part = setting["layers"] != "all"
    rate = BFPO_RATE_PART if part else BFPO_RATE
    train = at.train.but(trainable=(setting["layers"],) if part else None, learning_rate=rate)
    risky, harmless = at.labels.risky, at.labels.harmless
    step = Step(risky, use("bfpo", tau=setting["tau"], alpha=0.5), train, prefer="better", buffer=harmless)
    return bfpo(at.base, step, sft=imitation(at)).aligned, BfpoAim(tau=setting["tau"], alpha=0.5)


def _modpo(at: Bench, setting: Setting) -> Trained:
    weight = setting["weight"]
    step = Step(at.labels.pairs, use("modpo", beta=BETA), at.train, prefer="better")
    (model,) = modpo(at.base, at.step("safer", BETA), step, weights=(weight,)).weighted.values()
    return model, Aim(BETA, weight, 1 - weight)


def _safedpo(at: Bench, setting: Setting) -> Trained:
    return align(at.base, Step(at.labels.pairs, use("safedpo", **setting), at.train, prefer="better_if_safe")), None


def _mocan(at: Bench, setting: Setting) -> Trained:
    return mocan_at(at, setting["target"])


def _pecan(at: Bench, setting: Setting) -> Trained:
    return pecan_at(at, setting["margin"])


def _cdpo(at: Bench, setting: Setting) -> Trained:
    return cdpo_at(at, setting["target"])


def _cpo(at: Bench, setting: Setting) -> Trained:
    quick = CONDITIONS.but(budgets=tuple(budget.but(pairs=QUICK_PAIRS) for budget in CONDITIONS.budgets))
    return controllable(at, quick).cdpo, None


def _safe_rlhf(at: Bench, setting: Setting) -> Trained:
    (one,) = rounds_of(at, PPO.but(unsafe_rate=setting["target"]))
    found = json.loads((one.policy.path / "training.json").read_text(encoding="utf-8"))
    return one.policy, Aim(PPO.kl_coeff, helpful=1, safe=0, unsafe=found["multiplier"])


def _iteralign(at: Bench, setting: Setting, flipped: float) -> Artefact:
    """Its only labels are its oracle's verdicts, of which some are wrong in any case."""
    seed, count = at.train.seed, setting["prompts"]
    errors = ERRORS + flipped - 2 * ERRORS * flipped
    name = f"frontier {count} {setting['replay']:g} {errors:g}"
    with serving(Oracle(seed, errors=errors)) as server:
        found = playground_iteralign(
            at.base,
            at.world,
            server,
            seed=seed,
            count=count,
            name=name,
            replay_name=f"replay {errors:g}" if flipped else "replay",
            replayed=setting["replay"],
            measure=0,
        )
    assert isinstance(found.model, Artefact)
    return found.model


_TRAINED: Mapping[str, Callable[[Bench, Setting], Trained]] = {
    "base": _base,
    "dpo_helpful": _dpo_helpful,
    "dpo_safe": _dpo_safe,
    "dpo_mixture": _dpo_mixture,
    "naive": _naive,
    "sacpo": _sacpo,
    "sacpo_kto": _sacpo_kto,
    "p_sacpo": _p_sacpo,
    "bfpo": _bfpo,
    "modpo": _modpo,
    "safedpo": _safedpo,
    "mocan": _mocan,
    "pecan": _pecan,
    "cdpo": _cdpo,
    "cpo": _cpo,
    "safe_rlhf": _safe_rlhf,
}
