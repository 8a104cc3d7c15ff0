"""`equipoise gate`: what is served, a model, or figures that are there, held against rules and a baseline."""

from __future__ import annotations

import datetime
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, Self

from pydantic import Field, model_validator
from rich.text import Text

from equipoise.answering import ServedConfig
from equipoise.config import Config, Execution, read_yaml
from equipoise.errors import DataError, EquipoiseError, SettingError, UserError
from equipoise.evaluate.gate import GateVerdict, Rule, judge
from equipoise.evaluate.gate_report import FILES, gate_table, reason, rule_words, sentence, write_gate
from equipoise.evaluate.gate_sides import Side, require_same_result, side_of
from equipoise.evaluate.results import read_results
from equipoise.evaluate.subjects import Subject
from equipoise.evaluating_settings import EvaluateConfig, model_at, subject_of
from equipoise.generate import Sampling
from equipoise.judges import Endpoint
from equipoise.records import read_jsonl
from equipoise.stages import model_path, served_answers
from equipoise.store import Input, write_json
from equipoise.types import Artefact

RESULTS, ANSWERS, ASKING = "results.json", "answers.jsonl", "asking.json"
EXIT = {"pass": 0, "fail": 1, "undecided": 3}
"""Exit codes of the command; 2 is a mistake in what it was given."""

PLAYGROUND = "playground"
Say = Callable[[Any], None]


class Served(Config):
    """How the server of `--endpoint` is asked; the baseline's sampling says how it answers.

    `model` is what the server calls the model (the only one that it lists, where this is not given). `tokenizer` is a
    model directory or hub id whose chat template the server is to have: how many tokens it reads is compared.
    """

    model: str | None = None
    tokenizer: str | None = None
    key_env: str | None = Execution(None)
    answers_as: str | None = None
    extra: dict[str, Any] = Field({})
    concurrency: int = Execution(16, gt=0)
    timeout_s: float = Execution(120.0, gt=0)
    retries: int = Execution(6, ge=0)


class GateConfig(Config):
    """The rules of a gate, and how a candidate is evaluated that is not a results.json.

    `evaluate` is the config of an evaluation, or `playground`, where `prompts` of each kind are answered (as many as
    the baseline's unless given). `baseline_model` and `candidate_model` are labels, or `chosen`; without the latter the
    candidate's only or chosen model is meant.
    """

    rules: tuple[Rule, ...] = Field(min_length=1)
    baseline_model: str = "chosen"
    candidate_model: str | None = None
    confidence: float = Field(0.95, gt=0.5, lt=1)
    unpaired: bool = False
    evaluate: str | None = None
    prompts: int | None = Field(None, gt=0)
    endpoint: Served = Served()

    @model_validator(mode="after")
    def _playground_alone(self) -> Self:
        if self.prompts is not None and self.evaluate != PLAYGROUND:
            raise ValueError(
                "prompts counts those of evaluate: playground, an evaluation's own config says its prompts"
            )
        return self


class Asked(NamedTuple):
    """What the command was told: exactly one of `candidate` and `endpoint` (an address).

    A candidate is a results.json, a folder that holds one, or a model; the baseline one of the former two.
    """

    rules: Path
    baseline: Path | None
    candidate: str | None
    endpoint: str | None
    out: Path


def exit_code(asked: Asked, *, say: Say) -> int:
    """Do what `gate` does and return the exit code of its verdict; another error never looks like one."""
    try:
        return EXIT[gate(asked, say=say).status]
    except EquipoiseError as error:
        if error.exit_code in EXIT.values():
            raise UserError(str(error)) from error
        raise


def gate(asked: Asked, *, say: Say) -> GateVerdict:
    """Evaluate the candidate where need be, judge, write gate.md and gate.xml into `out`, and say what was found.

    Every file is read and every rule is held against the baseline's metrics before anything is asked or loaded.
    """
    for name in FILES:  # a verdict of an earlier run must not outlive a run that fails
        (asked.out / name).unlink(missing_ok=True)
    config = GateConfig.make(read_yaml(asked.rules), where=str(asked.rules))
    if (asked.candidate is None) == (asked.endpoint is None):
        raise SettingError("what is to ship? Give one of --candidate (a results.json or a model) and --endpoint")
    asked = asked._replace(baseline=None if asked.baseline is None else _file(asked.baseline))
    baseline = None if asked.baseline is None else stored(asked.baseline, config.baseline_model)
    for rule in config.rules:
        if baseline is not None:
            baseline.holding(rule.metric, suite=rule.suite)
        elif rule.compares:
            raise SettingError(f"the rule '{rule_words(rule)}' needs --baseline, the results.json to compare with")
    candidate = _candidate(asked, config, baseline, say)
    if candidate.chosen:
        say(Text(f"candidate: chosen ({candidate.label})"))
    verdict = judge(config.rules, candidate, baseline, confidence=config.confidence, unpaired=config.unpaired)
    write_gate(asked.out, verdict)
    say(gate_table(verdict))
    for finding in verdict.findings:
        if finding.status != "pass":
            say(Text(f"{rule_words(finding.rule)}: {reason(finding, verdict.confidence)}"))
    say(Text(sentence(verdict)))
    return verdict


def stored(path: Path, label: str | None) -> Side:
    """A model of a results.json, with its answers where answers.jsonl lies beside."""
    document = read_results(path)
    answers = path.with_name(ANSWERS)
    try:
        rows = read_jsonl(answers) if answers.is_file() else None
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise DataError(f"{answers} is not JSON lines ({error})") from error
    return side_of(document, label, where=str(path), answers=rows)


def _candidate(asked: Asked, config: GateConfig, baseline: Side | None, say: Say) -> Side:
    """The candidate as results, evaluated under `out` unless it is some already."""
    results = None if asked.candidate is None else _file(Path(asked.candidate))
    if results is not None and results.suffix == ".json":
        return _other(stored(results, config.candidate_model), results, asked.baseline, baseline, config.rules)
    if config.evaluate is None:
        raise SettingError(
            f"{asked.rules} does not say how {asked.candidate or asked.endpoint} is evaluated: set evaluate, or give "
            "--candidate a results.json"
        )
    asked.out.mkdir(parents=True, exist_ok=True)
    if asked.baseline is not None and asked.baseline.resolve() == (asked.out / RESULTS).resolve():
        raise SettingError(
            f"the baseline is {asked.baseline}, which the candidate's results would overwrite: change --out"
        )
    if asked.candidate is not None:
        subject = subject_of(config.candidate_model or "candidate", asked.candidate, Path.cwd())
        _evaluate(subject, asked, config, baseline, say)
    else:
        assert asked.endpoint is not None
        subject = _served(asked.endpoint, config, asked.out)
        _evaluate(subject, asked, config, baseline, say)
        (asked.out / ASKING).unlink()  # what is served tomorrow is asked anew
    return stored(asked.out / RESULTS, subject.label)


def _file(path: Path) -> Path:
    """The results.json of a folder that holds one; anything else as it is."""
    return path / RESULTS if (path / RESULTS).is_file() else path


def _other(candidate: Side, results: Path, compared: Path | None, baseline: Side | None, rules: Sequence[Rule]) -> Side:
    """The candidate, unless rules would compare it with itself: an unchanged model evaluated anew is another result."""
    if (
        baseline is not None
        and compared is not None
        and any(rule.compares for rule in rules)
        and (candidate.label, results.resolve()) == (baseline.label, compared.resolve())
    ):
        raise SettingError(
            f"candidate and baseline are both '{candidate.label}' of {results}, and nothing is worse than itself: give "
            "another results.json, or set candidate_model or baseline_model"
        )
    return candidate


def _served(url: str, config: GateConfig, out: Path) -> Subject:
    """What a server serves as a subject: its answers, taken up where an earlier run of this gate was stopped."""
    endpoint = _endpoint(url, config.endpoint)
    asking = _asking(out / ASKING, endpoint)

    def answers(prompts: Input, sampling: Sampling) -> Artefact:
        return served_answers(ServedConfig(endpoint=endpoint, sampling=sampling, asking=asking), prompts=prompts)

    label, served = config.candidate_model or endpoint.model, f"{endpoint.model} at {url}"
    tokenizer = config.endpoint.tokenizer
    model = None if tokenizer is None else model_at(tokenizer, Path.cwd())
    if model is not None:
        _compare_templates(endpoint, model)
    elif config.evaluate != PLAYGROUND:
        raise SettingError("endpoint.tokenizer is not given: name the model whose chat template the server is to have")
    return Subject(label, model, answers=answers, served=served)


def _compare_templates(endpoint: Endpoint, model: Input) -> None:
    from equipoise.generate import prompt_ids
    from equipoise.models.load import load_tokenizer
    from equipoise.serving import compare_templates

    tokenizer = load_tokenizer(model_path(model), None)
    compare_templates(endpoint.but(max_tokens=1), lambda messages: prompt_ids(tokenizer, messages), uncounted=True)


def _endpoint(url: str, how: Served) -> Endpoint:
    """The endpoint, once it is known to be there and to have the model. Raises SettingError where it is not."""
    from equipoise.judges.http import Client

    told = how.model_dump(exclude={"model", "tokenizer"})
    endpoint = Endpoint.make({"base_url": url, "model": how.model or "?", **told}, where="--endpoint")
    with Client(endpoint, None) as client:
        if how.model is None:
            listed = client.models()
            if len(listed) != 1:
                known = f"lists {', '.join(listed)}" if listed else "lists no models, or is not there"
                raise SettingError(f"the endpoint {url} {known}: name the one to ask with endpoint.model")
            endpoint = endpoint.but(model=listed[0])
    with Client(endpoint, None) as client:
        client.check()
    return endpoint


def _asking(path: Path, endpoint: Endpoint) -> str:
    """The name of this asking: that of a run which was stopped here before, else the time."""
    told = endpoint.canonical()
    if path.is_file():
        found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        if found.get("endpoint") == told:
            return str(found["asking"])
    now = datetime.datetime.now(datetime.UTC).isoformat()
    write_json(path, {"asking": now, "endpoint": told})
    return now


def _evaluate(subject: Subject, asked: Asked, config: GateConfig, baseline: Side | None, say: Say) -> None:
    """Write results.json and answers.jsonl of a subject under `out`."""
    assert config.evaluate is not None
    if config.evaluate == PLAYGROUND:
        from equipoise.gating_playground import evaluate_playground

        evaluate_playground(subject, asked.out, like=_only(baseline), count=config.prompts)
        return
    from equipoise.evaluating import evaluate_models

    told = _evaluation(config.evaluate, baseline)
    evaluate_models(told, [subject], out=asked.out, base_dir=Path.cwd(), say=lambda what: None)


def _evaluation(path: str, baseline: Side | None) -> EvaluateConfig:
    """An evaluation with the baseline's sampling; where the two differ otherwise, refused before any answer."""
    told = EvaluateConfig.make(read_yaml(Path(path)), where=path)
    if baseline is None:
        return told
    like = _only(baseline)
    assert like is not None
    told = told.but(sampling=Sampling.make(like["sampling"], where="the baseline's sampling"))
    known = {"suite": told.evaluate.named(), "system_prompt": told.system_prompt, "judge": told.judge}
    require_same_result({**like, **known}, like)
    return told


def _only(baseline: Side | None) -> Mapping[str, Any] | None:
    return None if baseline is None else next(iter(baseline.results.values()))
