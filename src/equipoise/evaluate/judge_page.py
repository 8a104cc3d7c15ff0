"""The page of judges that compare answers: what each leans on, by its name, and how often it is right."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from equipoise.errors import DataError
from equipoise.evaluate.judge_bias import headline
from equipoise.evaluate.report import environment
from equipoise.evaluate.results import replace_file
from equipoise.evaluate.words import UNKNOWN, figure, number, percent

FIGURES = (
    ("accuracy", "Right", "how often it takes the right answer, both orders averaged, a tie one half"),
    ("longer_wins", "The longer wins", "how often the rule that the longer answer wins would be right"),
    ("right_where_longer", "Right where longer", "how often it is right where the right answer is the longer one"),
    ("right_where_shorter", "Right where shorter", "how often it is right where the right answer is the shorter one"),
    ("consistency", "Same in both orders", "share of pairs judged alike whichever answer was shown first"),
)


def write_judge_page(
    out_dir: Path,
    results: Mapping[str, Any],
    *,
    title: str,
    notes: Sequence[str] = (),
    config: str | None = None,
) -> Path:
    """Write index.html (one file, no network, no script) into `out_dir`; return its path.

    `results` is a results.json document whose `judges` compare answers; its results, if any, are not shown.
    """
    judges = [one for one in results.get("judges") or () if one["kind"] == "pairwise"]
    if not judges:
        raise DataError("the page has nothing to show: the results hold no judge that compares answers (judges)")
    page = (
        environment()
        .get_template("judge_page.html.j2")
        .render(
            title=title,
            facts=[*_facts(judges), results["created"][:10]],
            verdict=_verdict(judges),
            judges=[_judge(one) for one in judges],
            figures=_figures(judges),
            level=" and ".join(
                sorted({percent(bias["estimate"]["level"]) for one in judges for bias in one["biases"]})
            ),
            notes=list(notes),
            versions=sorted(results["versions"].items()),
            config=config,
            data=json.dumps(dict(results), ensure_ascii=False, allow_nan=False),
        )
    )
    path = out_dir / "index.html"
    replace_file(path, page.encode())
    return path


def _facts(judges: Sequence[Mapping[str, Any]]) -> list[str]:
    sources = sorted({one["labels"]["source"] for one in judges if one.get("labels")})
    facts = [f"{len(judges)} judge{'s' * (len(judges) != 1)}", "asked in both orders", *sources]
    most = max(one["n"] for one in judges)
    return [*facts, f"{most:,} verdicts{' each' * (len(judges) > 1)}"]


def _verdict(judges: Sequence[Mapping[str, Any]]) -> str:
    """The headline of one judge, or how many of several lean on what."""
    if len(judges) == 1:
        return headline(judges[0])
    names = list(dict.fromkeys(bias["name"] for one in judges for bias in one["biases"] if bias["found"]))
    if not names:
        return f"None of {len(judges)} judges was found to lean on anything that was looked for."
    parts = []
    for name in names:
        count = sum(bias["found"] and bias["name"] == name for one in judges for bias in one["biases"])
        parts.append(f"{count} {name if count == 1 else name.replace('prefers', 'prefer').replace('avoids', 'avoid')}")
    fair = sum(not any(bias["found"] for bias in one["biases"]) for one in judges)
    rest = f"; {fair} {'leans' if fair == 1 else 'lean'} on neither" if fair else ""
    return f"Of {len(judges)} judges, {' and '.join(parts)}{rest}."


def _judge(judge: Mapping[str, Any]) -> dict[str, Any]:
    unscored = f", {judge['unscored']:,} unscored" if judge["unscored"] else ""
    return {
        "name": judge["name"],
        "what": f"{judge['n']:,} verdicts{unscored}",
        "headline": headline(judge),
        "biases": [_bias(one) for one in judge["biases"]],
    }


def _bias(bias: Mapping[str, Any]) -> dict[str, Any]:
    """A bias with its interval on a track from 0 to 100, what is fair in the middle of it."""
    metric = bias["estimate"]
    known = metric["mean"] is not None and metric["low"] is not None and metric["high"] is not None
    return {
        "name": bias["name"],
        "state": "found" if bias["found"] else "not found" if known else "cannot be told",
        "sentence": bias["sentence"],
        "words": number(metric["mean"], rate=True),
        "fair": 100 * bias["fair"],
        "bar": [round(100 * metric[end], 1) for end in ("low", "mean", "high")] if known else None,
    }


def _figures(judges: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """A row per judge; figures that no judge has are left out."""
    found = [{**(one.get("labels") or {}), "consistency": one.get("consistency")} for one in judges]
    shown = [column for column in FIGURES if any(one.get(column[0]) for one in found)]
    return {
        "columns": shown,
        "rows": [
            (judge["name"], [figure(own.get(key), rate=True) or UNKNOWN for key, _, _ in shown])
            for judge, own in zip(judges, found, strict=True)
        ],
    }
