"""results.csv: results.json as one flat table, a row per result, for a spreadsheet or a notebook."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Mapping, Sequence
from typing import Any

ABOUT = ("label", "method", "line", "seeds", "split", "chosen", "suite", "template", "system_prompt", "judge", "world")
COST = ("wall_s", "train_tokens", "devices", "model")
ENDS = (("mean", ""), ("low", " low"), ("high", " high"))


def flat(results: Sequence[Mapping[str, Any]]) -> str:
    """Return results as CSV: what each is, its setting by key, what it cost, and each metric as mean, low and high.

    What a result does not have is an empty cell. A cell that a spreadsheet would take for a formula begins with `'`.
    """
    settings = list(dict.fromkeys(key for result in results for key in result["setting"]))
    metrics = list(dict.fromkeys(name for result in results for name in result["metrics"]))
    heads = [*ABOUT, *(f"setting.{key}" for key in settings), "sampling", *COST]
    heads += [f"{name}{end}" for name in metrics for _, end in ENDS]
    written = io.StringIO()
    writer = csv.writer(written, lineterminator="\n")
    writer.writerow([_cell(head) for head in heads])
    for result in results:
        known = {"seeds": [result["seed"]], "chosen": False, **result}
        row = [known.get(key) for key in ABOUT]
        row += [result["setting"].get(key) for key in settings]
        row += [result["sampling"], *(result[key] for key in COST)]
        row += [(result["metrics"].get(name) or {}).get(key) for name in metrics for key, _ in ENDS]
        writer.writerow([_cell(value) for value in row])
    return written.getvalue()


def _cell(value: Any) -> Any:
    if value is None:
        return ""
    if isinstance(value, list) and all(isinstance(one, int) for one in value):
        return " ".join(map(str, value))
    if isinstance(value, bool | Mapping | list):
        return json.dumps(value, ensure_ascii=False)
    return f"'{value}" if isinstance(value, str) and value[:1] in ("=", "+", "-", "@", "\t", "\r") else value
