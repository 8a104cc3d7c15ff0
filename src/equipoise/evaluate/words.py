"""Figures in words: how a number is printed, the verdict in a sentence, and the table a run ends with."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from rich.box import SIMPLE_HEAD
from rich.table import Table

from equipoise.evaluate.frontier import axis_of, estimate_of, helpfulness, non_dominated, require_verdict, verdict_on
from equipoise.statistics import Estimate, Verdict

Result = Mapping[str, Any]


class Column(NamedTuple):
    """A figure every table shows: its metric, its heading, what it means, and whether it is a rate or a number."""

    metric: str
    heading: str
    meaning: str
    rate: bool


COLUMNS = (
    Column("unsafe_rate", "Unsafe", "answers to harmful prompts with cost > 0; lower is better", True),
    Column("over_refusal", "Over-refusal", "borderline prompts refused; lower is better", True),
    Column("reward", "Helpfulness", "mean reward, the kinds of prompt weighted equally; higher is better", False),
    Column("kl", "KL", "distance from the base model in nats; smaller is closer", False),
)

WINS = Column(
    "win_rate", "Helpfulness", "answers preferred to the reference model's, ties one half; higher is better", True
)
"""Stands for helpfulness where not every result has a reward."""

GAP = Column("gap", "Gap", "distance from the method's own optimum; 0 is there, 1 is the base", False)
"""Shown beside the others where any result has it."""

CHOICES = (
    Column("choice_helpful", "More helpful", "the more helpful of two answers is the likelier one", True),
    Column("choice_helpful_per_token", "More helpful, per token", "the same by log-likelihood per token", True),
    Column("choice_harmless", "Safer", "the safer of two answers is the likelier one", True),
    Column("choice_harmless_per_token", "Safer, per token", "the same by log-likelihood per token", True),
)
"""Which of two answers a model finds likelier: in the page's detailed table, where any result has them."""

CONTROL = Column("control", "Controllability", "levels asked for against levels achieved", False)

UNKNOWN = "–"


def columns_of(results: Sequence[Result]) -> tuple[Column, ...]:
    """Return the columns a table of these results shows; KL and gap where any result has them."""
    present = {name for result in results for name in result["metrics"]}
    further = [column for column in (COLUMNS[3], GAP) if column.metric in present]
    return (*COLUMNS[:2], helpful_column(results), *further)


def helpful_column(results: Sequence[Result]) -> Column:
    """Return the column of the metric that stands for helpfulness."""
    return WINS if helpfulness(results) == WINS.metric else COLUMNS[2]


def axis_title(results: Sequence[Result]) -> str:
    """Name the axis of a plot that stands beside the unsafe rate."""
    if axis_of(results) == "over_refusal":
        return "Over-refusal of borderline prompts (best: lower left)"
    return "Helpfulness (win rate)" if helpfulness(results) == WINS.metric else "Helpfulness (reward)"


def beaten_words(results: Sequence[Result]) -> str:
    """Say what it means that a point is off the frontier."""
    other = "refuses no more" if axis_of(results) == "over_refusal" else "as helpful"
    return f"another point is at least as safe and {other}, and better in one"


def choice_columns(results: Sequence[Result]) -> tuple[Column, ...]:
    """Return the columns of the table of choices: those that any result has."""
    return tuple(column for column in CHOICES if any(column.metric in result["metrics"] for result in results))


def number(value: float | None, *, rate: bool) -> str:
    """Print a figure: rates as percent with one decimal, others with two; `–` where it is not known."""
    if value is None:
        return UNKNOWN
    if rate:
        return f"{100 * value:.1f}%"
    text = f"{value:.2f}".replace("-", "−")
    return "0.00" if text == "−0.00" else text


def interval(metric: Mapping[str, Any] | None, *, rate: bool) -> str:
    """Print the interval of a metric, ``[0.4, 2.1]``; empty when there is none."""
    if metric is None or metric["low"] is None or metric["high"] is None:
        return ""
    low, high = (number(metric[end], rate=rate).removesuffix("%") for end in ("low", "high"))
    return f"[{low}, {high}]"


def figure(metric: Mapping[str, Any] | None, *, rate: bool) -> str:
    """Print a mean and its interval, ``0.71 [0.66, 0.76]``; `–` where it is not known."""
    if metric is None or metric["mean"] is None:
        return UNKNOWN
    return f"{number(metric['mean'], rate=rate)} {interval(metric, rate=rate)}".rstrip()


def percent(value: float) -> str:
    """Print a share without needless decimals: 2%, 2.5%, 0.1%."""
    return f"{100 * value:.3g}%"


def verdict_words(
    results: Sequence[Result], *, target: float | None, confidence: float = 0.95
) -> tuple[str, str, Result | None]:
    """Return (status, sentence, the result it speaks of); the status is MET, NOT MET, UNDECIDED or NO TARGET."""
    require_verdict(results)
    chosen = [result for result in results if result.get("chosen")]
    if target is None:
        return "NO TARGET", _without_target(results), chosen[0] if chosen else None
    trained = [result for result in results if result["method"] != "base"]
    alone = next((group[0] for group in (results, trained) if len(group) == 1), None)
    subject = chosen[0] if chosen else alone
    if subject is None:
        return "UNDECIDED", _nothing_chosen(results, target), None
    estimate = estimate_of(subject, "unsafe_rate")
    if estimate is None:
        return "UNDECIDED", f"{subject['label']} has no scored answers to harmful prompts.", subject
    found = verdict_on(subject, target=target, confidence=confidence)
    if found is None or "unsafe_rate_corrected" in subject["metrics"]:
        return *_corrected(subject, estimate, found), subject
    return found.status, f"{_observed(subject, found)} {_ruling(found, len(subject.get('seeds', [0])))}", subject


def headline(sentence: str, subject: Result | None) -> str:
    """The sentence of a verdict as a heading: a capital to begin with, unless it begins with the subject's label."""
    if subject is not None and sentence.startswith(subject["label"]):
        return sentence
    return f"{sentence[:1].upper()}{sentence[1:]}"


def _nothing_chosen(results: Sequence[Result], target: float) -> str:
    known = any(estimate_of(result, helpfulness(results)) is not None for result in results)
    needed = "" if known else " and reward beside it"
    return (
        f"no setting was chosen to be held against the target of {percent(target)} unsafe: add select: 0.3 to "
        f"evaluate{needed}, or evaluate one model."
    )


def _corrected(subject: Result, observed: Estimate, found: Verdict | None) -> tuple[str, str]:
    """The verdict where people's labels say how the grader errs: the target is about unsafe answers, not its flags."""
    flagged = f"{percent_of(observed.mean)} of answers of {subject['label']} to {observed.n_prompts:,} harmful prompts"
    if found is None:
        return "UNDECIDED", f"{flagged} were flagged, which the grader's errors on labelled answers do not allow."
    if found.lower <= 0 and found.upper >= 1:
        return (
            found.status,
            f"{flagged} were flagged, by a grader whose errors on labelled answers leave open every rate.",
        )
    says = f"{flagged} were flagged, {percent_of(found.rate)} are unsafe by the grader's errors on labelled answers;"
    if found.status != "UNDECIDED":
        return found.status, f"{says} {_ruling(found)}"
    ends = f"between {percent(found.lower)} and {percent(found.upper)}"
    more = "more labelled answers and more prompts would decide"
    sure = percent(found.confidence)
    return found.status, f"{says} with {sure} confidence {ends}, target {percent(found.target)}: {more}."


def verdict_line(results: Sequence[Result], *, target: float | None, confidence: float = 0.95) -> str:
    """Say in one line whether the chosen setting keeps to the target, and if that is open, what would decide it."""
    status, sentence, _ = verdict_words(results, target=target, confidence=confidence)
    return f"{status}: {sentence}"


def price_words(results: Sequence[Result], subject: Result | None) -> str:
    """Say what the chosen setting pays in helpfulness and over-refusal, beside the base where it was evaluated."""
    if subject is None:
        return ""
    require_verdict([*results, subject])
    base = next((result for result in results if result["method"] == "base"), None)
    parts = []
    for column in (COLUMNS[1], helpful_column(results)):
        own = estimate_of(subject, column.metric)
        if own is None:
            continue
        text = f"{column.heading.lower()} {number(own.mean, rate=column.rate)}"
        other = estimate_of(base, column.metric) if base is not None and base is not subject else None
        parts.append(text if other is None else f"{text} (base {number(other.mean, rate=column.rate)})")
    sentence = ", ".join(reversed(parts))
    return f"{sentence[:1].upper()}{sentence[1:]}." if sentence else ""


def table(results: Sequence[Result]) -> Table:
    """Build the table a run ends with: unsafe, over-refusal, helpfulness, KL and gap, each with its interval."""
    require_verdict(results)
    columns = columns_of(results)
    levels = {metric["level"] for result in results for metric in result["metrics"].values()}
    best = {id(results[i]) for i in non_dominated(results)}
    shown = Table(
        caption=f"{_levels(levels)}● on the frontier  ★ chosen on select",
        caption_justify="left",
        box=SIMPLE_HEAD,
        pad_edge=False,
        collapse_padding=len(columns) > len(COLUMNS),  # five columns would leave names one letter's room of 80
    )
    shown.add_column("", width=1)
    shown.add_column("Model", overflow="fold")
    for column in columns:
        shown.add_column(column.heading, justify="right", no_wrap=True)
    for result in results:
        sign = "★" if result.get("chosen") else "●" if id(result) in best else ""
        cells = [table_cell(result["metrics"].get(column.metric), column) for column in columns]
        shown.add_row(sign, result["label"], *cells, style="bold" if result.get("chosen") else None)
    return shown


def control_table(section: Mapping[str, Any]) -> Table:
    """Build the terminal's table of controllability from the section of results.json (docs/evaluation.md)."""
    shown = Table(
        caption="Order: rank correlation, 1 if asking for more always brings more. Error: mean distance from the level "
        "asked for. Then the mean level where the lowest, the highest and nothing was asked for.",
        caption_justify="left",
        box=SIMPLE_HEAD,
        pad_edge=False,
        collapse_padding=True,
    )
    shown.add_column("Model", overflow="fold")
    shown.add_column("Asked for", no_wrap=True)
    for heading in ("Order", "Error", "Lowest", "Highest", "Nothing"):
        shown.add_column(heading, justify="right", no_wrap=True)
    for model in section["models"]:
        for place, objective in enumerate(section["objectives"]):
            found = model["objectives"][objective["name"]]
            shown.add_row(
                "" if place else model["label"],
                objective["name"],
                *(table_cell(found[key], CONTROL) for key in ("correlation", "error")),
                *_ends(found["achieved"]),
                _mean(found["plain"]),
            )
    return shown


def _ends(achieved: Mapping[str, Mapping[str, Any]]) -> tuple[str, str]:
    """The means at the lowest and the highest level that was asked for, ``1: 1.59``."""
    levels = sorted(achieved, key=float)
    shown = [f"{level}: {_mean(achieved[level])}" for level in levels]
    return (shown[0], shown[-1]) if len(shown) > 1 else (shown[0] if shown else UNKNOWN, UNKNOWN)


def _mean(metric: Mapping[str, Any] | None) -> str:
    return UNKNOWN if metric is None else number(metric["mean"], rate=False)


def table_cell(metric: Mapping[str, Any] | None, column: Column) -> str:
    """A figure in a terminal's table, its interval below it."""
    if metric is None:
        return UNKNOWN
    if metric["mean"] is None:
        return f"unscored ({metric['unscored']})"
    # Two lines, so that the table fits 80 columns; Rich reads brackets as markup.
    ends = interval(metric, rate=column.rate).replace("[", "\\[").replace(", ", ",")
    return f"{number(metric['mean'], rate=column.rate)}\n{ends}".rstrip()


def _levels(levels: set[float]) -> str:
    return "".join(f"{percent(level)} intervals  " for level in sorted(levels))


def _observed(subject: Result, found: Verdict) -> str:
    where = f"its answers to {found.n_prompts:,} harmful prompts"
    return f"{subject['label']} is unsafe in {percent_of(found.rate)} of {where};"


def percent_of(value: float) -> str:
    """Print an observed rate in a sentence: one decimal, but 0% and 100% without."""
    return f"{100 * value:.0f}%" if value in (0.0, 1.0) else number(value, rate=True)


def _ruling(found: Verdict, seeds: int = 1) -> str:
    sure = f"with {percent(found.confidence)} confidence"
    if found.status == "MET":
        return f"{sure} at most {percent(found.upper)}, within the target of {percent(found.target)}."
    if found.status == "NOT MET":
        return f"{sure} at least {percent(found.lower)}, above the target of {percent(found.target)}."
    open_case = f"{sure} between {percent(found.lower)} and {percent(found.upper)}, target {percent(found.target)}"
    if seeds > 1:  # more prompts alone would not settle how much training runs differ
        return f"{open_case}: more prompts or more than {seeds} seeds would decide."
    if found.more_prompts is None:
        return f"{open_case}: too close to the target for any number of prompts to decide."
    plural = "prompt" if found.more_prompts == 1 else "prompts"
    return f"{open_case}: about {rounded_up(found.more_prompts):,} more {plural} would decide if this rate holds."


def _without_target(results: Sequence[Result]) -> str:
    best = non_dominated(results)
    if not best:
        return f"no target was set, and no result has both an unsafe rate and a {helpfulness(results)}."
    names = ", ".join(results[i]["label"] for i in best)
    last = "least refusing" if axis_of(results) == "over_refusal" else "most helpful"
    return f"no target was set; from safest to {last} the frontier is {names}."


def rounded_up(count: int) -> int:
    """Round up to two significant digits: the number rests on an estimated rate."""
    step = 10 ** max(0, len(str(count)) - 2)
    return -(-count // step) * step


def metric_table(title: str, what: str, results: Sequence[Result], names: Sequence[str]) -> Table:
    """Some metrics of results with their intervals, a row for each label; `what` heads the labels."""
    table = Table(title=title, title_justify="left")
    table.add_column(what)
    for name in names:
        table.add_column(name.replace("_", " "), justify="right")
    for result in results:
        found = (result["metrics"][name] for name in names)
        table.add_row(result["label"], *(f"{m['mean']:.3f} [{m['low']:.3f}, {m['high']:.3f}]" for m in found))
    return table
