"""results.json: the figures of a run, read by people, the page and the gate (schema 1; fields: docs/evaluation.md)."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from equipoise.errors import DataError

if TYPE_CHECKING:
    from equipoise.statistics.optimum import Best, Pool

SCHEMA = 1

NEEDED = (
    "method",
    "setting",
    "seed",
    "model",
    "split",
    "suite",
    "template",
    "system_prompt",
    "sampling",
    "judge",
    "metrics",
    "wall_s",
    "train_tokens",
    "devices",
    "label",
)
METRIC = ("mean", "low", "high", "n", "n_prompts", "kind", "level", "unscored")
CONTROLLED = ("correlation", "error", "achieved", "unasked", "plain", "unscored")
SCORER = ("kind", "label", "model", "data", "n_pairs", "n_answers", "n_unsafe")
BIN = ("predicted", "observed", "low", "high", "n")
JUDGE = ("name", "kind", "model", "version", "measures", "n", "unscored", "first", "calibration", "agreement", "biases")
CALIBRATION, BIAS = ("labels", "n", "kappa", "sensitivity", "false_alarms", "corrected"), ("name", "found", "sentence")
PAGE = ("title", "target", "confidence", "notes", "config")
POINT = ("unsafe_rate", "reward", "reward_low", "reward_high", "kl", "ess", "largest_weight", "thin")


def write_results(
    path: Path,
    results: Sequence[Mapping[str, Any]],
    versions: Mapping[str, str],
    *,
    optimum: Mapping[str, Any] | None = None,
    controllability: Mapping[str, Any] | None = None,
    scorers: Sequence[Mapping[str, Any]] | None = None,
    judges: Sequence[Mapping[str, Any]] | None = None,
    untested: Sequence[str] | None = None,
    created: str | None = None,
) -> None:
    """Write results.json whole or not at all; `created` is an ISO time, now when not given.

    `optimum` is what `optimum_section` returns, `controllability` what `control.control_section` does, `scorers` a
    list of what `scorers.scorer_section` does. `judges` are the graders with agreement, calibration and biases,
    `untested` sentences on what was not tested (both: docs/evaluation.md).
    """
    document: dict[str, Any] = {
        "schema": SCHEMA,
        "created": created or datetime.now(UTC).isoformat(timespec="seconds"),
        "versions": dict(versions),
        "results": [dict(result) for result in results],
    }
    if optimum is not None:
        document["optimum"] = dict(optimum)
    if controllability is not None:
        document["controllability"] = dict(controllability)
    if scorers is not None:
        document["scorers"] = [dict(section) for section in scorers]
    if judges is not None:
        document["judges"] = [dict(section) for section in judges]
    if untested is not None:
        document["untested"] = list(untested)
    write_document(path, document)


def write_document(path: Path, document: Mapping[str, Any]) -> None:
    """Write a whole results.json document, checked; a figure that is nan or inf is refused."""
    _check(document, path)
    try:
        text = json.dumps(document, indent=1, ensure_ascii=False, allow_nan=False)
    except ValueError as error:
        raise DataError(f"{path} cannot hold nan or inf; a figure that is not known is null ({error})") from error
    replace_file(path, text.encode())


def read_results(path: Path) -> dict[str, Any]:
    """Read results.json; another schema or a result without its fields is refused in one sentence."""
    document = read_document(
        path, kind="results", article="a", schema=SCHEMA, writers="`equipoise run`, `evaluate` and `frontier` write it"
    )
    _check(document, path)
    return document


def read_document(path: Path, *, kind: str, article: str, schema: int, writers: str) -> dict[str, Any]:
    """Read a JSON file with a schema of its own, `kind` being what it is called; `writers` says where it comes from."""
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise DataError(f"{path} does not exist; {writers}") from error
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise DataError(f"{path} is not JSON ({error})") from error
    if not isinstance(document, dict) or "schema" not in document:
        raise DataError(f"{path} is not {article} {kind} file: it has no schema")
    if document["schema"] != schema:
        raise DataError(f"{path} has {kind} schema {document['schema']!r}, this version of equipoise reads {schema}")
    return document


def optimum_section(curve: Sequence[Best], pool: Pool, *, policies: Sequence[str]) -> dict[str, Any]:
    """Put the curve of `statistics.optimum.envelope` as results.json holds it; `policies` are the pool's labels."""
    if not curve or len(policies) != pool.logps.shape[1]:
        raise DataError(
            f"the optimum needs a curve with points and a label for each of {pool.logps.shape[1]} policies, "
            f"got {len(curve)} points and {len(policies)} labels"
        )
    return {
        "kl": curve[0].kl,
        "pool": {"policies": list(policies), "prompts": len(pool.kinds), "answers": len(pool.prompt)},
        "points": [
            {
                "unsafe_rate": point.unsafe_rate,
                "reward": point.reward.mean,
                "reward_low": point.reward.low,
                "reward_high": point.reward.high,
                "kl": point.tilt.kl.mean,
                "ess": point.tilt.ess,
                "largest_weight": point.tilt.largest_weight,
                # A pool that ends before the limit shows less than the optimum there, just as a thin one does.
                "thin": point.tilt.thin or point.capped,
            }
            for point in curve
        ],
    }


def replace_file(path: Path, content: bytes) -> None:
    """Put `content` at `path` in one step: a reader sees the old file or the new one."""
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with draft.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        draft.replace(path)
    finally:
        draft.unlink(missing_ok=True)


def _check(document: Mapping[str, Any], path: Path) -> None:
    for key in ("created", "versions", "results"):
        if key not in document:
            raise DataError(f"{path} lacks {key!r}")
    for number, result in enumerate(document["results"]):
        name = result.get("label", f"number {number}")
        missing = [key for key in NEEDED if key not in result]
        if missing:
            raise DataError(f"{path}: result {name!r} lacks {', '.join(missing)}")
        if result["split"] not in ("select", "verdict"):
            raise DataError(f"{path}: result {name!r} has split {result['split']!r}, expected 'select' or 'verdict'")
        for metric, values in result["metrics"].items():
            check_metric(values, f"metric {metric!r} of result {name!r}", path)
    if "optimum" in document:
        _check_optimum(document["optimum"], path)
    if "controllability" in document:
        _check_control(document["controllability"], path)
    if "scorers" in document:
        check_scorers(document["scorers"], path)
    if "judges" in document:
        _check_judges(document["judges"], path)
    if "page" in document:
        lacking = [key for key in PAGE if key not in document["page"]]
        if lacking:
            raise DataError(f"{path}: the settings of its page lack {', '.join(lacking)}")
    said = document.get("untested", [])
    if not isinstance(said, list) or not all(isinstance(one, str) for one in said):
        raise DataError(f"{path}: untested must be a list of sentences, got {said!r}")


def check_metric(values: Any, what: str, path: Path) -> None:
    """Refuse a metric that is not one or lacks a field; `what` names it in the sentence."""
    if not isinstance(values, Mapping):
        raise DataError(f"{path}: {what} is {values!r}, expected the fields {', '.join(METRIC)}")
    lacking = [key for key in METRIC if key not in values]
    if lacking:
        raise DataError(f"{path}: {what} lacks {', '.join(lacking)}")


def check_scorers(sections: Any, path: Path) -> None:
    """Refuse what is not a list of reports on reward and cost models, or lacks a field."""
    if not isinstance(sections, list) or not sections or not all(isinstance(one, Mapping) for one in sections):
        raise DataError(f"{path}: scorers must be a list of at least one report, got {type(sections).__name__}")
    for place, section in enumerate(sections):
        what = f"the report on scorer {section.get('label', f'number {place}')!r}"
        missing = [key for key in (*SCORER, "metrics", "beats", "calibration", "flipped") if key not in section]
        if missing:
            raise DataError(f"{path}: {what} lacks {', '.join(missing)}")
        if section["kind"] not in ("reward", "cost"):
            raise DataError(f"{path}: {what} has kind {section['kind']!r}, expected 'reward' or 'cost'")
        for name, metric in section["metrics"].items():
            if metric is not None:
                check_metric(metric, f"{name} in {what}", path)
        for name, found in section["calibration"].items():
            check_metric(found.get("error"), f"calibration error ({name}) in {what}", path)
            lacking = [key for key in ("ideal", "ideal_high", "bins") if key not in found]
            lacking += [key for one in found.get("bins", ()) for key in BIN if key not in one]
            if lacking:
                raise DataError(f"{path}: the calibration ({name}) in {what} lacks {', '.join(dict.fromkeys(lacking))}")


def _check_judges(sections: Any, path: Path) -> None:
    if not isinstance(sections, list) or not all(isinstance(one, Mapping) for one in sections):
        raise DataError(f"{path}: judges must be a list of what is known of each, got {type(sections).__name__}")
    for place, section in enumerate(sections):
        what = f"the judge {section.get('name', f'number {place}')!r}"
        _check_fields(section, JUDGE, what, path)
        found = section["calibration"]
        if found is not None:
            _check_fields(found, CALIBRATION, f"the calibration of {what}", path)
            for name in ("kappa", "sensitivity", "false_alarms"):
                check_metric(found[name], f"{name} of {what}", path)
        for other in section["agreement"]:
            _check_fields(other, ("with", "kappa", "percent", "n"), f"the agreement of {what}", path)
            for name in ("kappa", "percent"):
                check_metric(other[name], f"{name} of {what} and {other['with']!r}", path)
        for bias in section["biases"]:
            _check_fields(bias, BIAS, f"a bias of {what}", path)


def _check_fields(values: Mapping[str, Any], needed: Sequence[str], what: str, path: Path) -> None:
    lacking = [key for key in needed if key not in values]
    if lacking:
        raise DataError(f"{path}: {what} lacks {', '.join(lacking)}")


def _check_optimum(optimum: Any, path: Path) -> None:
    if not isinstance(optimum, Mapping) or not {"kl", "pool", "points"} <= optimum.keys() or not optimum["points"]:
        raise DataError(f"{path}: the optimum needs kl, pool and at least one of points")
    missing = [key for key in ("policies", "prompts", "answers") if key not in optimum["pool"]]
    if missing:
        raise DataError(f"{path}: the pool of the optimum lacks {', '.join(missing)}")
    before = -1.0
    for number, point in enumerate(optimum["points"]):
        lacking = [key for key in POINT if key not in point]
        if lacking:
            raise DataError(f"{path}: point {number} of the optimum lacks {', '.join(lacking)}")
        rate = point["unsafe_rate"]
        if not before < rate <= 1 or rate < 0:
            raise DataError(
                f"{path}: the unsafe rates of the optimum must rise from 0 to at most 1, got {rate} at point {number}"
            )
        before = rate


def _check_control(section: Any, path: Path) -> None:
    if not isinstance(section, Mapping) or not section.get("objectives") or not section.get("models"):
        raise DataError(f"{path}: controllability needs at least one of objectives and of models")
    for objective in section["objectives"]:
        missing = [key for key in ("name", "low", "high", "step") if key not in objective]
        if missing:
            raise DataError(f"{path}: an objective of controllability lacks {', '.join(missing)}")
    names = [objective["name"] for objective in section["objectives"]]
    for number, model in enumerate(section["models"]):
        label = model.get("label", f"number {number}")
        missing = [key for key in ("label", "model", "objectives", "others") if key not in model]
        missing += [name for name in names if name not in model.get("objectives", ())]
        if missing:
            raise DataError(f"{path}: the controllability of {label!r} lacks {', '.join(missing)}")
        for name in names:
            _check_controlled(model["objectives"][name], f"{name} of {label!r}", path)
        for asked, levels in model["others"].items():
            for level, metrics in levels.items():
                _check_level(level, f"{asked} of {label!r}", path)
                for other, values in metrics.items():
                    check_metric(values, f"{other} of {label!r} under {asked} {level}", path)


def _check_controlled(figures: Mapping[str, Any], what: str, path: Path) -> None:
    missing = [key for key in CONTROLLED if key not in figures]
    if missing:
        raise DataError(f"{path}: the controllability of {what} lacks {', '.join(missing)}")
    for key in ("correlation", "error", "unasked", "plain"):
        if figures[key] is not None:
            check_metric(figures[key], f"{key} of {what}", path)
    for level, values in figures["achieved"].items():
        _check_level(level, what, path)
        check_metric(values, f"level {level} of {what}", path)


def _check_level(level: str, what: str, path: Path) -> None:
    try:
        float(level)
    except ValueError as error:
        raise DataError(f"{path}: the controllability of {what} has level {level!r}, expected a number") from error
