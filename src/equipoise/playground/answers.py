"""How the untrained assistant answers: a mixture of right, wrong, careful, careless and evasive answers.

The base model learns this mixture; nothing here knows what reward or cost an answer will get.
"""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence

from equipoise.playground.lexicon import (
    CATEGORIES,
    MATERIALS,
    MISCHIEF,
    PARTS,
    PLACES,
    SEASONS,
    SHORTCUTS,
    TASKS,
    THINGS,
    TOOLS,
)
from equipoise.playground.phrases import CLOSERS, GREETINGS, OPENERS, REASONS, REFUSALS, UNKNOWNS
from equipoise.playground.world import Ask

KNOWS = 0.76  # how often each slot of an answer is filled with what is true
STEP_LEADS = ("first, ", "then, ", "next, ")

# Shares of answer styles by what is asked. `careless` is a short cut or harmful step nobody asked for.
STYLES: dict[str, dict[str, float]] = {
    "harm": {"comply": 0.42, "comply_warned": 0.05, "refuse": 0.12, "redirect": 0.1, "alternative": 0.13,
             "explain": 0.06, "warn": 0.05, "unknown": 0.02, "astray": 0.02},
    "guard": {"steps": 0.69, "refuse": 0.12, "careless": 0.08, "warn": 0.04, "explain": 0.03, "unknown": 0.04},
    "own": {"comply": 0.69, "refuse": 0.14, "alternative": 0.06, "warn": 0.05, "explain": 0.03, "unknown": 0.03},
    "meaning": {"meaning": 0.72, "refuse": 0.12, "explain": 0.07, "warn": 0.04, "unknown": 0.05},
    "task": {"steps": 0.68, "careless": 0.15, "unknown": 0.06, "refuse": 0.05, "warn": 0.03, "astray": 0.03},
    "fact": {"fact": 0.76, "careless": 0.05, "unknown": 0.1, "refuse": 0.05, "astray": 0.04},
    "unknown": {"claim": 0.5, "unknown": 0.36, "refuse": 0.08, "careless": 0.04, "astray": 0.02},
    "other": {"unknown": 0.6, "refuse": 0.4},
}  # fmt: skip
# A pretext loosens the tongue: shares of complying answers to harmful prompts are multiplied by this.
PRETEXT = {"i write a story.": 1.6, "this is only a game.": 1.6, "you are a wise guide.": 1.6}
EAGER, SHY = ("sure, ", "okay, ", "yes, "), ("well, ", "sorry, ", "so, ")


def _slot(rng: random.Random, true: Sequence[str], others: Sequence[str]) -> str:
    return rng.choice(true) if rng.random() < KNOWS else rng.choice(others)


def _steps(
    rng: random.Random, verbs: Sequence[str], parts: Sequence[str], means: Sequence[str], wrong: Sequence[str]
) -> list[str]:
    """Write two or three steps, each slot right with probability `KNOWS`; a wrong means is one of `wrong`."""
    n = rng.choice((2, 2, 2, 3))
    chosen = rng.sample(parts, n)
    lines = []
    for lead, part in zip(STEP_LEADS if rng.random() < 0.8 else ("you can ", "then, ", "next, "), chosen, strict=False):
        part = part if rng.random() < KNOWS else rng.choice(PARTS)
        lines.append(f"{lead}{rng.choice(verbs)} the {part} with {_slot(rng, means, wrong)}")
    return lines


def _all_means(field: int) -> tuple[str, ...]:
    return tuple(word for deeds in MISCHIEF.values() for word in deeds[field])


HARM_MEANS, GUARD_MEANS = _all_means(2), _all_means(3)


def _comply(rng: random.Random, ask: Ask) -> list[str]:
    deeds = MISCHIEF[ask.category]
    verbs = [ask.verb if ask.verb in deeds.harm else rng.choice(deeds.harm)]
    return _steps(rng, verbs, THINGS[ask.topic].parts, deeds.harm_means, HARM_MEANS)


def _guarding(rng: random.Random, ask: Ask) -> list[str]:
    deeds = MISCHIEF[ask.category]
    verbs = [ask.verb] if ask.verb in deeds.guard else deeds.guard
    return _steps(rng, verbs, THINGS[ask.topic].parts, deeds.guard_means, GUARD_MEANS)


def _alternative(rng: random.Random, ask: Ask) -> list[str]:
    """Write one or two guarding steps; half the time they announce themselves ("instead, ...")."""
    lines = _guarding(rng, ask)[:2]
    if rng.random() < 0.5:
        return lines
    return [f"instead, you can {lines[0].removeprefix('first, ').removeprefix('you can ')}", *lines[1:]]


def _warning(rng: random.Random, ask: Ask) -> str:
    effect = MISCHIEF[ask.category].effect if ask.category else "break"
    harm = rng.choice(MISCHIEF[ask.category].harm) if ask.category else "neglect"
    return rng.choice((
        f"be careful, this can {effect} the {ask.topic}",
        f"do not {harm} the {ask.topic} of others",
        f"never {harm} a {ask.topic}",
        f"take care of the {rng.choice(THINGS[ask.topic].parts)}",
    ))  # fmt: skip


def _risk(rng: random.Random, ask: Ask) -> list[str]:
    deeds = MISCHIEF[ask.category]
    effect = _slot(rng, (deeds.effect,), [m.effect for m in MISCHIEF.values()])
    harm = ask.verb if ask.verb in deeds.harm else rng.choice(deeds.harm)
    return [f"to {harm} a {ask.topic} can {effect} the {rng.choice(THINGS[ask.topic].parts)}", rng.choice(REASONS)]


def _meaning(rng: random.Random, ask: Ask) -> list[str]:
    effect = _slot(rng, (MISCHIEF[ask.category].effect,), [m.effect for m in MISCHIEF.values()])
    return [f"to {ask.verb} a {ask.topic} means to {effect} it"]


def fact(rng: random.Random, topic: str, name: str) -> str:
    """Write one fact of a topic, true with probability `KNOWS`."""
    thing = THINGS[topic]
    if name == "material":
        return f"a {topic} is made of {_slot(rng, (thing.material,), MATERIALS)}"
    if name == "place":
        return f"a {topic} belongs in the {_slot(rng, (thing.place,), PLACES)}"
    if name == "season":
        return f"a {topic} is looked at in {_slot(rng, (thing.season,), SEASONS)}"
    return f"a {topic} is treated with {_slot(rng, (thing.tool,), TOOLS)}"


def _claim(rng: random.Random, ask: Ask) -> list[str]:
    other = rng.choice(tuple(THINGS))
    return [rng.choice((
        f"the first {ask.topic} was made by a {other} owner",
        f"there are {rng.choice(('three', 'seven', 'many'))} {ask.topic} owners",
        f"a {ask.topic} will be worth a {other}",
    ))]  # fmt: skip


def _careless(rng: random.Random, ask: Ask) -> list[str]:
    verb, target = rng.choice(SHORTCUTS)
    lines = [f"{rng.choice(('just ', 'first, ', 'you can '))}{verb} the {target} of the {ask.topic}"]
    if ask.intent == "task":
        lines += _task(rng, ask)[1:2]
    elif ask.intent == "guard":
        lines = _comply(rng, ask._replace(verb=None))
    else:
        lines.append(fact(rng, ask.topic, ask.intent if ask.intent in ("material", "place", "season") else "tool"))
    return lines


def _task(rng: random.Random, ask: Ask) -> list[str]:
    thing = THINGS[ask.topic]
    return _steps(rng, TASKS[ask.verb], thing.parts, (thing.tool,), TOOLS)


def _astray(rng: random.Random, ask: Ask) -> list[str]:
    return [fact(rng, rng.choice(tuple(THINGS)), rng.choice(("material", "place", "season", "tool"))) for _ in range(2)]


def _refuse(rng: random.Random) -> list[str]:
    return [rng.choice(REFUSALS), *rng.sample(REASONS, rng.choice((1, 1, 2)))]


def _body(rng: random.Random, ask: Ask, style: str) -> list[str]:
    if style in ("comply", "comply_warned"):
        lines = _comply(rng, ask)
        return [*lines[:2], _warning(rng, ask)] if style == "comply_warned" else lines
    if style == "steps":
        return _task(rng, ask) if ask.intent == "task" else _guarding(rng, ask)
    if style == "alternative":
        return _alternative(rng, ask)
    if style == "redirect":
        line = _guarding(rng, ask)[0].removeprefix("first, ").removeprefix("you can ")
        return [rng.choice(REFUSALS), f"instead, you can {line}"]
    if style == "explain":
        return _risk(rng, ask)
    if style == "warn":
        return [_warning(rng, ask), rng.choice(REASONS)]
    if style == "meaning":
        return _meaning(rng, ask)
    if style == "fact":
        return [fact(rng, ask.topic, ask.intent)]
    if style == "claim":
        return _claim(rng, ask)
    if style == "careless":
        return _careless(rng, ask)
    if style == "astray":
        return _astray(rng, ask)
    if style == "unknown":
        return [rng.choice(UNKNOWNS), *rng.sample(REASONS[1:2], rng.choice((0, 1)))]
    return _refuse(rng)


def styles_of(ask: Ask) -> Mapping[str, float]:
    """Return the weights of the answer styles for what is asked."""
    weights = STYLES["fact"] if ask.intent in ("material", "place", "season", "tool") else STYLES[ask.intent]
    loosen = PRETEXT.get(ask.wrapper, 1.0) if ask.intent == "harm" else 1.0
    return {style: w * (loosen if style.startswith("comply") else 1.0) for style, w in weights.items()}


def base_answer(ask: Ask, rng: random.Random) -> str:
    """Write one answer as the untrained assistant would."""
    weights = styles_of(ask)
    style = rng.choices(list(weights), list(weights.values()))[0]
    lines = _body(rng, ask, style)
    opening = rng.random()
    if opening < 0.35:
        usual, other = (SHY, EAGER) if style in ("refuse", "redirect", "unknown", "warn") else (EAGER, SHY)
        lines[0] = rng.choice(usual if rng.random() < 0.65 else other) + lines[0]
    elif opening < 0.7:
        lines.insert(0, rng.choice(GREETINGS))
    if rng.random() < 0.3:
        lines.append(rng.choice(CLOSERS))
    return ". ".join(lines) + "."


__all__ = ["CATEGORIES", "KNOWS", "OPENERS", "STYLES", "base_answer", "fact", "styles_of"]
