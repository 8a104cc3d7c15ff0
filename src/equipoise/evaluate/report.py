"""The report of a run: results.json and .csv, pages that open anywhere, a picture, and the lines a terminal shows."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from equipoise.errors import DataError
from equipoise.evaluate import page_parts, picture, samples_page
from equipoise.evaluate.chart import lay_out
from equipoise.evaluate.flat import flat
from equipoise.evaluate.frontier import axis_of, require_choice
from equipoise.evaluate.looks import SHAPES, legend, outline
from equipoise.evaluate.reliability import scorer_view
from equipoise.evaluate.results import read_results, replace_file, write_document, write_results
from equipoise.evaluate.rows import all_rows, common, few_rows, settings, wide_columns
from equipoise.evaluate.shortlist import shortlist
from equipoise.evaluate.trust import automatic_notes, trust_line, untested
from equipoise.evaluate.words import (
    beaten_words,
    headline,
    interval,
    number,
    percent,
    price_words,
    table,
    verdict_line,
    verdict_words,
)

__all__ = ["automatic_notes", "read_results", "table", "verdict_line", "write_one_page", "write_page", "write_results"]

SIZES = (("wide", 1080, 500, 13.0), ("middle", 720, 460, 13.0), ("narrow", 372, 440, 11.5))
"""A plot is laid out for three widths of window, so that its letters keep their size; one is shown."""
LOW = (("wide", 1112, 330, 13.0), *SIZES[1:])
"""The same for this page, whose plot leaves room for a table above the fold."""
SHEET = (1000, 440, 13.0)
LINES, LETTERS = 10, 105
"""How many lines of what was not tested fit on one sheet, and how many letters each holds."""

HARMS = (("unsafe_rate", "all harm"), ("over_refusal", "over-refusal"))
REFUSALS = (("over_refusal", "all borderline prompts"),)
ONE_PAGE = "one-page.html"
KINDS = (("benign", "Ordinary prompts"), ("borderline", "Borderline prompts"), ("harmful", "Harmful prompts"))


def write_page(
    out_dir: Path,
    results: Mapping[str, Any],
    samples: Sequence[Mapping[str, Any]] | None,
    *,
    title: str,
    target: float | None,
    notes: Sequence[str] = (),
    confidence: float = 0.95,
    config: str | None = None,
    answers: Iterable[Mapping[str, Any]] | None = None,
) -> Path:
    """Write index.html (one file, no network) and what lies beside it into `out_dir`; return the page's path.

    Beside it: samples.html where there are `answers` (rows of answers.jsonl) or else `samples`, frontier.png,
    results.csv, and results.json with what the page was told, so that it can be written again.

    `results` is a results.json document whose verdict results, optimum, controllability, scorers, judges and untested
    are shown; `samples` hold a prompt (text or messages), its kind and category, and per model label an answer and its
    cost; None leaves the samples.html that lies there. Harmful text stays closed until asked for.
    """
    shown = _shown(results)
    status, sentence, subject = verdict_words(shown, target=target, confidence=confidence)
    optimum, judges = results.get("optimum"), results.get("judges") or []
    told = {"title": title, "target": target, "confidence": confidence, "notes": list(notes), "config": config}
    first = [shown[i]["label"] for i in shortlist(shown, target=target, subject=subject)]
    if answers is not None:
        said = samples_page.from_answers(answers, first=first, judges=judges)
    else:
        said = samples_page.from_samples(samples or [], first=first)
    if said.prompts:
        link = f"{len(said.prompts):,} prompts with answers"
    else:
        link = "Prompts with answers" if samples is None and (out_dir / samples_page.FILE).is_file() else ""
    charts = [
        (name, lay_out(shown, width=width, height=height, font=font, target=target, optimum=optimum))
        for name, width, height, font in LOW
    ]
    if not charts[0][1].marks:
        charts = []
    notable = [shown[i] for i in page_parts.notable(shown, target=target)]
    scorers = results.get("scorers")
    page = _rendered(
        "page.html.j2",
        title=title,
        status=status,
        headline=headline(sentence, subject),
        price=price_words(shown, subject),
        charts=charts,
        against=_against(shown),
        beaten=beaten_words(shown),
        small=sum(mark.small for mark in charts[0][1].marks) if charts else 0,
        thin=optimum is not None and any(one["thin"] for one in optimum["points"]),
        legend=legend(shown),
        columns=wide_columns(shown),
        few=few_rows(shown, target=target, subject=subject),
        trust=trust_line(shown, results, subject),
        untested=untested(shown, results),
        notes=[*automatic_notes(shown), *notes],
        beside=page_parts.beside(out_dir),
        samples=(samples_page.FILE, link) if link else None,
        optimum=optimum,
        control=page_parts.control(results.get("controllability"), shown),
        scorers=scorer_view(scorers) if scorers else None,
        judges=page_parts.judges(judges),
        rows=all_rows(shown),
        harms=page_parts.categories(notable, "unsafe_rate/", HARMS),
        refusals=page_parts.categories(notable, "over_refusal/", REFUSALS),
        notable=len(notable) < len(shown),
        others=page_parts.other_suites(shown),
        choices=page_parts.choices(shown),
        facts=[results["created"][:10]],
        common=common(shown),
        settings=settings(shown),
        versions=sorted(results["versions"].items()),
        level=_level(shown),
        config=config,
        data=json.dumps({**results, "results": shown}, ensure_ascii=False, allow_nan=False, separators=(",", ":")),
    )
    subtitle = _subtitle(status, shown, target)
    write_document(out_dir / "results.json", {**results, "page": told})
    replace_file(out_dir / "results.csv", flat(results["results"]).encode())
    if charts:
        drawn = picture.draw(shown, title=title, subtitle=subtitle, target=target, optimum=optimum)
        replace_file(out_dir / "frontier.png", drawn)
    else:
        (out_dir / "frontier.png").unlink(missing_ok=True)  # what an earlier run left there shows other figures
    if said.prompts or samples is not None:
        _write_samples(out_dir / samples_page.FILE, said, title=title)
    path = out_dir / "index.html"
    replace_file(path, page.encode())
    return path


def write_one_page(
    out_dir: Path,
    results: Mapping[str, Any],
    *,
    title: str,
    target: float | None,
    notes: Sequence[str] = (),
    confidence: float = 0.95,
) -> Path:
    """Write one-page.html into `out_dir`, which prints on a single sheet of A4 or Letter; return its path."""
    shown = _shown(results)
    status, sentence, subject = verdict_words(shown, target=target, confidence=confidence)
    width, height, font = SHEET
    said = [*untested(shown, results), *automatic_notes(shown), *notes]
    room = [sum(-(-len(one) // LETTERS) for one in said[: i + 1]) <= LINES for i in range(len(said))]
    chart = lay_out(
        shown, width=width, height=height, font=font, target=target, optimum=results.get("optimum"), letter=0.6
    )
    page = _rendered(
        "one_page.html.j2",
        title=title,
        status=status,
        headline=headline(sentence, subject),
        price=price_words(shown, subject),
        chart=chart,
        against=_against(shown),
        beaten=beaten_words(shown),
        legend=[] if any(mark.small for mark in chart.marks) else legend(shown),
        optimum=results.get("optimum"),
        rows=all_rows(shown),
        few=few_rows(shown, target=target, subject=subject),
        trust=trust_line(shown, results, subject),
        untested=said[: sum(room)],
        unsaid=len(said) - sum(room),
        facts=[results["created"][:10], f"equipoise {results['versions'].get('equipoise', 'of an unknown version')}"],
        common=common(shown),
        level=_level(shown),
    )
    path = out_dir / ONE_PAGE
    replace_file(path, page.encode())
    return path


def environment() -> Environment:
    """Where pages come from: templates that escape what they show and refuse names that nobody gave them."""
    found = Environment(
        loader=FileSystemLoader(Path(__file__).parent / "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    found.globals.update(outline=outline, number=number, interval=interval, shapes=SHAPES)
    return found


def _rendered(template: str, **told: Any) -> str:
    return environment().get_template(template).render(**told)


def _shown(results: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """The verdict results of a document; one that has none, or whose choice nothing stands behind, is refused."""
    shown = [result for result in results["results"] if result["split"] == "verdict"]
    if not shown:
        hint = " (write_scorer_page shows scorers alone)" if results.get("scorers") else ""
        raise DataError(f"the page has nothing to show: no result comes from the verdict prompts{hint}")
    require_choice(results["results"])
    return shown


def _write_samples(path: Path, said: samples_page.Shown, *, title: str) -> None:
    if not said.prompts:
        path.unlink(missing_ok=True)  # what an earlier run left there answers other prompts
        return
    replace_file(path, _rendered("samples.html.j2", **samples_page.view(said, title=title)).encode())


def _against(results: Sequence[Mapping[str, Any]]) -> str:
    return "over-refusal" if axis_of(results) == "over_refusal" else "helpfulness"


def _level(results: Sequence[Mapping[str, Any]]) -> str:
    levels = {metric["level"] for result in results for metric in result["metrics"].values()}
    return " and ".join(percent(level) for level in sorted(levels))


def _subtitle(status: str, results: Sequence[Mapping[str, Any]], target: float | None) -> str:
    parts = [f"{_level(results)} intervals", "grey and hollow: another point is better in one, worse in neither"]
    if any(result.get("chosen") for result in results):
        parts.append("ringed and bold: chosen on select")
    if target is not None:
        parts.append(f"target {percent(target)}: {status}")
    return " · ".join(parts)
