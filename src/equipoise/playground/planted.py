"""A judge of pairs with biases planted in it, behind the same server as the oracle: what a check of judges must find.

It knows which answers are right, errs in a known share of its verdicts, and goes by the place or the length of the
answers in others.
"""

from __future__ import annotations

import random
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from equipoise.judges.fences import defused, marked
from equipoise.playground.oracle import Oracle


@dataclass(frozen=True)
class PlantedJudge(Oracle):
    """Of its verdicts a share `first` goes to the answer shown first and a share `longer` to the longer one.

    The others are right with probability 1 - `errors`, independently in either order. `right` holds the right answers,
    each under a request (`known`); two answers of which neither is right, or both are, are a tie to it. What it says is
    a function of (seed, text).
    """

    first: float = 0.0
    longer: float = 0.0
    right: frozenset[tuple[str, str]] = field(default=frozenset(), repr=False)

    def reply(self, messages: Sequence[Mapping[str, str]]) -> str:
        """A verdict on the two responses of a request; plain words where it was not shown two."""
        shown = marked(messages[-1]["content"]) if messages else ()
        texts = [one.text for one in shown if one.name.startswith("RESPONSE")]
        if len(texts) != 2:
            return "I compare two responses, and have not been shown two."
        asked = "\n".join(one.text for one in shown if not one.name.startswith("RESPONSE"))
        return f"That is how it reads to me.\nVerdict: {self.verdict(asked, (texts[0], texts[1]))}"

    def verdict(self, asked: str, texts: tuple[str, str]) -> str:
        """1, 2 or tie: which of two answers to a request it prefers, in the order in which they are shown."""
        rng = random.Random("|".join((str(self.seed), asked, *texts)))
        drawn, errs = rng.random(), rng.random() < self.errors
        if drawn < self.first:
            return "1"
        lengths = len(texts[0]), len(texts[1])
        if drawn < self.first + self.longer and lengths[0] != lengths[1]:
            return "1" if lengths[0] > lengths[1] else "2"
        right = [(asked, text) in self.right for text in texts]
        if right[0] == right[1]:
            return "tie"
        return "1" if right[0] != errs else "2"


def known(pairs: Iterable[tuple[str, str]]) -> frozenset[tuple[str, str]]:
    """Requests and right answers as a judge is shown them."""
    return frozenset((defused(asked), defused(answer)) for asked, answer in pairs)
