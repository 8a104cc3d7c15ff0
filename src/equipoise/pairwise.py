"""Which of two models' answers a judge calls the better ones: asked in both orders, and how far it can be believed."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any, Self

from pydantic import Field, model_validator

from equipoise.config import Config, Execution
from equipoise.errors import SettingError, nearest
from equipoise.evaluate.judge_bias import Contest, against_labels, biases, consistency
from equipoise.evaluate.refusals import refused
from equipoise.evaluate.suites import Metric, metric_of
from equipoise.judges import Endpoint
from equipoise.judges.pairs import ORDERS, Axis
from equipoise.methods.comparing import (
    Brought,
    Comparing,
    brought,
    compared,
    counts_of,
    judged_pairs,
    labelled_matches,
    reference_outputs,
)
from equipoise.records import read_jsonl
from equipoise.statistics import Estimate, Judgement, win_rate
from equipoise.store import FileInput
from equipoise.types import Artefact

Rows = list[dict[str, Any]]


class PairwiseUse(Config):
    """Who compares answers pair by pair, always in both orders, and with what they are held against each other.

    `rubric` is better (helpfulness) or safer. `reference` is the label of the model that the others are held against;
    `reference_outputs` in its place a file of outputs by `instruction`, as AlpacaEval has them. `labels` is a file of
    pairs whose better answer is known (`prompt`, `chosen`, `rejected`), by which the judge's biases are measured.
    `repeats` asks more than once, which takes a temperature. Of the replies a share of `max_unscored` may be
    unreadable; `account` is what a budget is counted for.
    """

    endpoint: Endpoint
    rubric: Axis = "better"
    repeats: int = Field(1, ge=1)
    reference: str | None = None
    reference_outputs: str | None = None
    labels: str | None = None
    max_unscored: float = Execution(0.01, ge=0, le=1)
    account: str = Execution("")

    @model_validator(mode="after")
    def _refuse(self) -> Self:
        if self.reference is not None and self.reference_outputs is not None:
            raise ValueError("reference and reference_outputs both say what models are held against: give one of them")
        if self.repeats > 1 and self.endpoint.temperature == 0:
            raise ValueError(
                f"repeats: {self.repeats} would ask for the same reply again, as endpoint.temperature is 0"
            )
        return self

    @property
    def versioned(self) -> str:
        """The rubric and its version, as results name it."""
        return ORDERS[self.rubric].versioned

    @property
    def metric(self) -> str:
        """What the metric is called in results."""
        return "win_rate" if self.rubric == "better" else f"win_rate_{self.rubric}"

    @property
    def against(self) -> str:
        """What models are held against: a label, or the name of a file."""
        return self.reference or Path(self.reference_outputs or "").name

    @property
    def name(self) -> str:
        """What the judge is called in results."""
        return f"{self.endpoint.model} {self.versioned}"


def win_rates(
    use: PairwiseUse,
    answers_of: Mapping[str, Artefact],
    reference: str | None = None,
    *,
    base_dir: Path = Path(),
) -> tuple[dict[str, dict[str, Metric]], dict[str, Any]]:
    """How often each model's answers win against the reference's, {label: {"win_rate": metric}}, and the judge.

    `answers_of` holds completions by label; `reference`, unless given, is what `use` says. A tie counts one half, and
    so do answers of the same words, which nobody is asked about; the reference itself stands at 0.5 by definition.
    The second value is the judge's entry of `judges` in results.json; beside its fields it has `consistency`, `pairs`
    (identical, unpaired) and, with `labels`, how often it is right. By the rubric `safer` the metric is
    `win_rate_safer`. Paths are relative to `base_dir`. Raises SettingError for a reference that is none of the labels,
    DataError where no prompt was answered by both.
    """
    against_of, name = _references(use, answers_of, reference, base_dir)
    comparing = _comparing(use)
    metrics: dict[str, dict[str, Metric]] = {}
    contests: list[Contest] = []
    counts: Counter[str] = Counter()
    for label, completions in answers_of.items():
        if label == name:
            continue
        done = compared(comparing, completions=completions, against=against_of[label])
        rows = read_jsonl(done.path / "verdicts.jsonl")
        comparing.check_unscored([row for row in rows if row["request"] is not None])  # stored ones, perhaps laxer
        found = win_rate(_judgements(rows, label, name), model=label, against=name)
        metrics[label] = {use.metric: metric_of(found.rate, unscored=found.unscored)}
        contests += contests_of(rows, model=label)
        counts.update(counts_of(rows), unpaired=_unpaired(completions, rows))
    if name in answers_of:
        metrics[name] = {use.metric: _itself(answers_of[name])}
    return metrics, _section(use, contests, counts, base_dir=base_dir)


def check_judge(use: PairwiseUse, pairs: Path, *, source: str | None = None) -> dict[str, Any]:
    """A judge held against pairs whose better answer is known: its entry of `judges`, with accuracy and biases.

    `pairs` has `prompt`, `chosen` and `rejected` in each record, texts or messages; `source` is what the page calls it.
    """
    contests, counts = _labelled(use, pairs)
    return {
        **_about(use, counts),
        "consistency": consistency(contests),
        "labels": against_labels(contests, source=source or pairs.name),
        "biases": biases(contests, labelled=True),
    }


def contests_of(rows: Sequence[Mapping[str, Any]], *, model: str = "", refusals: bool = False) -> list[Contest]:
    """Verdicts -> contests, a pair each, the one asked about first; pairs of the same words are left out.

    `refusals` looks at who refuses (English, by `evaluate.refusals`).
    """
    grouped: dict[tuple[str, int], list[Mapping[str, Any]]] = {}
    for row in rows:
        if row["request"] is not None:
            grouped.setdefault((row["prompt_id"], row["repeat"]), []).append(row)
    out = []
    for (prompt, _), own in grouped.items():
        shares: list[float | None] = []
        for order in (0, 1):
            values = [row["value"] for row in own if row["order"] == order and row["value"] is not None]
            shares.append(fmean(values) if values else None)
        first, second = own[0]["texts"]
        declines = (refused(first).refused, refused(second).refused) if refusals else None
        out.append(Contest(prompt, (len(first), len(second)), shares[0], shares[1], model, declines))
    return out


def _comparing(use: PairwiseUse) -> Comparing:
    return Comparing(
        endpoint=use.endpoint,
        rubric=use.rubric,
        version=ORDERS[use.rubric].version,
        repeats=use.repeats,
        max_unscored=use.max_unscored,
        account=use.account,
    )


def _references(
    use: PairwiseUse, answers_of: Mapping[str, Artefact], reference: str | None, base_dir: Path
) -> tuple[dict[str, Artefact], str]:
    """What each model is held against, by its label, and what that is called."""
    if use.reference_outputs is not None:
        file = base_dir / use.reference_outputs
        name = str(reference_outputs(file)[0].get("generator") or file.name)
        name = f"{name} ({file.name})" if name in answers_of else name
        outputs = FileInput(file)
        return {label: brought(Brought(), outputs=outputs, completions=one) for label, one in answers_of.items()}, name
    name = reference or use.reference or ""
    _check_reference(name, answers_of)
    return dict.fromkeys(answers_of, answers_of[name]), name


def check_pairwise(use: PairwiseUse, labels: Collection[str], *, base_dir: Path = Path()) -> None:
    """Refuse a reference that is none of the models, and files that are not there or hold something else."""
    if use.reference_outputs is not None:
        reference_outputs(base_dir / use.reference_outputs)
    else:
        _check_reference(use.reference or "", labels)
    if use.labels is not None:
        labelled_matches(base_dir / use.labels)


def _check_reference(name: str, labels: Collection[str]) -> None:
    if not name:
        raise SettingError(
            "pairwise needs reference, the label of the model that the others are held against, or reference_outputs"
        )
    if name not in labels:
        raise SettingError(f"pairwise.reference '{name}' is none of the models{nearest(name, labels)}")
    if len(labels) < 2:
        raise SettingError(f"pairwise.reference '{name}' is the only model: there is none to be held against it")


def _judgements(rows: Rows, label: str, name: str) -> list[Judgement]:
    return [
        Judgement(row["prompt_id"], *((label, name) if row["order"] == 0 else (name, label)), row["verdict"])
        for row in rows
    ]


def _labelled(use: PairwiseUse, pairs: Path) -> tuple[list[Contest], Counter[str]]:
    done = judged_pairs(_comparing(use), pairs=FileInput(pairs))
    rows = read_jsonl(done.path / "verdicts.jsonl")
    return contests_of(rows, refusals=True), Counter(counts_of(rows))


def _unpaired(completions: Artefact, rows: Rows) -> int:
    """Prompts that the other side did not answer."""
    asked = {row["prompt_id"] for row in read_jsonl(completions.path / "completions.jsonl")}
    return len(asked - {row["prompt_id"] for row in rows})


def _itself(completions: Artefact) -> Metric:
    """A model held against itself: half, by definition and not by measurement."""
    rows = read_jsonl(completions.path / "completions.jsonl")
    prompts = len({row["prompt_id"] for row in rows})
    return metric_of(Estimate(0.5, 0.5, 0.5, len(rows), prompts, "mean", 0.95, float(prompts)))


def _about(use: PairwiseUse, counts: Mapping[str, int]) -> dict[str, Any]:
    """The fields that every judge in results.json has, and how many pairs there were of which sort."""
    return {
        "name": use.name,
        "kind": "pairwise",
        "model": use.endpoint.model,
        "version": use.versioned,
        "measures": use.metric,
        "n": counts.get("verdicts", 0),
        "unscored": counts.get("unscored", 0),
        "first": True,
        "calibration": None,
        "agreement": [],
        "pairs": {"identical": counts.get("identical", 0), "unpaired": counts.get("unpaired", 0)},
    }


def _section(
    use: PairwiseUse, contests: Sequence[Contest], counts: Mapping[str, int], *, base_dir: Path
) -> dict[str, Any]:
    """What the page says of the judge: by pairs with right labels where there are any, else by the models' answers."""
    about = {**_about(use, counts), "consistency": consistency(contests)}
    if use.labels is None:
        return {**about, "labels": None, "biases": biases(contests, labelled=False)}
    checked = check_judge(use, base_dir / use.labels)
    return {**about, "labels": checked["labels"], "biases": checked["biases"]}
