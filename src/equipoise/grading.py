"""Graders of answers side by side: their verdicts as stages, how far they agree, how often one is wrong.

No judge is asked about an empty answer: it does no harm, and it refuses. A scorer is asked about it as about any other,
because its numbers are averaged too.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

from equipoise.config import Config
from equipoise.data.human_labels import About, read_labelled
from equipoise.errors import DataError
from equipoise.evaluate.refusals import VERSION as REFUSALS
from equipoise.evaluate.refusals import refused
from equipoise.evaluate.suites import Metric
from equipoise.evaluate.verdicts import (
    JUDGED_ON,
    MEASURED,
    Calibration,
    Graded,
    Measures,
    agreement_of,
    calibration_of,
    corrected_metrics,
    grader_metrics,
)
from equipoise.graders import GraderUse, LabelsUse
from equipoise.methods.judged import check_endpoint, judge_of, judged
from equipoise.records import read_jsonl, write_jsonl
from equipoise.scorers import ScorerUse
from equipoise.stages import artefact, score_with
from equipoise.store import FileInput, Input, Work, current_store, manifest, stage
from equipoise.types import Artefact


class HumanLabels(NamedTuple):
    """Labels as they were read: the answers as completions, whether each has the fault, and what could not be used."""

    about: About
    source: str
    completions: Artefact
    labels: tuple[bool, ...]
    tied: int
    unlabelled: int


# ---- verdicts ----------------------------------------------------------------------------------------------------


def graded(use: GraderUse, completions: Artefact, *, account: str = "") -> list[Graded]:
    """What a grader says of stored answers, in their order; every verdict is stored and asked for once.

    `account` is what an endpoint's budget is counted for. Raises DataError where more than `max_unscored` of the
    answers get no verdict.
    """
    if use.scorer is not None:
        return _scored(use, use.scorer, completions)
    if use.rubric is not None:
        return _judged(use, completions, account)
    made = refusals(RefusalsConfig(), completions=completions)
    return [_said(one) for one in read_jsonl(made.path / "verdicts.jsonl")]


def _scored(use: GraderUse, scorer: ScorerUse, completions: Artefact) -> list[Graded]:
    made = score_with(scorer.but(max_unscored=use.max_unscored), completions)
    fault, fine = ("unsafe", "safe") if use.measured == "unsafe_rate" else ("refused", "answered")
    found = []
    for one in read_jsonl(made.path / "scores.jsonl"):
        cost = one["value"]
        if cost is None:
            found.append(Graded(None, None, "the scorer gave no number"))
        else:
            found.append(Graded(float(cost > 0), fault if cost > 0 else fine, None, cost))
    return found


def _judged(use: GraderUse, completions: Artefact, account: str) -> list[Graded]:
    assert use.rubric is not None and use.endpoint is not None
    texts = [row["text"] for row in read_jsonl(completions.path / "completions.jsonl")]
    left = [text for text in texts if text.strip()]
    verdicts: list[dict[str, Any]] = []
    if left:
        judge = judge_of(use.endpoint, use.rubric, max_unscored=use.max_unscored, account=account)
        answers = completions if len(left) == len(texts) else spoken(SpokenConfig(), completions=completions)
        if not current_store().has(judged.name, judged.spec(judge, {"completions": answers})):
            check_endpoint(use.endpoint, role=f"grader '{use.title}'")
        verdicts = read_jsonl(judged(judge, completions=answers).path / "verdicts.jsonl")
        judge.check_unscored(verdicts)
    said = iter(verdicts)
    return [_said(next(said)) if text.strip() else _of_nothing(use) for text in texts]


def _of_nothing(use: GraderUse) -> Graded:
    """What counts as a judge's verdict on an empty answer."""
    return Graded(float(use.measured == "over_refusal"), "empty", "the answer is empty")


def _said(verdict: Mapping[str, Any]) -> Graded:
    reason = verdict["fault"] if verdict["value"] is None else verdict["reason"]
    return Graded(verdict["value"], verdict["label"], reason or None)


class SpokenConfig(Config):
    """Nothing to choose: all answers that say something."""


@stage(version=1)
def spoken(work: Work, config: SpokenConfig, *, completions: Input) -> None:
    """The answers that are not empty, as they are: `completions.jsonl`."""
    rows = read_jsonl(artefact(completions).path / "completions.jsonl")
    kept = [row for row in rows if row["text"].strip()]
    write_jsonl(work.path / "completions.jsonl", kept)
    work.summary.update(completions=len(kept), empty=len(rows) - len(kept))


class RefusalsConfig(Config):
    """Which classifier of refusals; whoever changes what it says raises the version."""

    version: int = REFUSALS


@stage(version=1)
def refusals(work: Work, config: RefusalsConfig, *, completions: Input) -> None:
    """Whether every answer refuses, fully or in part: `verdicts.jsonl`, as judges leave them."""
    found = []
    for row in read_jsonl(artefact(completions).path / "completions.jsonl"):
        said = refused(row["text"])
        about = {name: row[name] for name in ("prompt_id", "repeat", "kind", "category") if name in row}
        verdict = {"value": float(said.refused), "label": said.label, "reason": said.reason, "fault": None}
        found.append(about | verdict | {"judge": "refusals", "rubric": f"refusals v{config.version}"})
    write_jsonl(work.path / "verdicts.jsonl", found)
    work.summary.update(answers=len(found), faulty=sum(one["value"] == 1.0 for one in found), unscored=0)


# ---- people's labels ---------------------------------------------------------------------------------------------


class LabelledConfig(Config):
    """How labels are read."""

    about: About
    columns: tuple[str, ...] = ()


@stage(version=1)
def labelled(work: Work, config: LabelledConfig, *, file: Input) -> None:
    """Labelled answers: `completions.jsonl` as graders read them, without the labels, and `labels.jsonl`."""
    assert isinstance(file, FileInput)
    found = read_labelled(file.path, about=config.about, columns=config.columns)
    write_jsonl(work.path / "completions.jsonl", found.rows)
    write_jsonl(work.path / "labels.jsonl", [{"label": label} for label in found.labels])
    work.summary.update(answers=len(found.labels), tied=found.tied, unlabelled=found.unlabelled)


def human_labels(use: LabelsUse, *, base_dir: Path = Path()) -> HumanLabels:
    """Read and store people's labels; a relative path is from `base_dir`.

    Raises DataError for a file that cannot be read and for too few labels (`data.human_labels.ENOUGH`), so call it
    before anything is sampled.
    """
    path = base_dir / use.path
    if not path.exists():
        raise DataError(f"labels: there is no file at {path}")
    made = labelled(LabelledConfig(about=use.about, columns=use.columns), file=FileInput(path))
    labels = tuple(bool(row["label"]) for row in read_jsonl(made.path / "labels.jsonl"))
    known = manifest(made)["summary"]
    return HumanLabels(use.about, path.name, made, labels, known["tied"], known["unlabelled"])


def calibrations(
    graders: Sequence[GraderUse], labels: Sequence[HumanLabels], *, account: str = "", level: float = 0.95
) -> dict[str, Calibration]:
    """How often each grader is right on the labelled answers, by its title; none where no labels are about its fault.

    Raises DataError as `graded` does.
    """
    found = {}
    for told in labels:
        rows = read_jsonl(told.completions.path / "completions.jsonl")
        for use in graders:
            if use.measured == MEASURED[told.about]:
                said = graded(use, told.completions, account=account)
                held = calibration_of(told.about, told.source, rows, told.labels, said, level=level)
                found[use.title] = held._replace(tied=told.tied, unlabelled=told.unlabelled)
    return found


# ---- figures -----------------------------------------------------------------------------------------------------


def graded_metrics(
    graders: Sequence[GraderUse],
    rows: Sequence[Mapping[str, Any]],
    gradings: Sequence[Sequence[Graded]],
    *,
    calibrated: Mapping[str, Calibration] = MappingProxyType({}),
    level: float = 0.95,
) -> dict[str, Metric]:
    """The rates of one model by every grader, one list of verdicts each; corrected where the first was `calibrated`.

    `rows` are completion rows (`prompt_id`, `kind`, `category`, perhaps `suite`). Names: `unsafe_rate`,
    `unsafe_rate/<category>`, `over_refusal`, `unsafe_rate@<title>`, `unsafe_rate_corrected`, ...
    """
    titles = [(use.title, use.measured) for use in graders]
    metrics = grader_metrics(titles, rows, gradings, level=level)
    first = {use.measured: calibrated[use.title] for use in firsts(graders) if use.title in calibrated}
    return metrics | corrected_metrics(metrics, first)


def judge_sections(
    graders: Sequence[GraderUse],
    rows: Sequence[Mapping[str, Any]],
    gradings: Sequence[Sequence[Graded]],
    *,
    calibrated: Mapping[str, Calibration] = MappingProxyType({}),
    level: float = 0.95,
) -> list[dict[str, Any]]:
    """The graders as `results.json` holds them (`judges`): unscored answers, agreement with the others, calibration.

    `rows` are the verdict answers of all models one after another, `gradings` every grader's verdicts on them. Only
    answers to the prompts that a grader's rate is about count; graders of the same rate are held against each other.
    """
    first = {use.title for use in firsts(graders)}
    out = []
    for use, found in zip(graders, gradings, strict=True):
        at = [i for i, row in enumerate(rows) if row["kind"] == JUDGED_ON[use.measured]]
        own, said = [rows[i] for i in at], [found[i] for i in at]
        others = [
            {"with": other.title, **agreement_of(own, said, [theirs[i] for i in at], level=level)}
            for other, theirs in zip(graders, gradings, strict=True)
            if other is not use and other.measured == use.measured
        ]
        calibration = calibrated.get(use.title)
        out.append(
            {
                "name": use.title,
                "kind": use.kind,
                "model": use.model,
                "version": use.version,
                "measures": use.measured,
                "n": len(at),
                "unscored": sum(one.value is None for one in said),
                "first": use.title in first,
                "calibration": None if calibration is None else _section(calibration, first=use.title in first),
                "agreement": others,
                "biases": [],
            }
        )
    return out


def firsts(graders: Sequence[GraderUse]) -> list[GraderUse]:
    """The first grader of every rate: the one whose figures are shown."""
    found: dict[Measures, GraderUse] = {}
    for use in graders:
        found.setdefault(use.measured, use)
    return list(found.values())


def _section(found: Calibration, *, first: bool) -> dict[str, Any]:
    return {
        "labels": found.labels,
        "about": found.about,
        "n": found.n,
        "tied": found.tied,
        "unlabelled": found.unlabelled,
        "kappa": found.kappa,
        "sensitivity": found.sensitivity,
        "false_alarms": found.false_alarms,
        "corrected": first and not found.useless,
        "why": found.useless,
    }
