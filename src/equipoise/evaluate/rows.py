"""Results as rows of the page's tables: figures with their bars, the few above the fold, cost, settings."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from equipoise.evaluate.frontier import Result, non_dominated
from equipoise.evaluate.looks import looks, method_of
from equipoise.evaluate.shortlist import shortlist
from equipoise.evaluate.words import COLUMNS, UNKNOWN, Column, columns_of, figure, helpful_column, interval, number

LENGTH = Column("length", "Length", "tokens of an answer, the kinds of prompt weighted equally", False)
CAPABILITY = Column("capability", "Capability", "", True)
COST = "Training"
COMMON = ("suite", "judge", "template", "system_prompt", "sampling", "seeds", "devices", "world")
OWN = ("method", "setting", "model", "train_tokens", "wall_s")


def names_of(results: Sequence[Result]) -> list[str]:
    """What each result is called: its label, with the seed where several results share a label."""
    shared: dict[str, int] = {}
    for result in results:
        shared[result["label"]] = shared.get(result["label"], 0) + 1
    return [
        f"{result['label']}, seed {result['seed']}" if shared[result["label"]] > 1 else result["label"]
        for result in results
    ]


def all_rows(results: Sequence[Result]) -> list[dict[str, Any]]:
    """A row per result: look, setting, and a cell per column of `wide_columns`."""
    best, look, names = set(non_dominated(results)), looks(results), names_of(results)
    columns = wide_columns(results)
    return [
        {
            "index": i,
            "label": names[i],
            "method": method_of(result),
            "setting": pairs(result["setting"]),
            "cost": cost_words(result),
            "seconds": result["wall_s"] / len(result.get("seeds", [0])) if cost_words(result) != UNKNOWN else None,
            "look": look[i],
            "frontier": i in best,
            "chosen": bool(result.get("chosen")),
            "quiet": not (i in best or result.get("chosen") or result["method"] == "base"),
            "cells": [_cell(result["metrics"].get(column.metric), column) for column in columns],
        }
        for i, result in enumerate(results)
    ]


def wide_columns(results: Sequence[Result]) -> tuple[Column, ...]:
    """The columns of the table of all results: those of every table, and the length of answers where it is known."""
    known = any(LENGTH.metric in result["metrics"] for result in results)
    return (*columns_of(results), *([LENGTH] if known else []))


def few_rows(results: Sequence[Result], *, target: float | None, subject: Result | None) -> dict[str, Any]:
    """The table above the fold: at most five rows; capability where any result has it, cost where training had one.

    `under` holds what stands below each cell: the rate corrected for its grader's errors, where people's labels say
    what these are.
    """
    tasks = capability_tasks(results)
    columns = [*COLUMNS[:2], helpful_column(results)]
    heads = [(column.heading, column.meaning) for column in columns]
    if tasks:
        what = tasks[0] if len(tasks) == 1 else f"mean of {len(tasks)} tasks, without an interval: {', '.join(tasks)}"
        heads.append((CAPABILITY.heading, what))
    costly = any(cost_words(result) != UNKNOWN for result in results)
    if costly:
        heads.append((COST, "time and trained tokens of one seed"))
    rows, shown = all_rows(results), []
    for i in shortlist(results, target=target, subject=subject):
        cells = [_words(results[i]["metrics"].get(column.metric), column) for column in columns]
        if tasks:
            cells.append(_capability(results[i], tasks))
        if costly:
            cells.append((cost_words(results[i]), ""))
        under = [_corrected(results[i]["metrics"].get(f"{column.metric}_corrected")) for column in columns]
        shown.append({**rows[i], "cells": cells, "under": under + [""] * (len(cells) - len(under))})
    return {"heads": heads, "rows": shown, "left": len(results) - len(shown)}


def capability_tasks(results: Sequence[Result]) -> list[str]:
    """Names of the capability tasks that any result has."""
    prefix = "capability/"
    return sorted({n.removeprefix(prefix) for result in results for n in result["metrics"] if n.startswith(prefix)})


def cost_words(result: Result) -> str:
    """What training took for one seed: `41 s, 1.2M tokens`; `–` for a base and for what was not made here.

    A merge costs nothing itself, whatever the models that it joins did.
    """
    seeds, tokens = len(result.get("seeds", [0])), result["train_tokens"]
    if result["method"] == "base" or (not tokens and not result["wall_s"]):
        return UNKNOWN
    return f"{_time(result['wall_s'] / seeds)}, {_count(tokens / seeds)} tokens" if tokens else "none of its own"


def common(results: Sequence[Result]) -> list[tuple[str, str]]:
    """Fields on which all results agree, to be said once."""
    results = [{"seeds": [result["seed"]], **result} for result in results]
    return [(heading(key), plain(results[0].get(key))) for key in COMMON if key in results[0] and _agree(results, key)]


def settings(results: Sequence[Result]) -> dict[str, Any]:
    """Settings, model and cost of every result, and what they do not agree on."""
    names = names_of(results)
    results = [{"seeds": [result["seed"]], **result} for result in results]
    keys = [*OWN, *(key for key in COMMON if not _agree(results, key))]
    rows = [(name, [plain(result.get(key)) for key in keys]) for name, result in zip(names, results, strict=True)]
    return {"headings": [heading(key) for key in keys], "rows": rows}


def plain(value: Any) -> str:
    """A field of a result in words."""
    if value is None or value == {}:
        return UNKNOWN
    if isinstance(value, Mapping):
        return pairs(value)
    if isinstance(value, list):
        return ", ".join(plain(item) for item in value)
    if isinstance(value, float):
        return f"{value:,.4g}" if abs(value) < 1000 else f"{value:,.0f}"
    return f"{value:,}" if isinstance(value, int) and not isinstance(value, bool) else str(value)


def pairs(setting: Mapping[str, Any]) -> str:
    """A setting in words: `beta 0.1, q 0.5`."""
    return ", ".join(f"{key} {value}" for key, value in setting.items())


def heading(key: str) -> str:
    """What a field is called on the page."""
    return {"train_tokens": "trained tokens", "wall_s": "seconds", "system_prompt": "system prompt"}.get(key, key)


def _words(metric: Mapping[str, Any] | None, column: Column) -> tuple[str, str]:
    if metric is not None and metric["mean"] is None:
        return "unscored", ""
    return number(metric["mean"] if metric else None, rate=column.rate), interval(metric, rate=column.rate)


def _corrected(metric: Mapping[str, Any] | None) -> str:
    if metric is None:
        return ""
    return "corrected: unknown" if metric["mean"] is None else f"corrected {figure(metric, rate=True)}"


def _capability(result: Result, tasks: Sequence[str]) -> tuple[str, str]:
    found = [result["metrics"].get(f"capability/{task}") for task in tasks]
    if len(found) == 1:
        return _words(found[0], CAPABILITY)
    means = [metric["mean"] for metric in found if metric is not None and metric["mean"] is not None]
    return (number(sum(means) / len(means), rate=True) if len(means) == len(tasks) else UNKNOWN), ""


def _cell(metric: Mapping[str, Any] | None, column: Column) -> dict[str, Any]:
    words, ends = _words(metric, column)
    return {"column": column, "metric": metric, "words": words, "ends": ends}


def _agree(results: Sequence[Result], key: str) -> bool:
    return len({json.dumps(result.get(key), sort_keys=True) for result in results}) == 1


def _time(seconds: float) -> str:
    for most, unit, name in ((100, 1, "s"), (100 * 60, 60, "min"), (72 * 3600, 3600, "h")):
        if seconds < most:
            return f"{seconds / unit:.2g} {name}" if seconds / unit < 10 else f"{seconds / unit:.0f} {name}"
    return f"{seconds / 86400:.0f} days"


def _count(tokens: float) -> str:
    for least, name in ((1e9, "B"), (1e6, "M"), (1e3, "k")):
        if tokens >= least:
            return f"{tokens / least:.3g}{name}"
    return f"{tokens:.0f}"
