"""`equipoise evaluate`: models answer suites of prompts, graders say what they make of it, and a page says it all."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from equipoise.evaluate.subjects import Subject
from equipoise.evaluate.suites import KINDS, prompt_set, summarize
from equipoise.evaluate.verdicts import JUDGED_ON
from equipoise.evaluating_settings import BASE, Asked, EvaluateConfig, PlaygroundConfig
from equipoise.graders import GraderUse
from equipoise.grading import graded_metrics, judge_sections
from equipoise.measuring import NOT_ASKED, Answers, Measured, Row, measured_on, wins_of
from equipoise.methods.settings import read_config_text
from equipoise.records import read_jsonl, write_jsonl
from equipoise.spent import Spent, spent_on
from equipoise.stages import model_path
from equipoise.store import MANIFEST, Input, input_id, manifest, versions, write_text
from equipoise.types import Artefact

Say = Callable[[Any], None]

_NUMBERS = ("reward", "cost")
_NOT_TESTED = {
    "harmful": "Harm and over-refusal were not tested.",
    "benign": "Ordinary requests were not tested, so that nothing is said of helpfulness.",
    "honesty": "Honesty was not tested.",
    "hhh": "HHH (helpful, honest and harmless answers chosen by people) was not tested.",
}


def evaluate_as_asked(asked: Asked, *, say: Say) -> dict[str, Any]:
    """What the command does: models on the suites of a config, or on the playground."""
    if isinstance(asked.config, PlaygroundConfig):
        from equipoise.evaluating_playground import evaluate_playground

        return evaluate_playground(asked.config, asked.subjects(), say=say)
    out = asked.config.output_dir
    return evaluate_models(asked.config, asked.subjects(), out=out, base_dir=asked.base_dir, say=say)


def evaluate_models(
    config: EvaluateConfig, subjects: Sequence[Subject], *, out: Path, base_dir: Path, say: Say
) -> dict[str, Any]:
    """Sample, grade, question and summarize models; write results.json, answers.jsonl and the page under `out`.

    Returns the document of results.json. Everything slow is a stage: what is there is reused, what was killed goes on.
    """
    from equipoise.evaluate.results import read_results, write_results

    measured = measured_on(config, subjects, base_dir)
    wins, judge = wins_of(config, measured, base_dir)
    results = [
        _result(config, measured, answers, split, wins.get(split, {}))
        for answers in measured.answers
        for split in measured.splits
    ]
    shown, why = with_choice(config, results)
    judges = _judges(config, measured)
    out.mkdir(parents=True, exist_ok=True)
    write_jsonl(out / "answers.jsonl", [row for one in measured.answers for row in _told(config, measured, one)])
    write_text(out / "config.yaml", read_config_text(config))
    write_results(
        out / "results.json",
        [*shown, *(one for one in results if one["split"] == "select")],
        versions(),
        judges=[*judges, *judge] or None,
        untested=_untested(config),
    )
    document = read_results(out / "results.json")
    _report(config, document, out, say, why=why)
    return document


# ---- results ---------------------------------------------------------------------------------------------------------


def _result(
    config: EvaluateConfig, measured: Measured, answers: Answers, split: str, wins: Mapping[str, Any]
) -> dict[str, Any]:
    subject, part = answers.subject, answers.of(measured.splits[split])
    metrics: dict[str, Any] = {}
    if part.rows:
        metrics |= summarize(part.rows, seed=config.seed)
        metrics |= graded_metrics(config.graders, part.rows, part.gradings, calibrated=measured.calibrated)
    metrics |= wins.get(subject.label, {})
    asked: list[Row] = part.rows
    if split == "verdict":
        metrics |= measured.questions[subject.label]
        asked = [*asked, *({"prompt_id": one} for one in measured.question_ids)]
    spent = _spent(measured, subject.model)
    result = {
        "method": subject.method,
        "label": subject.label,
        "setting": dict(subject.setting),
        "seed": subject.seed,
        "model": subject.served or _named(subject.model),
        "split": split,
        "suite": config.evaluate.named(),
        "template": template_of(subject.model, config.chat_template),
        "system_prompt": config.system_prompt,
        "sampling": config.sampling.model_dump(mode="json"),
        "judge": config.judge,
        "metrics": metrics,
        "wall_s": spent.seconds,
        "train_tokens": spent.tokens,
        "devices": _devices(subject.model),
        "prompts": prompt_set(asked),
        "empty": dict(Counter(row["kind"] for row in part.rows if not row["text"].strip())),
        "cut_off": sum(row["finish_reason"] == "length" for row in part.rows),
    }
    return {**result, "line": subject.line} if subject.line else result


def _named(model: Input) -> str:
    return model.id if isinstance(model, Artefact) else model_path(model)


def _spent(measured: Measured, model: Input) -> Spent:
    """What a model took above the base that it is held beside; of one from outside the store nothing is known."""
    bases = {str(input_id(one.subject.model)) for one in measured.answers if one.subject.method == BASE}
    return spent_on(model, without=bases) if isinstance(model, Artefact) else Spent(0, 0)


def _devices(model: Input) -> int:
    if isinstance(model, Artefact) and (model.path / MANIFEST).is_file():
        return int(manifest(model)["summary"].get("devices", 1))
    return 1


def template_of(model: Input, setting: str | None) -> str:
    """The name of a model's chat template, or the first 12 hex digits of the hash of its text."""
    from equipoise.data.templates import TEMPLATES
    from equipoise.models.load import load_tokenizer

    if setting in TEMPLATES:
        return str(setting)
    text = load_tokenizer(model_path(model), setting).chat_template
    return next(
        (name for name, known in TEMPLATES.items() if known == text),
        hashlib.sha256(str(text).encode()).hexdigest()[:12],
    )


def with_choice(config: EvaluateConfig, results: Sequence[dict[str, Any]]) -> tuple[list[dict[str, Any]], str | None]:
    """The verdict results; with a target and select prompts, one of several models is chosen on these."""
    from equipoise.evaluate.frontier import helpfulness, verdict_results

    select = [one for one in results if one["split"] == "select"]
    axis = helpfulness(select) if select else None
    choosing = config.target is not None and len(select) > 1 and all(axis in one["metrics"] for one in select)
    if not choosing or config.target is None:
        return verdict_results([one for one in results if one["split"] == "verdict"])
    return verdict_results(results, target=config.target.unsafe_rate, confidence=config.target.confidence)


def _judges(config: EvaluateConfig, measured: Measured) -> list[dict[str, Any]]:
    parts = [one.of(measured.splits["verdict"]) for one in measured.answers]
    rows = [row for part in parts for row in part.rows]
    gradings = [[one for part in parts for one in part.gradings[i]] for i in range(len(config.graders))]
    return judge_sections(config.graders, rows, gradings, calibrated=measured.calibrated)


def _untested(config: EvaluateConfig) -> list[str]:
    return [words for name, words in _NOT_TESTED.items() if config.evaluate.__dict__[name] is None]


def _told(config: EvaluateConfig, measured: Measured, answers: Answers) -> list[Row]:
    """A model's answers as answers.jsonl holds them."""
    suite, select = config.evaluate.named(), measured.splits.get("select", frozenset())
    copied = ("prompt_id", "repeat", "kind", "category", "prompt", "text", "finish_reason", "n_tokens", *_NUMBERS)
    told = []
    for i, row in enumerate(answers.rows):
        verdicts = {
            grader.title: {"value": one.value, "label": one.label, "reason": one.reason}
            for grader, found in zip(config.graders, answers.gradings, strict=True)
            if (one := found[i]) is not NOT_ASKED
        }
        about = {
            "model": answers.subject.label,
            "split": "select" if row["prompt_id"] in select else "verdict",
            "suite": suite,
        }
        told.append({**about, **{name: row[name] for name in copied if name in row}, "verdicts": verdicts})
    return told


def notes_of(
    results: Sequence[Mapping[str, Any]], graders: Sequence[GraderUse], *, why: str | None = None
) -> list[str]:
    """What a reader must know besides the figures: why a model was chosen, empty and cut answers, unlike templates."""
    notes = [f"Chosen: {why}."] if why else []
    for one in results:
        empty = sum(one["empty"].values())
        if empty:
            by_kind = ", ".join(f"{one['empty'][kind]} to {kind} prompts" for kind in KINDS if kind in one["empty"])
            notes.append(f"{empty} answers of {one['label']} are empty ({by_kind}).")
    notes += _on_empty(results, graders)
    for one in results:
        answered = one["metrics"].get("length", {}).get("n", 0)
        if answered and one["cut_off"] > 0.05 * answered:
            notes.append(f"{one['cut_off'] / answered:.0%} of the answers of {one['label']} were cut off.")
    if len({one["template"] for one in results}) > 1:
        notes.append("The models' chat templates differ: each was asked in its own.")
    return notes


def _on_empty(results: Sequence[Mapping[str, Any]], graders: Sequence[GraderUse]) -> list[str]:
    """What each grader makes of an empty answer, where there are some to prompts that its rate is about."""
    kinds = {kind for one in results for kind, count in one["empty"].items() if count}
    said = []
    for use in graders:
        if JUDGED_ON[use.measured] in kinds:
            fault, fine = ("unsafe", "safe") if use.measured == "unsafe_rate" else ("a refusal", "a refusal")
            scored = f"scores it like any other and may call it {fault}"
            said.append(f"{use.title} {f'counts it as {fine}' if use.scorer is None else scored}")
    return [f"An empty answer: {'; '.join(said)}."] if said else []


def _report(config: EvaluateConfig, document: dict[str, Any], out: Path, say: Say, *, why: str | None) -> None:
    from equipoise.evaluate.report import write_page
    from equipoise.evaluate.words import table, verdict_line

    shown = [one for one in document["results"] if one["split"] == "verdict"]
    target = None if config.target is None else config.target.unsafe_rate
    confidence = 0.95 if config.target is None else config.target.confidence
    notes = notes_of(shown, config.graders, why=why)
    page = write_page(
        out, document, [], title="equipoise evaluate", target=target, notes=notes, confidence=confidence,
        config=read_config_text(config), answers=read_jsonl(out / "answers.jsonl"),
    )  # fmt: skip
    say(table(shown))
    if config.evaluate.harmful is not None:
        say(verdict_line(shown, target=target, confidence=confidence))
    for note in notes:
        say(f"note: {note}")
    say(str(page))
