"""`equipoise report`: the page of a run again, from its results.json."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from equipoise.errors import DataError
from equipoise.evaluate.report import write_one_page, write_page
from equipoise.evaluate.results import read_results
from equipoise.records import read_jsonl

ANSWERS = "answers.jsonl"
NEEDED = ("model", "split", "suite", "prompt_id", "repeat", "kind", "prompt", "text")


def render_again(path: Path, *, out: Path | None = None, one_page: bool = False, target: float | None = None) -> Path:
    """Write the page of results.json at `path`, or in that folder, into `out` (where it lies); return its path.

    Title, target, notes and configuration are those the page was written with; `target` takes the place of its own.
    With answers.jsonl beside results.json samples.html is written again, too; without, it stays as it is. `one_page`
    writes one-page.html instead.
    """
    file = path / "results.json" if path.is_dir() else path
    document = read_results(file)
    told = document.get("page") or {"title": file.resolve().parent.name, "target": None}
    to = out or file.parent
    if one_page:
        return write_one_page(
            to,
            document,
            title=told["title"],
            target=told["target"] if target is None else target,
            notes=told.get("notes", ()),
            confidence=told.get("confidence", 0.95),
        )
    answers = file.parent / ANSWERS
    return write_page(
        to,
        document,
        None,
        title=told["title"],
        target=told["target"] if target is None else target,
        notes=told.get("notes", ()),
        confidence=told.get("confidence", 0.95),
        config=told.get("config"),
        answers=_rows(answers) if answers.is_file() else None,
    )


def _rows(path: Path) -> Iterator[dict[str, Any]]:
    for number, row in enumerate(read_jsonl(path), 1):
        missing = [key for key in NEEDED if key not in row]
        if missing:
            raise DataError(f"{path}, line {number} lacks {', '.join(missing)}")
        for grader, verdict in (row.get("verdicts") or {}).items():
            if not isinstance(verdict, Mapping) or "value" not in verdict:
                raise DataError(f"{path}, line {number}: the verdict of '{grader}' has no value (a number or null)")
        yield row
