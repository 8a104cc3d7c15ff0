"""Two models' results side by side: paired by prompt where their answers are stored, by their intervals elsewhere."""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Mapping, Sequence
from typing import Any, NamedTuple

from rich.box import SIMPLE_HEAD
from rich.console import Console, ConsoleOptions, RenderResult
from rich.measure import Measurement
from rich.table import Table
from rich.text import Text

from equipoise.errors import DataError
from equipoise.evaluate.choice import BASELINE
from equipoise.evaluate.frontier import estimate_of
from equipoise.evaluate.gate_sides import (
    SAME,
    SHARES,
    Result,
    Row,
    Side,
    Values,
    as_compared,
    by_prompt,
    direction,
    mean_of,
)
from equipoise.evaluate.words import UNKNOWN, interval, number
from equipoise.statistics import Estimate, apart, paired_p
from equipoise.statistics.intervals import prompt_means

_WINS = ("win_rate", "win_rate_safer")  # shares too, though their kind is a mean


class Gap(NamedTuple):
    """A metric of both models and first - second; `paired` prompts were answered by both, None: by intervals alone.

    `means` are those that the difference is of: over the paired prompts, where there are such.
    """

    metric: str
    first: Mapping[str, Any]
    second: Mapping[str, Any]
    difference: float
    low: float | None
    high: float | None
    p: float | None
    paired: int | None
    share: bool
    means: tuple[float, float]

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
    if own is not None and other is not None:
        other = _renamed(other, same_prompts(first.answers or (), second.answers or ()))
    common = set() if own is None or other is None else set(own.prompts) & set(other.prompts)
    if own is None or other is None or not common:
        low, high = _apart(a, b)
        return Gap(name, *metrics, a.mean - b.mean, low, high, None, None, share, (a.mean, b.mean))
    found, _ = by_prompt(own, other, rate=a.kind == "rate", level=a.level)
    p = None
    if own.kinds is None:  # flips do not weigh kinds equally
        p = paired_p(own.values, own.prompts, other.values, other.prompts, alternative="two-sided")
    means = _mean_over(own, common), _mean_over(other, common)
    return Gap(name, *metrics, found.mean, found.low, found.high, p, found.n_prompts, share, means)


def same_prompts(first: Sequence[Row], second: Sequence[Row]) -> dict[str, str]:
    """The ids of the first for those of the second that the first has not, where a prompt has the same kind and words.

    An id hashes all that was read of a prompt, its category too; a system prompt is no part of the words.
    """
    ours = {key: str(row["prompt_id"]) for row in reversed(first) if (key := _words(row)) is not None}
    known = {str(row["prompt_id"]) for row in first}
    taken = {str(row["prompt_id"]) for row in second} & known
    found: dict[str, str] = {}
    for row in second:
        name, key = str(row["prompt_id"]), _words(row)
        if name not in known and key in ours and ours[key] not in taken:
            found[name] = ours[key]
    return found


def _words(row: Row) -> tuple[str, ...] | None:
    asked = [turn for turn in row.get("prompt") or () if turn["role"] != "system"]
    return (str(row["kind"]), *(f"{turn['role']}: {turn['content']}" for turn in asked)) if asked else None


def _renamed(values: Values, names: Mapping[str, str]) -> Values:
    kinds = values.kinds and {names.get(prompt, prompt): kind for prompt, kind in values.kinds.items()}
    return Values(values.values, [names.get(prompt, prompt) for prompt in values.prompts], kinds)


def _mean_over(values: Values, prompts: Collection[str]) -> float:
    """The mean over some prompts, each counted once, as the difference is."""
    by_prompt = {name: mean for name, mean in prompt_means(values.values, values.prompts).items() if name in prompts}
    kinds = values.kinds and {str(name): values.kinds[str(name)] for name in by_prompt}
    return mean_of(Values(list(by_prompt.values()), list(map(str, by_prompt)), kinds))


def _apart(first: Estimate, second: Estimate) -> tuple[float | None, float | None]:
    """Interval of a difference of figures that are not paired; None where one of them has none."""
    if first.low is None or first.high is None or second.low is None or second.high is None:
        return None, None
    return apart(first.mean, (first.low, first.high), second.mean, (second.low, second.high))


# ---- in words --------------------------------------------------------------------------------------------------------


class _Name(NamedTuple):
    """A metric's name, which breaks behind _ / @ and blanks alone."""

    text: str

    def _pieces(self) -> list[str]:
        return re.findall(r"[^_/@ ]*[_/@ ]|[^_/@ ]+", self.text)

    def __rich_measure__(self, console: Console, options: ConsoleOptions) -> Measurement:
        return Measurement(max(map(len, self._pieces())), len(self.text))

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        lines = [""]
        for piece in self._pieces():
            if lines[-1] and len(lines[-1]) + len(piece) > options.max_width:
                lines.append("")
            lines[-1] += piece
        yield Text("\n".join(lines), overflow="fold")


def comparison_table(found: Comparison) -> Table:
    """The terminal's table: both figures, their difference with its interval, and how it was come by."""
    caption = (
        "Difference: A - B, ● beyond doubt in A's favor, ○ in B's. Paired: prompts that both answered, and figures in "
        "such rows are over these; – where single answers are not known, the intervals are those of the two figures, "
        "and wider."
    )
    if any(gap.paired is not None and gap.p is None for gap in found.gaps):
        caption += (
            " No p where kinds of prompt weigh equally: it comes from flipping the signs of the prompts' differences, "
            "which weighs prompts equally."
        )
    shown = Table(
        caption=caption,
        caption_justify="left",
        box=SIMPLE_HEAD,
        pad_edge=False,
        collapse_padding=True,
    )
    for heading in ("", "Metric"):
        shown.add_column(heading)
    for heading in (f"A: {found.first.label}", f"B: {found.second.label}", "Difference", "p", "Paired"):
        shown.add_column(heading, justify="right", overflow="fold")
    for gap in found.gaps:
        metric = {"mean": gap.difference, "low": gap.low, "high": gap.high}
        shown.add_row(
            {"first": "●", "second": "○"}.get(gap.better, ""),
            _Name(gap.metric),
            *(number(mean, rate=gap.share) for mean in gap.means),
            f"{number(gap.difference, rate=gap.share)} {interval(metric, rate=gap.share)}".replace("[", "\\["),
            UNKNOWN if gap.p is None else f"{gap.p:.3g}",
            UNKNOWN if gap.paired is None else str(gap.paired),
        )
    return shown


def comparison_lines(found: Comparison) -> list[str]:
    """What has to be said beside the table: in what the measurements differ, and what is not paired."""
    said = [f"compared all the same (--force): {unlike}" for unlike in found.unlike]
    renamed = same_prompts(found.first.answers or (), found.second.answers or ())
    if renamed and any(gap.paired is not None for gap in found.gaps):
        said.append(f"{len(renamed)} prompts have other ids on either side and are paired by kind and words")
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
