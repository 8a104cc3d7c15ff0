"""`equipoise compare A B`: two models by their results."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from equipoise.errors import DataError, SettingError, nearest
from equipoise.evaluate.compare import Comparison, compare, comparison_document, comparison_lines, comparison_table
from equipoise.evaluate.gate_sides import Side
from equipoise.evaluate.results import read_results
from equipoise.gating import stored
from equipoise.store import write_json

RESULTS = "results.json"


def compare_files(
    a: Path, b: Path, *, models: Sequence[str], force: bool, out: Path | None, say: Callable[[Any], None]
) -> Comparison:
    """Compare two results.json, or folders that hold one; `models` are labels: one for both, or one for each."""
    if len(models) > 2:
        raise SettingError(f"--model names one model for both, or one for each, got {len(models)}")
    labels = (models[0], models[-1]) if models else (None, None)
    first, second = (_side(path, label) for path, label in zip((a, b), labels, strict=True))
    if (first.where, first.label) == (second.where, second.label):
        raise SettingError(f"both sides are '{first.label}' of {first.where}: name two with --model A --model B")
    found = compare(first, second, force=force)
    if out is not None:
        write_json(out, comparison_document(found))
    say(comparison_table(found))
    for line in comparison_lines(found):
        say(line)
    return found


def _side(path: Path, label: str | None) -> Side:
    file = path / RESULTS if path.is_dir() else path
    verdict = [one for one in read_results(file)["results"] if one["split"] == "verdict"]
    labels = list(dict.fromkeys(one["label"] for one in verdict))
    if not labels:
        raise DataError(f"{file} has no verdict results, and a comparison looks at no others")
    if label is None and len(labels) > 1:
        raise SettingError(f"{file} holds {len(labels)} models: name one with --model{nearest('', labels)}")
    if label is not None and label not in labels:
        raise SettingError(f"{file} has no verdict results of a model '{label}'{nearest(label, labels)}")
    return stored(file, label or labels[0])
