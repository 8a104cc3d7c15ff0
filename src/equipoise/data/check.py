"""What an entry holds and what it can be used for: the report behind `equipoise data check`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import Any

from equipoise.data.columns import NO_FAULT, Reason
from equipoise.data.relabel import count_reasons, pairs, sft_targets, unpaired
from equipoise.data.sources import DataEntry, Located, open_entry
from equipoise.types import Dropped, SourceRow

_EXAMPLES = 5


@dataclass(frozen=True)
class Lengths:
    """Lengths in characters."""

    shortest: int
    median: float
    longest: int


@dataclass(frozen=True)
class LongerWins:
    """How often the longer of two answers is the preferred one (answers of equal length are left out)."""

    wins: int
    n: int

    @property
    def share(self) -> float | None:
        return self.wins / self.n if self.n else None


@dataclass(frozen=True)
class WrongRow:
    """A row that cannot be used and where it stands (the text of the row is never quoted)."""

    file: str
    line: int
    reason: str
    detail: str = ""


@dataclass(frozen=True)
class Use:
    """One way to train on the rows: `examples` come out, `dropped` counts what does not, by reason."""

    name: str
    objectives: tuple[str, ...]
    examples: int
    dropped: dict[str, int]
    possible: bool
    why_not: str = ""


@dataclass(frozen=True)
class CheckReport:
    """The findings about one entry; counts are rows unless they say otherwise."""

    path: str
    layout: str
    columns: tuple[str, ...]
    rows: int
    unreadable: dict[str, int]
    present: dict[str, int]
    prompt_characters: Lengths | None
    answer_characters: Lengths | None
    longer_preferred: dict[str, LongerWins]
    uses: tuple[Use, ...]
    wrong: tuple[WrongRow, ...] = field(default=())

    @property
    def objectives(self) -> tuple[str, ...]:
        """The objectives that can run on these rows, e.g. `dpo by better`."""
        return tuple(objective for use in self.uses if use.possible for objective in use.objectives)


def check(entry: DataEntry, *, base_dir: str | Path | None = None, max_dropped: float = 0.05) -> CheckReport:
    """Read an entry whole and report what is in it, what is wrong with it and which objectives can run on it."""
    opened = open_entry(entry, base_dir=base_dir)
    located = list(opened.rows)
    rows = [item.row for item in located if isinstance(item.row, SourceRow)]
    unreadable = [item.row for item in located if isinstance(item.row, Dropped)]
    tried = [_try(use, rows, unreadable, max_dropped) for use in _USES]
    possible = [dropped for use, dropped in tried if use.possible]
    return CheckReport(
        path=entry.path,
        layout=opened.layout.name,
        columns=opened.columns,
        rows=len(located),
        unreadable=count_reasons(unreadable),
        present=_present(rows),
        prompt_characters=_lengths([sum(len(turn["content"]) for turn in row.prompt) for row in rows]),
        answer_characters=_lengths([len(response.text) for row in rows for response in row.responses]),
        longer_preferred={axis: found for axis in ("better", "safer") if (found := _longer(rows, axis)).n},
        uses=tuple(use for use, _ in tried),
        wrong=_wrong(located, possible),
    )


_USES: tuple[tuple[str, tuple[str, ...], Callable[[list[SourceRow]], Any]], ...] = (
    ("pairs by helpfulness", ("dpo by better", "ipo by better"), lambda rows: pairs(rows, prefer="better")),
    ("pairs by safety", ("dpo by safer", "ipo by safer"), lambda rows: pairs(rows, prefer="safer")),
    ("pairs with safety flags", ("bfpo",), lambda rows: pairs(rows, prefer="better", flagged=True)),
    ("pairs, a safe answer first", ("safedpo",), lambda rows: pairs(rows, prefer="better_if_safe")),
    ("labels by helpfulness", ("kto by better",), lambda rows: unpaired(rows, prefer="better")),
    ("labels by safety", ("kto by safer",), lambda rows: unpaired(rows, prefer="safer")),
    ("answers to imitate", ("sft",), lambda rows: sft_targets(rows, choose="all")),
)


def _try(
    use: tuple[str, tuple[str, ...], Callable[[list[SourceRow]], Any]],
    rows: list[SourceRow],
    unreadable: Sequence[Dropped],
    max_dropped: float,
) -> tuple[Use, list[Dropped]]:
    name, objectives, derive = use
    used, dropped = derive(rows)
    lost = [*unreadable, *dropped]
    at_fault = [row for row in lost if row.reason not in NO_FAULT]
    counts = count_reasons(lost)
    why_not = ""
    if not used:
        why_not = max(counts, key=lambda reason: counts[reason]) if counts else "no rows"
    elif len(at_fault) > max_dropped * (len(rows) + len(unreadable)):
        why_not = f"more than {max_dropped:.0%} of the rows would be dropped"
    result = Use(name, objectives, len(used), counts, possible=not why_not, why_not=why_not)
    return result, [row for row in dropped if row.reason not in NO_FAULT]


def _present(rows: Sequence[SourceRow]) -> dict[str, int]:
    """Count the rows that have each kind of label; a flag or rating counts where every answer has it."""
    aspects = sorted({aspect for row in rows for response in row.responses for aspect in response.ratings})
    tests: dict[str, Callable[[SourceRow], bool]] = {
        "prompt only": lambda row: not row.responses,
        "one answer": lambda row: len(row.responses) == 1,
        "two answers": lambda row: len(row.responses) == 2,
        "better": lambda row: row.better is not None,
        "safer": lambda row: row.safer is not None,
        "safe flags": lambda row: bool(row.responses) and all(r.safe is not None for r in row.responses),
        "label": lambda row: row.desirable is not None,
        "category": lambda row: row.category is not None,
        "harm categories": lambda row: any(r.harm_categories for r in row.responses),
        "severity": lambda row: bool(row.responses) and all(r.severity is not None for r in row.responses),
        "reward": lambda row: bool(row.responses) and all(r.reward is not None for r in row.responses),
        "cost": lambda row: bool(row.responses) and all(r.cost is not None for r in row.responses),
    }
    counts = {name: sum(map(test, rows)) for name, test in tests.items()}
    for aspect in aspects:
        counts[f"rating {aspect}"] = sum(
            all(aspect in r.ratings for r in row.responses) for row in rows if row.responses
        )
    return {name: count for name, count in counts.items() if count}


def _lengths(values: Sequence[int]) -> Lengths | None:
    return Lengths(min(values), float(median(values)), max(values)) if values else None


def _longer(rows: Sequence[SourceRow], axis: str) -> LongerWins:
    """Count the pairs whose preferred answer is the longer one: the baseline a judge or reward model has to beat."""
    wins = n = 0
    for row in rows:
        first = row.better if axis == "better" else row.safer
        if first is None or len(row.responses) != 2:
            continue
        preferred, other = len(row.responses[first].text), len(row.responses[1 - first].text)
        wins += preferred > other
        n += preferred != other
    return LongerWins(wins, n)


def _wrong(located: Sequence[Located], dropped: Sequence[Sequence[Dropped]]) -> tuple[WrongRow, ...]:
    """Return examples, in the order of the file, of rows that cannot be read or that a possible use leaves out."""
    reasons: dict[str, str] = {}
    for row in (row for use in dropped for row in use):
        reasons.setdefault(row.id[:16], str(row.reason))
    seen: set[str] = set()
    found: list[WrongRow] = []
    for (file, line, _), row in located:
        if len(found) == _EXAMPLES:
            break
        if isinstance(row, Dropped):
            found.append(WrongRow(file, line, str(row.reason), row.detail))
        elif row.id in reasons and (reasons[row.id] != Reason.DUPLICATE or row.id in seen):
            found.append(WrongRow(file, line, reasons[row.id]))
        seen.add(row.id)
    return tuple(found)


def render(report: CheckReport) -> str:
    """Return the report as plain text, without any text of the rows."""
    lines = [f"{report.path}: {report.rows} rows, layout {report.layout}", f"  columns   {', '.join(report.columns)}"]
    lines.append(f"  present   {_counts(report.present) or 'nothing'}")
    for name, lengths in (("prompt", report.prompt_characters), ("answer", report.answer_characters)):
        if lengths is not None:
            lines.append(
                f"  {name}    {lengths.shortest} to {lengths.longest} characters, half of them up to {lengths.median:g}"
            )
    for axis, longer in report.longer_preferred.items():
        share = longer.share if longer.share is not None else 0.0
        lines.append(f"  length    the longer answer is the {axis} one in {share:.0%} of {longer.n} pairs")
    if report.unreadable:
        lines.append(f"  unreadable {_counts(report.unreadable)}")
    lines.append("  can be used for")
    for use in report.uses:
        dropped = f" (dropped: {_counts(use.dropped)})" if use.dropped and use.examples else ""
        names = ", ".join(use.objectives)
        if use.possible:
            lines.append(f"    yes  {names}: {use.examples} examples{dropped}")
        else:
            lines.append(f"    no   {names}: {use.why_not}{dropped}")
    if report.present.get("prompt only"):
        lines.append(f"    yes  prompts: {report.present['prompt only']}")
    if report.wrong:
        lines.append("  rows to look at")
        for row in report.wrong:
            place = f"{row.file} line {row.line}"
            lines.append(f"    {row.detail or place} ({row.reason})")
    return "\n".join(lines)


def _counts(counts: dict[str, int]) -> str:
    return ", ".join(f"{name} {count}" for name, count in counts.items())
