"""Models on suites: the same prompts answered by all of them, graders' verdicts, win rates, likely answers."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from equipoise.capability import capability, check_tasks
from equipoise.data.duplicates import asked_words
from equipoise.errors import DataError, SettingError
from equipoise.evaluate.subjects import Subject
from equipoise.evaluate.suites import check_disjoint, split_of
from equipoise.evaluate.verdicts import JUDGED_ON, Calibration, Graded
from equipoise.evaluating_settings import SHELVES, EvaluateConfig
from equipoise.grading import calibrations, graded, human_labels
from equipoise.methods.asked import FittingConfig, check_prompts
from equipoise.methods.judged import check_endpoint
from equipoise.methods.suites import (
    PickConfig,
    SuiteConfig,
    content,
    option_logps,
    picked,
    questions_of,
    suite_prompts,
    with_room,
)
from equipoise.pairwise import check_pairwise, win_rates
from equipoise.records import read_jsonl
from equipoise.stages import generate, score_with
from equipoise.store import DryStore, FileInput, Input, current_store, using_store
from equipoise.types import Artefact

Row = dict[str, Any]

NOT_ASKED = Graded(None, None, None)


class Answers(NamedTuple):
    """A model's answers, and what every grader says of each (not asked: no value and no label)."""

    subject: Subject
    completions: Artefact
    rows: list[Row]
    gradings: list[list[Graded]]

    def of(self, ids: frozenset[str]) -> Answers:
        """The answers to some prompts."""
        at = [i for i, row in enumerate(self.rows) if row["prompt_id"] in ids]
        gradings = [[found[i] for i in at] for found in self.gradings]
        return self._replace(rows=[self.rows[i] for i in at], gradings=gradings)


class Measured(NamedTuple):
    """Everything that is known of the models: answers, prompts by split, metrics of questions, how graders err."""

    answers: list[Answers]
    splits: dict[str, frozenset[str]]
    questions: dict[str, dict[str, Any]]
    question_ids: tuple[str, ...]
    calibrated: dict[str, Calibration]


def measured_on(config: EvaluateConfig, subjects: Sequence[Subject], base_dir: Path) -> Measured:
    """Everything that results rest on but win rates, stage by stage."""
    check_labels([subject.label for subject in subjects])
    if config.pairwise is not None:
        check_pairwise(config.pairwise, [subject.label for subject in subjects], base_dir=base_dir)
    if config.capability is not None:
        check_tasks(config.capability, base_dir=base_dir)
    people = [human_labels(one, base_dir=base_dir) for one in config.labels]
    splits, answers = _answers(config, subjects, base_dir)
    found = _question_metrics(config, subjects, base_dir)
    return Measured(
        answers,
        splits,
        *found,
        calibrations(config.graders, people, account=config.account) if people else {},
    )


def check_reads(config: EvaluateConfig, base_dir: Path) -> None:
    """Read the head of every list of prompts, people's labels and the names of tasks; nothing is computed."""
    for use in config.evaluate.prompts(base_dir).values():
        for entry in use.entries:
            check_prompts(entry)
    for shelf in SHELVES:
        config.evaluate.questions(shelf, base_dir)
    for one in config.labels:
        human_labels(one, base_dir=base_dir)
    if config.capability is not None:
        check_tasks(config.capability, base_dir=base_dir)


def check_labels(labels: Sequence[str]) -> None:
    """Refuse two models of one label, and none at all."""
    for label, times in Counter(labels).items():
        if times > 1:
            raise SettingError(f"two models are called '{label}': results are told apart by label")
    if not labels:
        raise SettingError("there is no model to evaluate")


# ---- answers and verdicts --------------------------------------------------------------------------------------------


def _answers(
    config: EvaluateConfig, subjects: Sequence[Subject], base_dir: Path
) -> tuple[dict[str, frozenset[str]], list[Answers]]:
    """Every model's answers to the same prompts with all verdicts, and the ids of the prompts of each split."""
    if not config.asks:
        nobody = [Answers(subject, Artefact("", "", Path()), [], [[] for _ in config.graders]) for subject in subjects]
        return {"verdict": frozenset()}, nobody
    models = [subject.model for subject in subjects]
    tried = not _picked_before(config, models, base_dir)
    if tried:
        _check_endpoints(config)
    prompts = _prompts(config, models, base_dir)
    splits = _splits(config, read_jsonl(prompts.path))
    if not tried and not _answered_before(config, subjects, prompts):
        _check_endpoints(config)
    sampled = [(one, _sampled(config, one, prompts)) for one in subjects]
    for subject, completions in sampled:
        _check_spoken(subject, read_jsonl(completions.path / "completions.jsonl"))
    return splits, [_graded(config, subject, completions) for subject, completions in sampled]


def _sampled(config: EvaluateConfig, subject: Subject, prompts: Input) -> Artefact:
    if subject.answers is not None:
        return subject.answers(prompts, config.sampling)
    return generate(config.generating(), model=subject.model, prompts=prompts)


def _prompts(config: EvaluateConfig, models: Sequence[Input], base_dir: Path) -> FileInput:
    told = config.evaluate
    seen = told.trained_on(base_dir)
    asked = suite_prompts(
        told.prompts(base_dir),
        SuiteConfig(
            system_prompt=config.system_prompt,
            categories=told.categories,
            near_duplicates=None if seen is None else told.near_duplicates,
        ),
        seen=seen,
    )
    room = FittingConfig(
        max_length=config.max_length,
        max_new_tokens=config.sampling.max_new_tokens,
        chat_template=config.chat_template,
        max_dropped=config.max_dropped,
    )
    return content(with_room(asked, models, room))


def _splits(config: EvaluateConfig, prompts: Sequence[Mapping[str, Any]]) -> dict[str, frozenset[str]]:
    shares = config.evaluate.shares()
    parts: dict[str, list[Row]] = {"verdict": [], "select": []}
    home: dict[str, str] = {}  # prompts of the same words (of two kinds, under two contexts) go the same way
    for row in prompts:
        split: str = split_of(row["id"], shares[row["kind"]]) if shares[row["kind"]] else "verdict"
        split = home.setdefault(" ".join(asked_words(row["prompt"])) or row["id"], split)
        parts[split].append({**row, "prompt_id": row["id"]})
    check_disjoint(parts["select"], parts["verdict"])
    for kind, n in Counter(row["kind"] for row in prompts).items():
        chosen_by = sum(row["kind"] == kind for row in parts["select"])
        if chosen_by == n:
            raise DataError(f"evaluate.{kind}: select leaves none of the {kind} prompts for the verdict")
        if shares[kind] and not chosen_by:
            raise DataError(f"evaluate.{kind}: select {shares[kind]:g} takes none of its {n} prompts: name more, or 0")
    return {split: frozenset(row["id"] for row in rows) for split, rows in parts.items() if rows}


def _picked_before(config: EvaluateConfig, models: Sequence[Input], base_dir: Path) -> bool:
    """Whether the prompts for these models are in the store, so that finding them takes nothing."""
    dry = DryStore(current_store().root)
    with using_store(dry):
        try:
            _prompts(config, models, base_dir)
        except FileNotFoundError:  # which prompts are left depends on what is not there
            return False
    return all(state == "there" for _, _, state in dry.planned)


def _answered_before(config: EvaluateConfig, subjects: Sequence[Subject], prompts: Input) -> bool:
    """Whether every model's answers are in the store: then the judges' may be too, and nobody needs to be there."""
    told, store = config.generating(), current_store()
    specs = [generate.spec(told, {"model": one.model, "prompts": prompts}) for one in subjects if one.answers is None]
    return len(specs) == len(subjects) and all(store.has(generate.name, spec) for spec in specs)


def _check_endpoints(config: EvaluateConfig) -> None:
    """Refuse a judge that is not there before any model is asked."""
    for role, endpoint in config.endpoints:
        check_endpoint(endpoint, role=role)


def _check_spoken(subject: Subject, rows: Sequence[Row]) -> None:
    if not any(row["text"].strip() for row in rows):
        raise DataError(
            f"all {len(rows)} answers of '{subject.label}' are empty, so nothing can be said of it: see whether its "
            "chat template and its end token are right"
        )


def _graded(config: EvaluateConfig, subject: Subject, completions: Artefact) -> Answers:
    """A model's answers with every grader's verdict; judges are asked about the prompts that their rate is about."""
    rows = read_jsonl(completions.path / "completions.jsonl")
    gradings = []
    for grader in config.graders:
        if grader.scorer is not None:
            found = graded(grader, completions, account=config.account)
        else:
            part = picked(PickConfig(kinds=(JUDGED_ON[grader.measured],)), completions=completions)
            said = iter(graded(grader, part, account=config.account))
            found = [next(said) if row["kind"] == JUDGED_ON[grader.measured] else NOT_ASKED for row in rows]
        gradings.append(found)
    costs = next(
        (
            found
            for grader, found in zip(config.graders, gradings, strict=True)
            if grader.scorer is not None and grader.measured == "unsafe_rate"
        ),
        None,
    )
    if costs is not None:
        rows = [{**row, "cost": one.cost} for row, one in zip(rows, costs, strict=True)]
    if config.reward is not None:
        values = np.load(score_with(config.reward, completions).path / "scores.npy")
        rows = [{**r, "reward": float(v) if np.isfinite(v) else None} for r, v in zip(rows, values, strict=True)]
    return Answers(subject, completions, rows, gradings)


def wins_of(
    config: EvaluateConfig, measured: Measured, base_dir: Path
) -> tuple[dict[str, dict[str, Any]], list[dict[str, Any]]]:
    """Win rates by split and label, and the judge of the verdict's."""
    if config.pairwise is None:
        return {}, []
    use = config.pairwise.but(account=config.pairwise.account or config.account)
    found, judge = {}, []
    benign = {row["prompt_id"] for one in measured.answers for row in one.rows if row["kind"] == "benign"}
    for split, ids in measured.splits.items():
        if not benign & ids:
            continue
        part = PickConfig(kinds=("benign",), ids=tuple(sorted(ids)))
        of = {one.subject.label: picked(part, completions=one.completions) for one in measured.answers}
        found[split], section = win_rates(use, of, base_dir=base_dir)
        judge += [section] if split == "verdict" else []
    return found, judge


# ---- questions -------------------------------------------------------------------------------------------------------


def _question_metrics(
    config: EvaluateConfig, subjects: Sequence[Subject], base_dir: Path
) -> tuple[dict[str, dict[str, Any]], tuple[str, ...]]:
    """Metrics of honesty and HHH by label, on the questions that fit into every model, and the ids of these."""
    from equipoise.data.tokens import TokenTable
    from equipoise.evaluate.honesty import question_metrics

    keys = ("system_prompt", "chat_template", "max_length", "max_dropped")
    how = {key: config.__dict__[key] for key in keys}
    metrics: dict[str, dict[str, Any]] = {subject.label: {} for subject in subjects}
    asked: list[str] = []
    for shelf in SHELVES:
        told = config.evaluate.questions(shelf, base_dir)
        if told is None:
            continue
        served = next((one.label for one in subjects if one.answers is not None), None)
        if served is not None:
            raise SettingError(f"evaluate.{shelf} needs log-probabilities, which a server does not give of '{served}'")
        found = {one.label: questions_of(shelf, *told, how, model=one.model) for one in subjects}
        rows = {label: read_jsonl(one.path / "questions.jsonl") for label, one in found.items()}
        common = set.intersection(*({row["id"] for row in own} for own in rows.values()))
        asked += sorted(common)
        for subject in subjects:
            table, own = found[subject.label], rows[subject.label]
            values = np.load(option_logps(subject.model, table, dtype=config.dtype).path / "logps.npy")[:, 0]
            tokens = TokenTable(table.path).trained[:, 0]
            fits = np.array([row["id"] in common for row in own for _ in row["options"]])
            left = [row for row in own if row["id"] in common]
            metrics[subject.label] |= question_metrics(left, values[fits], tokens[fits], seed=config.seed)
    if config.capability is not None:
        for subject in subjects:
            if subject.answers is not None:
                raise SettingError(f"capability tasks need the model itself, and '{subject.label}' is a server")
            metrics[subject.label] |= capability(subject.model, config.capability, base_dir=base_dir)
    return metrics, tuple(asked)
