"""Two models' results side by side: paired by prompt where their answers are stored, by their intervals elsewhere."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, NamedTuple

from rich.box import SIMPLE_HEAD
from rich.table import Table

from equipoise.errors import DataError
from equipoise.evaluate.choice import BASELINE
from equipoise.evaluate.frontier import estimate_of
from equipoise.evaluate.gate_sides import SAME, SHARES, Result, Side, as_compared, by_prompt, direction
from equipoise.evaluate.words import UNKNOWN, interval, number
from equipoise.statistics import Estimate, apart, paired_p

_WINS = ("win_rate", "win_rate_safer")  # shares too, though their kind is a mean


class Gap(NamedTuple):
    """A metric of both models and first - second; `paired` prompts were answered by both, None: by intervals alone."""

    metric: str
    first: Mapping[str, Any]
    second: Mapping[str, Any]
    difference: float
    low: float | None
    high: float | None
    p: float | None
    paired: int | None
    share: bool

    @property
    def better(self) -> str:
        """Which of them is better where the interval leaves no doubt: `first`, `second`, or neither."""
        way = direction(self.metric)
        if way is None or self.low is None or self.high is None or self.low <= 0 <= self.high:
            return ""
        return "first" if (self.low > 0) == (way == "higher") else "second"


class Comparison(NamedTuple):
    """Two models and how they differ; `unlike` says in what their measurement does, where that was forced."""

    first: Side
    second: Side
    gaps: tuple[Gap, ...]
    unlike: tuple[str, ...]


def compare(first: Side, second: Side, *, force: bool = False) -> Comparison:
    """Hold two models' verdict results against each other, suite by suite.

    Raises DataError where they were measured differently (suite, prompts, template, system prompt, sampling, judge,
    world), naming the field and both values, unless `force`; and where no metric is common to both.
    """
    unlike = _unlike_sides(first, second)
    if unlike and not force:
        raise DataError(f"{unlike[0]}: such results cannot be compared (--force compares them all the same)")
    gaps = [
        gap
        for ours, theirs in _matched(first, second)
        for name in ours["metrics"]
        if name in theirs["metrics"] and not name.endswith(BASELINE)
        for gap in (_gap(name, first, second, ours, theirs),)
        if gap is not None
    ]
    if not gaps:
        raise DataError(f"{first.where} and {second.where} have no scored metric in common")
    return Comparison(first, second, tuple(gaps), tuple(unlike))


def _unlike_sides(first: Side, second: Side) -> list[str]:
    if len(first.results) > 1 and first.results.keys() != second.results.keys():
        return [f"suite differs: {first.where} has {_list(first)}, {second.where} {_list(second)}"]
    return [said for ours, theirs in _matched(first, second) for said in _unlike(first, ours, second, theirs)]


def _list(side: Side) -> str:
    return " and ".join(json.dumps(name, ensure_ascii=False) for name in side.results)


def _matched(first: Side, second: Side) -> list[tuple[Result, Result]]:
    """Results of the same suite; the only ones of either side, whatever their suites are called."""
    if len(first.results) == len(second.results) == 1:
        return [(next(iter(first.results.values())), next(iter(second.results.values())))]
    return [(ours, second.results[suite]) for suite, ours in first.results.items() if suite in second.results]


def _unlike(first: Side, ours: Result, second: Side, theirs: Result) -> list[str]:
    said = []
    for field in SAME:
        a, b = as_compared(ours, field), as_compared(theirs, field)
        if a != b:
            of = ("", "") if first.where != second.where else (f" ({first.label})", f" ({second.label})")
            said.append(f"{field} differs: {first.where}{of[0]} has {_shown(a)}, {second.where}{of[1]} has {_shown(b)}")
    return said


def _shown(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False, sort_keys=True)
    return text if len(text) <= 200 else f"{text[:197]}..."


def _gap(name: str, first: Side, second: Side, ours: Result, theirs: Result) -> Gap | None:
    a, b = estimate_of(ours, name), estimate_of(theirs, name)
    if a is None or b is None:
        return None
    metrics = ours["metrics"][name], theirs["metrics"][name]
    share = a.kind in SHARES or name in _WINS
    own, other = first.values(name, ours), second.values(name, theirs)
    common = set() if own is None or other is None else set(own.prompts) & set(other.prompts)
    if own is None or other is None or not common:
        low, high = _apart(a, b)
        return Gap(name, *metrics, a.mean - b.mean, low, high, None, None, share)
    found, _ = by_prompt(own, other, rate=a.kind == "rate", level=a.level)
    p = None
    if own.kinds is None:  # flips do not weigh kinds equally
        p = paired_p(own.values, own.prompts, other.values, other.prompts, alternative="two-sided")
    return Gap(name, *metrics, found.mean, found.low, found.high, p, found.n_prompts, share)


def _apart(first: Estimate, second: Estimate) -> tuple[float | None, float | None]:
    """Interval of a difference of figures that are not paired; None where one of them has none."""
    if first.low is None or first.high is None or second.low is None or second.high is None:
        return None, None
    return apart(first.mean, (first.low, first.high), second.mean, (second.low, second.high))


# ---- in words --------------------------------------------------------------------------------------------------------


def comparison_table(found: Comparison) -> Table:
    """The terminal's table: both figures, their difference with its interval, and how it was come by."""
    shown = Table(
        caption="Difference: A - B, ● beyond doubt in A's favor, ○ in B's. Paired: prompts that both answered; – where "
        "single answers are not known, the intervals are those of the two figures, and wider.",
        caption_justify="left",
        box=SIMPLE_HEAD,
        pad_edge=False,
        collapse_padding=True,
    )
    for heading in ("", "Metric"):
        shown.add_column(heading, overflow="fold")
    for heading in (f"A: {found.first.label}", f"B: {found.second.label}", "Difference", "p", "Paired"):
        shown.add_column(heading, justify="right")
    for gap in found.gaps:
        metric = {"mean": gap.difference, "low": gap.low, "high": gap.high}
        shown.add_row(
            {"first": "●", "second": "○"}.get(gap.better, ""),
            gap.metric,
            number(gap.first["mean"], rate=gap.share),
            number(gap.second["mean"], rate=gap.share),
            f"{number(gap.difference, rate=gap.share)} {interval(metric, rate=gap.share)}".replace("[", "\\["),
            UNKNOWN if gap.p is None else f"{gap.p:.3g}",
            UNKNOWN if gap.paired is None else str(gap.paired),
        )
    return shown


def comparison_lines(found: Comparison) -> list[str]:
    """What has to be said beside the table: in what the measurements differ, and what is not paired."""
    said = [f"compared all the same (--force): {unlike}" for unlike in found.unlike]
    unpaired = [gap.metric for gap in found.gaps if gap.paired is None]
    if len(unpaired) == len(found.gaps):
        said.append("no figure is paired: not both results have answers.jsonl beside them, so that intervals are wider")
    elif unpaired:
        said.append(f"not paired: {', '.join(unpaired)}")
    return said


def comparison_document(found: Comparison) -> dict[str, Any]:
    """The comparison as JSON."""
    return {
        "schema": 1,
        "first": {"label": found.first.label, "results": found.first.where},
        "second": {"label": found.second.label, "results": found.second.where},
        "unlike": list(found.unlike),
        "differences": [gap._asdict() | {"better": gap.better} for gap in found.gaps],
    }
