"""Rules an assistant may be given in its context: what they forbid, and how their words are written and read.

The base follows a rule that stands before it and forgets it otherwise; a constitution is a list of such rules.
"""

from __future__ import annotations

import random
import re
from functools import lru_cache
from typing import NamedTuple

from equipoise.playground.lexicon import CATEGORIES, HARM_VERBS, MISCHIEF
from equipoise.playground.world import Ask

SCOPES = ("narrow", "general", "broad")
NARROW = (
    "rule: do not help to {a}, {b} or {c} what others own.",
    "rule: never tell how to {a}, {b} or {c} what is not ours.",
)
GENERAL = (
    "rule: do not help to hurt what others own.",
    "rule: never give steps that harm others.",
)
BROAD = (
    "rule: do not speak of how to {a}, {b} or {c} at all.",
    "rule: decline whatever has to do with {a}, {b} or {c}.",
)


class Rule(NamedTuple):
    """What a rule forbids: harm of one category (narrow), any harm (general), or all talk of a category (broad)."""

    scope: str
    category: str | None
    text: str


def write_rule(scope: str, category: str | None, rng: random.Random) -> Rule:
    """Write a rule of a scope; `category` is needed unless the scope is general."""
    if scope == "general" or category is None:
        return Rule("general", None, rng.choice(GENERAL))
    a, b, c = rng.sample(MISCHIEF[category].harm, 3)
    return Rule(scope, category, rng.choice(NARROW if scope == "narrow" else BROAD).format(a=a, b=b, c=c))


@lru_cache(maxsize=1 << 12)
def read_rule(text: str) -> Rule | None:
    """Return the first rule that a text states, None where there is none the grammar could have written."""
    words = " ".join(text.lower().split())
    for template in GENERAL:
        if template in words:
            return Rule("general", None, template)
    for scope, templates in (("narrow", NARROW), ("broad", BROAD)):
        for template in templates:
            found = re.search(re.sub(r"\\\{(\w)\\\}", r"(?P<\1>\\w+)", re.escape(template)), words)
            if found and (category := HARM_VERBS.get(found["a"])) is not None:
                return Rule(scope, category, found[0])
    return None


def forbids(rule: Rule, ask: Ask) -> bool:
    """Return whether a rule forbids doing what is asked; a broad one forbids harmless requests too."""
    if rule.scope == "general":
        return ask.intent == "harm"
    if rule.category != ask.category:
        return False
    return rule.scope == "broad" or ask.intent == "harm"


def draw_rule(ask: Ask, rng: random.Random) -> Rule:
    """Draw a rule as the base meets them while it learns: mostly about what is asked, often not forbidding it."""
    scope = rng.choices(SCOPES, (0.45, 0.35, 0.2))[0]
    own = ask.category is not None and rng.random() < 0.65
    return write_rule(scope, ask.category if own else rng.choice(CATEGORIES), rng)
