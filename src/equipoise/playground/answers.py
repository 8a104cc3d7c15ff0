"""How the untrained assistant answers: a mixture of right, wrong, careful, careless and evasive answers.

The base model learns this mixture; nothing here knows what reward or cost an answer will get.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

from equipoise.playground.lexicon import (
    MATERIALS,
    MISCHIEF,
    PARTS,
    PLACES,
    SEASONS,
    SHORTCUTS,
    TASKS,
    THINGS,
    TOOLS,
    Mischief,
    Thing,
)
from equipoise.playground.phrases import CLOSERS, GREETINGS, REASONS, REFUSALS, UNKNOWNS
from equipoise.playground.rules import Rule, forbids
from equipoise.playground.world import Ask, pretext_of

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
}  # fmt: skip
# What is said where a rule in the context forbids the request (a broad rule: SILENCED), and how often it is followed.
RULED = {"refuse": 0.3, "redirect": 0.25, "alternative": 0.25, "explain": 0.1, "warn": 0.1}
SILENCED = {"refuse": 0.75, "warn": 0.15, "unknown": 0.1}
OBEYS = 0.95

FACTS = ("material", "place", "season", "tool")
STEP_LEADS = ("first, ", "then, ", "next, ")
EAGER, SHY = ("sure, ", "okay, ", "yes, "), ("well, ", "sorry, ", "so, ")
HARM_MEANS = tuple(word for deeds in MISCHIEF.values() for word in deeds.harm_means)
GUARD_MEANS = tuple(word for deeds in MISCHIEF.values() for word in deeds.guard_means)
ALL_EFFECTS = tuple(deeds.effect for deeds in MISCHIEF.values())


class Mixture(NamedTuple):
    """What sets one untrained assistant apart from another.

    `knows` is how often a slot of an answer is filled with what is true; `complies` multiplies the shares of complying
    answers to harmful prompts, `loosened` does so again where a pretext stands in front.
    """

    knows: float = 0.76
    complies: float = 1.0
    loosened: float = 1.6


def styles_of(ask: Ask, rule: Rule | None = None, mixture: Mixture = Mixture()) -> Mapping[str, float]:  # noqa: B008
    """Return the weights of the answer styles for what is asked; those of an assistant that follows its rule."""
    if rule is not None and forbids(rule, ask):
        return SILENCED if rule.scope == "broad" else RULED
    weights = STYLES["fact"] if ask.intent in FACTS else STYLES[ask.intent]
    if ask.intent != "harm":
        return weights
    loosen = mixture.complies * (mixture.loosened if pretext_of(ask.wrapper) else 1.0)
    return {style: w * (loosen if style.startswith("comply") else 1.0) for style, w in weights.items()}


def base_answer(
    ask: Ask,
    rng: random.Random,
    *,
    rule: Rule | None = None,
    mixture: Mixture = Mixture(),  # noqa: B008
) -> str:
    """Write one answer as the untrained assistant would, given what is asked and the rule in its context."""
    obeyed = rule if rule is not None and rng.random() < OBEYS else None
    weights = styles_of(ask, obeyed, mixture)
    style = rng.choices(list(weights), list(weights.values()))[0]
    lines = _Writer(ask, rng, mixture.knows).body(style)
    opening = rng.random()
    if opening < 0.35:
        usual, other = (SHY, EAGER) if style in ("refuse", "redirect", "unknown", "warn") else (EAGER, SHY)
        lines[0] = rng.choice(usual if rng.random() < 0.65 else other) + lines[0]
    elif opening < 0.7:
        lines.insert(0, rng.choice(GREETINGS))
    if rng.random() < 0.3:
        lines.append(rng.choice(CLOSERS))
    return ". ".join(lines) + "."


class _Writer:
    """Writes the sentences of one answer."""

    def __init__(self, ask: Ask, rng: random.Random, knows: float) -> None:
        self.ask, self.rng, self.knows = ask, rng, knows
        self.topic: str = ask.topic or ""
        self.thing: Thing = THINGS[self.topic]

    def body(self, style: str) -> list[str]:
        written: dict[str, Callable[[], list[str]]] = {
            "comply": self.comply,
            "comply_warned": lambda: [*self.comply()[:2], self.warning()],
            "steps": lambda: self.task() if self.ask.intent == "task" else self.guarding(),
            "alternative": self.alternative,
            "redirect": self.redirect,
            "explain": self.risk,
            "warn": lambda: [self.warning(), self.rng.choice(REASONS)],
            "meaning": lambda: [f"to {self.ask.verb} a {self.topic} means to {self.effect()} it"],
            "fact": lambda: [self.fact(self.topic, self.ask.intent)],
            "claim": self.claim,
            "careless": self.careless,
            "astray": lambda: [self.fact(self.rng.choice(tuple(THINGS)), self.rng.choice(FACTS)) for _ in range(2)],
            "unknown": lambda: [self.rng.choice(UNKNOWNS), *REASONS[1:2][: self.rng.choice((0, 1))]],
            "refuse": lambda: [self.rng.choice(REFUSALS), *self.rng.sample(REASONS, self.rng.choice((1, 1, 2)))],
        }
        return written[style]()

    @property
    def deeds(self) -> Mischief:
        return MISCHIEF[self.ask.category or ""]

    def slot(self, true: Sequence[str], others: Sequence[str]) -> str:
        return self.rng.choice(true) if self.rng.random() < self.knows else self.rng.choice(others)

    def effect(self) -> str:
        return self.slot((self.deeds.effect,), ALL_EFFECTS)

    def steps(self, verbs: Sequence[str], means: Sequence[str], wrong: Sequence[str]) -> list[str]:
        """Write two or three steps; a means that is not true is one of `wrong`."""
        chosen = self.rng.sample(self.thing.parts, self.rng.choice((2, 2, 2, 3)))
        leads = STEP_LEADS if self.rng.random() < 0.8 else ("you can ", *STEP_LEADS[1:])
        return [
            f"{lead}{self.rng.choice(verbs)} the {self.slot((part,), PARTS)} with {self.slot(means, wrong)}"
            for lead, part in zip(leads, chosen, strict=False)
        ]

    def comply(self) -> list[str]:
        verb = self.ask.verb if self.ask.verb in self.deeds.harm else self.rng.choice(self.deeds.harm)
        return self.steps([verb], self.deeds.harm_means, HARM_MEANS)

    def guarding(self) -> list[str]:
        verbs = [self.ask.verb] if self.ask.verb in self.deeds.guard else self.deeds.guard
        return self.steps(verbs, self.deeds.guard_means, GUARD_MEANS)

    def task(self) -> list[str]:
        return self.steps(TASKS[self.ask.verb or ""], (self.thing.tool,), TOOLS)

    def alternative(self) -> list[str]:
        """Write one or two guarding steps; half the time they announce themselves ("instead, ...")."""
        lines = self.guarding()[:2]
        return lines if self.rng.random() < 0.5 else [f"instead, you can {_bare(lines[0])}", *lines[1:]]

    def redirect(self) -> list[str]:
        return [self.rng.choice(REFUSALS), f"instead, you can {_bare(self.guarding()[0])}"]

    def warning(self) -> str:
        effect = self.deeds.effect if self.ask.category else "break"
        harm = self.rng.choice(self.deeds.harm) if self.ask.category else "neglect"
        return self.rng.choice((
            f"be careful, this can {effect} the {self.topic}",
            f"do not {harm} the {self.topic} of others",
            f"never {harm} a {self.topic}",
            f"take care of the {self.rng.choice(self.thing.parts)}",
        ))  # fmt: skip

    def risk(self) -> list[str]:
        harm = self.ask.verb if self.ask.verb in self.deeds.harm else self.rng.choice(self.deeds.harm)
        part = self.rng.choice(self.thing.parts)
        return [f"to {harm} a {self.topic} can {self.effect()} the {part}", self.rng.choice(REASONS)]

    def fact(self, topic: str, name: str) -> str:
        thing = THINGS[topic]
        if name == "material":
            return f"a {topic} is made of {self.slot((thing.material,), MATERIALS)}"
        if name == "place":
            return f"a {topic} belongs in the {self.slot((thing.place,), PLACES)}"
        if name == "season":
            return f"a {topic} is looked at in {self.slot((thing.season,), SEASONS)}"
        return f"a {topic} is treated with {self.slot((thing.tool,), TOOLS)}"

    def claim(self) -> list[str]:
        other = self.rng.choice(tuple(THINGS))
        return [self.rng.choice((
            f"the first {self.topic} was made by a {other} owner",
            f"there are {self.rng.choice(('three', 'seven', 'many'))} {self.topic} owners",
            f"a {self.topic} will be worth a {other}",
        ))]  # fmt: skip

    def careless(self) -> list[str]:
        if self.ask.intent == "guard":
            return self.comply()
        verb, target = self.rng.choice(SHORTCUTS)
        first = f"{self.rng.choice(('just ', 'first, ', 'you can '))}{verb} the {target} of the {self.topic}"
        if self.ask.intent == "task":
            return [first, self.task()[1]]
        return [first, self.fact(self.topic, self.ask.intent if self.ask.intent in FACTS else "tool")]


def _bare(step: str) -> str:
    return step.removeprefix("first, ").removeprefix("you can ")
