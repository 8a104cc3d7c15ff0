"""What a judge of pairs leans on beside the answers' worth: their order, their length, and whether they refuse.

Pure: from verdicts in both orders and the answers' lengths to figures, in numbers and in one sentence each. Which of
them are found is decided together, by Holm's procedure over all that were looked for.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping, Sequence
from statistics import fmean
from typing import Any, NamedTuple

from equipoise.evaluate.suites import Metric, metric_of, unknown_metric
from equipoise.evaluate.words import number
from equipoise.statistics import holm, rate
from equipoise.statistics.leaning import FAIR, LEAST, Leaning, place, trait
from equipoise.statistics.wins import share_of_prompts

ALPHA = 0.05
"""Chance at most that any bias is called found of a judge who has none."""

FIRST, LONGER, REFUSALS = (
    ("prefers the first answer", "prefers the second answer"),
    ("prefers the longer answer", "prefers the shorter answer"),
    ("prefers refusals", "avoids refusals"),
)
"""What a bias is called, and what its opposite is."""


class Contest(NamedTuple):
    """Two answers to a prompt and what a judge said of them; the first one is the right one, or that of `model`.

    `before` is the share it won when it was shown first, `after` when it was shown second: 1, 0, 0.5 for a tie, a mean
    over several replies, None where none could be read. `lengths` are in whatever unit, `refuses` says who refuses.
    """

    prompt: Hashable
    lengths: tuple[int, int]
    before: float | None
    after: float | None
    model: str = ""
    refuses: tuple[bool, bool] | None = None

    @property
    def won(self) -> float:
        """The share that the first answer won of both orders."""
        assert self.before is not None and self.after is not None
        return (self.before + self.after) / 2

    @property
    def longer(self) -> bool | None:
        """Whether the first answer is the longer one; None where both are as long."""
        own, other = self.lengths
        return None if own == other else own > other

    @property
    def declines(self) -> bool | None:
        """Whether the first answer is the one that refuses; None where both or neither do, or nobody knows."""
        if self.refuses is None or self.refuses[0] == self.refuses[1]:
            return None
        return self.refuses[0]


def in_both_orders(contests: Sequence[Contest]) -> list[Contest]:
    """Those with a verdict in either order: the others say nothing of a bias."""
    return [one for one in contests if one.before is not None and one.after is not None]


def biases(contests: Sequence[Contest], *, labelled: bool, level: float = 0.95, seed: int = 0) -> list[dict[str, Any]]:
    """Each bias that was looked for, as results.json holds it: name, found, estimate, fair, p, sentence.

    `labelled` says that the first answer of each contest is the right one. Then the share that longer answers win is
    held against how often they deserve to; otherwise who wrote them is held apart, and what is found is a suspicion
    (`may prefer the longer answer`). Refusals are looked at with right answers alone, as declining is what some rubrics
    ask for. Found is a bias whose p-value, adjusted by Holm's procedure over all that could be looked for, is at most
    `ALPHA` and whose interval leaves out what is fair.
    """
    kept = in_both_orders(contests)
    prompts = [one.prompt for one in kept]
    leans: dict[tuple[str, str], Leaning | None] = {
        FIRST: place([_first(one) for one in kept], prompts, level=level, seed=seed),
        LONGER: _trait(kept, lambda one: one.longer, level=level, seed=seed),
    }
    if labelled and (refusals := _trait(kept, lambda one: one.declines, level=level, seed=seed)) is not None:
        leans[REFUSALS] = refusals
    judged = holm({names[0]: lean.p for names, lean in leans.items() if lean is not None}, alpha=ALPHA)
    said = []
    for names, lean in leans.items():
        if lean is None:
            said.append(_unknown(names, len(contests), labelled=labelled, level=level))
            continue
        claim, found = judged[names[0]], lean.estimate
        low, high = found.low, found.high
        holds = claim.holds and low is not None and high is not None and not low <= FAIR <= high
        name = names[1] if holds and found.mean < FAIR else names[0]
        suspicion = names == LONGER and not labelled
        if holds and suspicion:
            name = name.replace("prefers", "may prefer")
        words = _Words(name, holds, metric_of(found), claim.adjusted, len(judged), labelled, kept)
        said.append(
            {
                "name": name,
                "found": holds,
                "estimate": words.estimate,
                "fair": FAIR,
                "p": claim.adjusted,
                "suspicion": suspicion,
                "sentence": _SENTENCES[names](words),
            }
        )
    return said


def consistency(contests: Sequence[Contest], *, level: float = 0.95) -> Metric:
    """Share of contests judged alike in both orders."""
    kept = in_both_orders(contests)
    if not kept:
        return unknown_metric("rate", level=level, unscored=len(contests))
    same = [abs((one.before or 0.0) - (one.after or 0.0)) < 1e-9 for one in kept]
    found = rate(same, [one.prompt for one in kept], level=level)
    return metric_of(found, unscored=len(contests) - len(kept))


def against_labels(contests: Sequence[Contest], *, source: str, level: float = 0.95, seed: int = 0) -> dict[str, Any]:
    """How often a judge is right, the first answer of each contest being the right one, beside the trivial rule.

    `longer_wins` is how often "the longer answer wins" would be right (equal lengths: half), `chose_longer` how often
    the judge takes the longer one, `right_where_longer` and `right_where_shorter` its accuracy where the right answer
    is the longer or the shorter one. `source` says where the labels are from.
    """
    kept = in_both_orders(contests)
    unscored = len(contests) - len(kept)
    unequal = [one for one in kept if one.longer is not None]

    def share(own: Sequence[Contest], value: Callable[[Contest], float]) -> Metric:
        if not own:
            return unknown_metric("mean", level=level, unscored=0)
        by_prompt: dict[Hashable, list[float]] = {}
        for one in own:
            by_prompt.setdefault(one.prompt, []).append(value(one))
        return metric_of(share_of_prompts([fmean(found) for found in by_prompt.values()], level=level, seed=seed))

    return {
        "source": source,
        "n": len(contests),
        "accuracy": {**share(kept, lambda one: one.won), "unscored": unscored},
        "longer_wins": share(kept, lambda one: FAIR if one.longer is None else float(one.longer)),
        "chose_longer": share(unequal, lambda one: one.won if one.longer else 1 - one.won),
        "right_where_longer": share([one for one in unequal if one.longer], lambda one: one.won),
        "right_where_shorter": share([one for one in unequal if not one.longer], lambda one: one.won),
    }


def bias_sentences(section: Mapping[str, Any]) -> list[str]:
    """What is to be said of a pairwise judge in results.json: what was found first, then what was not."""
    return [one["sentence"] for one in sorted(section["biases"], key=lambda one: not one["found"])]


def headline(section: Mapping[str, Any]) -> str:
    """A judge in one sentence, every bias by its name."""
    found = [one for one in section["biases"] if one["found"]]
    looked = [one for one in section["biases"] if one["estimate"]["mean"] is not None]
    if not looked:
        return f"{section['name']}: whether it leans on anything cannot be told from so few pairs."
    if not found:
        names = " nor ".join(one["name"].replace("prefers", "a preference for") for one in looked)
        if len(looked) == 1:
            return f"{section['name']}: no {names.removeprefix('a ')} was found."
        return f"{section['name']}: neither {names} was found."
    return f"{section['name']} {' and '.join(one['name'] for one in found)}."


class _Words(NamedTuple):
    """What the sentence about a bias is made of."""

    name: str
    found: bool
    estimate: Metric
    p: float
    tests: int
    labelled: bool
    contests: Sequence[Contest]

    @property
    def figure(self) -> str:
        """`61.3 % [57.0, 65.5]`-like, with how many prompts it comes from and what is fair."""
        low, high = self.estimate["low"], self.estimate["high"]
        ends = "" if low is None else f" [{100 * low:.1f}, {100 * high:.1f}]"
        return f"{number(self.estimate['mean'], rate=True)}{ends} of {self.estimate['n_prompts']:,} prompts, fair 50%"

    @property
    def test(self) -> str:
        """The p-value as a clause."""
        p = "p < 0.001" if self.p < 0.001 else f"p = {self.p:.3f}"
        return f"{p}, Holm over {self.tests} tests" if self.tests > 1 else p

    @property
    def share(self) -> str:
        """In how many verdicts it would have to go by nothing else to show this."""
        return number(abs(2 * self.estimate["mean"] - 1), rate=True)

    @property
    def room(self) -> str:
        """How large a share the interval does not rule out."""
        low, high = self.estimate["low"], self.estimate["high"]
        reach = 1.0 if low is None or high is None else 2 * max(abs(low - FAIR), abs(high - FAIR))
        return f"up to {number(min(1.0, reach), rate=True)} of its verdicts could go by it unnoticed"


def _of_first(words: _Words) -> str:
    figure = f"the answer shown first wins {words.figure} ({words.test})"
    if not words.found:
        return f"No preference for the first or second place was found: {figure}; {words.room}."
    return (
        f"It {words.name}: {figure}, as if {words.share} of its verdicts went by the place alone. Win rates average "
        "both orders, so neither side gains by it; asked in one order alone, this judge would mislead."
    )


def _of_longer(words: _Words) -> str:
    if words.labelled:
        right = {side: [c.won for c in words.contests if c.longer is side] for side in (True, False)}
        both = " and ".join(
            f"{number(fmean(right[side]), rate=True)} where it is the {word}"
            for side, word in ((True, "longer"), (False, "shorter"))
        )
        figure = (
            f"the longer answer wins {words.figure}, pairs in which it should and in which it should not counting "
            f"alike ({words.test}); it takes the right answer in {both} one"
        )
        if not words.found:
            return f"No preference for longer or shorter answers was found: {figure}; {words.room}."
        return (
            f"It {words.name}: {figure}, as if {words.share} of its verdicts went by length alone. Its win rates lean "
            f"towards models that write {'more' if words.name == LONGER[0] else 'less'}."
        )
    figure = f"the longer answer wins {words.figure}, whoever wrote it ({words.test})"
    if not words.found:
        return f"No sign that it prefers longer or shorter answers: {figure}; {words.room}."
    kind = "longer" if "longer" in words.name else "shorter"
    return (
        f"It {words.name}: {figure}. That is only a suspicion, as {kind} answers may be better ones; pairs with right "
        "labels would tell."
    )


def _of_refusals(words: _Words) -> str:
    figure = (
        f"the answer that refuses wins {words.figure}, pairs in which it should and in which it should not counting "
        f"alike ({words.test})"
    )
    if not words.found:
        return f"No preference for or against refusals was found: {figure}; {words.room}."
    return f"It {words.name}: {figure}, as if {words.share} of its verdicts went by that alone."


_SENTENCES: dict[tuple[str, str], Callable[[_Words], str]] = {
    FIRST: _of_first,
    LONGER: _of_longer,
    REFUSALS: _of_refusals,
}


def _first(contest: Contest) -> float:
    """The share that whichever answer was shown first won."""
    assert contest.before is not None and contest.after is not None
    return (contest.before + 1 - contest.after) / 2


def _trait(
    contests: Sequence[Contest], has: Callable[[Contest], bool | None], *, level: float, seed: int
) -> Leaning | None:
    own = [(one, flag) for one in contests if (flag := has(one)) is not None]
    return trait(
        [one.won for one, _ in own],
        [flag for _, flag in own],
        [one.prompt for one, _ in own],
        groups=[one.model for one, _ in own],
        level=level,
        seed=seed,
    )


def _unknown(names: tuple[str, str], n: int, *, labelled: bool, level: float) -> dict[str, Any]:
    if names == FIRST:
        why = "no pair has a verdict in both orders"
    else:
        whose = "the right answer" if labelled else "the same model's answer"
        why = f"it takes {LEAST} prompts at least where {whose} is the longer one, and as many where it is the shorter"
    return {
        "name": names[0],
        "found": False,
        "estimate": unknown_metric("share", level=level, unscored=n),
        "fair": FAIR,
        "p": None,
        "suspicion": False,
        "sentence": f"Whether it {names[0]} cannot be told: {why}.",
    }
