"""The verbs: each takes artefacts and a config and fills one directory of the store.

Bodies import lazily, so that `--help` and `show` never wait for torch. A body that needs a device can also run as its
own process or on several devices: `python -m equipoise.stages DIR` (or `accelerate launch -m equipoise.stages DIR`)
executes the task that the store wrote there.
"""

from __future__ import annotations

import json
import logging
import shutil
import sys
from pathlib import Path
from typing import Any, Literal

from equipoise.answering import GenerateConfig, ServedConfig, generate_rows, served_rows
from equipoise.config import Config, Execution, Later, ObjectiveUse, PpoConfig, TrainConfig
from equipoise.data.conditions import CONDITIONS_FILE
from equipoise.errors import DataError, EquipoiseError
from equipoise.launch import free_device, launched, read_task, run_elsewhere
from equipoise.online.config import PpoStageConfig
from equipoise.preparing import PrepareConfig, document, source_rows, write_dropped, write_prepared
from equipoise.records import read_jsonl, write_jsonl
from equipoise.scorers import ScorerUse
from equipoise.store import MANIFEST, FileInput, Input, Work, manifest, stage
from equipoise.types import Artefact, Dropped

logger = logging.getLogger(__name__)


@stage(version=1)
def prepare(work: Work, config: PrepareConfig, *, model: Input, files: Input) -> None:
    """Rows of a data role -> training rows, dropped rows with reasons, token table."""
    dropped: list[Dropped] = []
    write_prepared(work, config, model_path(model), source_rows(config, dropped), dropped)


class HeldoutConfig(PrepareConfig):
    """The rows kept back of a role (`part: heldout`); those with a prompt near to one that was trained on are left out.

    `seen` are the entries of the other roles that the models were trained on, parted as this one is.
    """

    near_duplicates: float | None = None
    seen: tuple[dict[str, Any], ...] = ()
    seen_paths: tuple[str, ...] = Execution(())


@stage(version=1)
def heldout(work: Work, config: HeldoutConfig, *, model: Input, files: Input, seen: Input) -> None:
    """Held-out rows of a role, as `prepare` leaves rows; `excluded.jsonl` names those near to a training prompt."""
    from equipoise.data.duplicates import exclude_near_duplicates

    dropped: list[Dropped] = []
    held = source_rows(config, dropped)
    everything = {"entries": config.entries + config.seen, "paths": config.paths + config.seen_paths}
    trained = source_rows(config.model_copy(update={**everything, "part": "train"}), [])
    kept, excluded = exclude_near_duplicates(held, trained, threshold=config.near_duplicates)
    if excluded and not kept:
        raise DataError(
            f"{config.name}: all {len(held)} held-out rows have a prompt near to one that was trained on "
            f"(near_duplicates: {config.near_duplicates:g}), so nothing is left to evaluate on"
        )
    write_dropped(work.path / "excluded.jsonl", excluded)
    work.summary["excluded"] = {"near_duplicates": len(excluded)}
    write_prepared(work, config, model_path(model), kept, dropped)


@stage(version=1)
def buffer(work: Work, config: PrepareConfig, *, model: Input, files: Input) -> None:
    """Rows of a second stream, as `prepare` leaves rows: every answer counts as safe, one flagged unsafe is refused."""
    from equipoise.data.relabel import taken_as_safe

    dropped: list[Dropped] = []
    source = taken_as_safe(source_rows(config, dropped), name=config.name)
    write_prepared(work, config, model_path(model), source, dropped)


class FreshConfig(Config):
    """An untrained Llama and its tokenizer."""

    entries: tuple[dict[str, Any], ...]
    paths: tuple[str, ...] = Execution(())
    vocab_size: int = 8192
    hidden_size: int = 320
    layers: int = 6
    heads: int = 5
    max_length: int = 1024
    seed: int = 0


@stage(version=1)
def fresh(work: Work, config: FreshConfig, *, files: Input) -> None:
    """A randomly initialized small Llama whose tokenizer is trained on the entries' texts."""
    from equipoise.models.fresh import fresh_model

    reading = PrepareConfig(name="scratch", entries=config.entries, paths=config.paths, layout="text")
    texts = [document(row) for row in source_rows(reading, [])]
    if (work.path / "model").exists():
        shutil.rmtree(work.path / "model")
    fresh_model(
        work.path / "model",
        texts=texts,
        vocab_size=config.vocab_size,
        hidden_size=config.hidden_size,
        layers=config.layers,
        heads=config.heads,
        max_length=config.max_length,
        seed=config.seed,
    )
    work.summary.update(documents=len(texts), characters=sum(map(len, texts)))


class ReferenceConfig(Config):
    """How reference log-probabilities are computed."""

    dtype: Literal["auto", "float32", "bfloat16"] = "auto"
    attn_implementation: str = Execution("sdpa")
    tokens_per_micro_batch: int = Execution(16384, gt=0)
    launch: str | None = Execution(None)
    load_in_4bit: bool = Later(False)


@stage(version=1)
def reference(work: Work, config: ReferenceConfig, *, model: Input, data: Input) -> None:
    """Log-probabilities of every answer under a model, (N, K), appended as they come: a kill loses one micro-batch."""
    from equipoise.scoring import gather_parts, n_records, reference_logps

    rows = artefact(data).path
    before = n_records(work, rows)
    if not run_elsewhere(work, config, {"model": model, "data": data}, command=config.launch):
        reference_logps(work, config, model_path(model), rows)
    work.summary["computed"] = n_records(work, rows) - before
    gather_parts(work, rows)


class TrainStageConfig(Config):
    """One training run."""

    objective: ObjectiveUse
    train: TrainConfig
    launch: str | None = Execution(None)


@stage(version=1)
def train(
    work: Work,
    config: TrainStageConfig,
    *,
    model: Input,
    data: Input,
    reference: Input,
    columns: Input = None,
    buffer: Input = None,
    buffer_reference: Input = None,
) -> None:
    """Train a model on prepared rows; `model/` loads with plain transformers or PEFT.

    `columns` are numbers that other models gave to the rows; `buffer` is a second set of rows, whose loss is added.
    Inputs that a run does not have are not given, so that they are no part of its address.
    """
    given = {"columns": columns, "buffer": buffer, "buffer_reference": buffer_reference}
    inputs = {"model": model, "data": data, "reference": reference}
    inputs |= {name: value for name, value in given.items() if value is not None}
    if not run_elsewhere(work, config, inputs, command=config.launch):
        from equipoise.train.run import TrainingData, run_training

        rows = TrainingData(artefact(data).path, _path(reference), _path(columns))
        second = TrainingData(artefact(buffer).path, _path(buffer_reference)) if buffer is not None else None
        run_training(work, config.objective, config.train, model_path(model), rows, second)
    if (artefact(data).path / CONDITIONS_FILE).is_file():  # what the model may be asked for goes with it
        shutil.copy(artefact(data).path / CONDITIONS_FILE, work.path / "model" / CONDITIONS_FILE)
    work.summary.update(json.loads((work.path / "training.json").read_text(encoding="utf-8")))


@stage(version=1)
def ppo(
    work: Work,
    config: PpoStageConfig,
    *,
    model: Input,
    prompts: Input,
    reward: Input = None,
    cost: Input = None,
    bases: Input = (),
    ptx: Input = None,
) -> None:
    """Train a policy on its own answers to `prompts.jsonl`; `model/` loads with plain transformers or PEFT.

    `reward` and `cost` are scorers that are models, `bases` what those that are adapters belong to, `ptx` rows to
    imitate on the way. Beside the model lie metrics.jsonl, rollouts.jsonl and alarms.jsonl.
    """
    given = {"reward": reward, "cost": cost, "ptx": ptx}
    inputs = {"model": model, "prompts": prompts, "bases": bases}
    inputs |= {name: value for name, value in given.items() if value is not None}
    if not run_elsewhere(work, config, inputs, command=config.launch):
        from equipoise.online.state import begun_beside
        from equipoise.online.trainer import train_online

        work.note(f"curves at every checkpoint: {work.path / 'training.html'}")
        for sentence in () if work.resumed else begun_beside(work.path):
            work.note(sentence)
        rows = read_jsonl(artefact(prompts).path / "prompts.jsonl")
        names = {head: model_path(value) for head, value in given.items() if value is not None and head != "ptx"}
        train_online(
            work, config, model_path(model), rows, names, ptx=_path(ptx), saved=lambda: _show(work, config.ppo)
        )
    work.summary.update(json.loads((work.path / "training.json").read_text(encoding="utf-8")))


def _show(work: Work, config: PpoConfig) -> None:
    """`training.html` as far as training is."""
    from equipoise.evaluate.online import read_round
    from equipoise.evaluate.online_page import write_online_page

    measured: Literal["cost", "unsafe_rate"] = "cost" if config.unsafe_rate is None else "unsafe_rate"
    limit = config.limit if config.unsafe_rate is None else config.unsafe_rate
    try:
        shown = read_round(work.path, number=1, measured=measured, limit=limit)
        write_online_page(work.path, [shown], title=f"equipoise: {work.path.name}")
    except (OSError, EquipoiseError) as error:  # a picture is not worth a run
        work.note(f"training.html was not written: {error}")


class MergeConfig(Config):
    """Weights of a linear merge, in the order of the models."""

    weights: tuple[float, ...]


@stage(version=1)
def merge(work: Work, config: MergeConfig, *, models: Input) -> None:
    """Linear combination of models or of adapters over one base."""
    from equipoise.models.merge_any import merge_models

    assert isinstance(models, tuple)
    if (work.path / "model").exists():
        shutil.rmtree(work.path / "model")  # a killed attempt; merging is quick
    merge_models([model_path(m) for m in models], config.weights, work.path / "model")


@stage(version=1)
def generate(work: Work, config: GenerateConfig, *, model: Input, prompts: Input) -> None:
    """Answers to a prompt file, appended as batches finish; `completions.jsonl` in prompt order at the end."""
    if config.serve is not None:
        free_device()
    rows = _path(prompts)
    assert rows is not None
    generate_rows(work, config, model_path(model), rows)


@stage(version=1)
def served_answers(work: Work, config: ServedConfig, *, prompts: Input) -> None:
    """Answers of a server that runs already, as `generate` leaves them, without log-probabilities and token ids."""
    rows = _path(prompts)
    assert rows is not None
    served_rows(work, config, rows)


class CompletionLogpsConfig(Config):
    """How stored answers are scored by a model's log-probability; `condition` takes the place of the rows' own."""

    chat_template: str | None = None
    condition: dict[str, float] | None = Later(None)
    dtype: Literal["auto", "float32", "bfloat16"] = "auto"
    tokens_per_micro_batch: int = Execution(16384, gt=0)


@stage(version=1)
def completion_logps(work: Work, config: CompletionLogpsConfig, *, model: Input, completions: Input) -> None:
    """Log-probability of every stored answer under a model: `logps.npy` (N,), in the order of the completions."""
    from equipoise.scoring import score_completions

    score_completions(work, config, model_path(model), artefact(completions).path / "completions.jsonl")


class ScoreConfig(Config):
    """Which scorer gives numbers to stored answers; where a model lies is no part of it, the model is an input."""

    scorer: ScorerUse

    def canonical(self) -> dict[str, Any]:
        """As for every config, with the model's place left to the input."""
        return {"scorer": self.scorer.placeless()}


@stage(version=1)
def score(work: Work, config: ScoreConfig, *, completions: Input, model: Input = None, base: Input = None) -> None:
    """A number for every stored answer, (N,), appended as they come: `scores.jsonl`, `scores.npy` in their order.

    `base` is what an adapter belongs to: it is read from where the adapter says, and here for the address.
    """
    from equipoise.scorers.run import score_rows

    name = None if model is None else model_path(model)
    score_rows(work, config.scorer, name, artefact(completions).path / "completions.jsonl")


def score_with(use: ScorerUse, completions: Artefact, *, model: Input = None) -> Artefact:
    """Score completions; `model` is an artefact that takes the place of the place which `use` names.

    Raises DataError also where scores from earlier have more unscored answers than `use` now allows.
    """
    from equipoise.models.load import ModelName

    inputs: dict[str, Input] = {"completions": completions}
    if use.location is not None:
        inputs["model"] = model if model is not None else model_input(use.location)
        place = model_path(inputs["model"])
        if Path(place).is_dir() and (belongs_to := ModelName.parse(place).adapter_base) is not None:
            inputs["base"] = model_input(belongs_to)
    scores = score(ScoreConfig(scorer=use), **inputs)
    if (scores.path / MANIFEST).is_file():
        known = manifest(scores)["summary"]
        use.check_unscored(known["unscored"], known["completions"])
    return scores


class AnswersConfig(Config):
    """Nothing to choose: all answers of prepared rows."""


@stage(version=1)
def answers(work: Work, config: AnswersConfig, *, data: Input) -> None:
    """Prepared rows -> `completions.jsonl`, to be scored: of a pair, repeat 0 is the chosen answer, 1 the rejected."""
    out = []
    for row in read_jsonl(artefact(data).path / "rows.jsonl"):
        sides = ("chosen", "rejected") if "chosen" in row else ("completion",)
        if sides[0] not in row:
            raise DataError(f"row '{row['id']}' has no answer to score: neither a pair nor a completion")
        about = {name: row[name] for name in ("kind", "category") if name in row}
        for repeat, side in enumerate(sides):
            *before, said = row[side]
            prompt = [*row["prompt"], *before]
            out.append({"prompt_id": row["id"], "repeat": repeat, "text": said["content"], "prompt": prompt, **about})
    write_jsonl(work.path / "completions.jsonl", out)
    work.summary["completions"] = len(out)


# ---- helpers -----------------------------------------------------------------------------------------------------


def artefact(value: Input) -> Artefact:
    """An input that must be an artefact."""
    assert isinstance(value, Artefact)
    return value


def model_path(value: Input) -> str:
    """Where a model lies: an artefact's `model/`, a directory, or a hub id."""
    if isinstance(value, Artefact):
        return str(value.path / "model")
    if isinstance(value, FileInput):
        return str(value.path)
    assert isinstance(value, str)
    return value


def _path(value: Input) -> Path | None:
    if value is None:
        return None
    if isinstance(value, Artefact):
        return value.path
    assert isinstance(value, FileInput)
    return value.path


def model_input(name: str) -> Input:
    """A model as users write it: a directory becomes a content-addressed input, a hub id stays a string."""
    from equipoise.models.load import ModelName

    parsed = ModelName.parse(name)
    return FileInput(Path(parsed.location)) if parsed.is_local else str(parsed)


def main(folder: str) -> int:
    """Execute the task in `folder` as one of its processes; the store's process waits and writes the manifest."""
    logging.basicConfig(level=logging.INFO, format="%(levelname)s %(name)s: %(message)s")
    task = read_task(Path(folder))
    try:
        with launched(Path(folder)):
            if task.stage == reference.name:
                from equipoise.scoring import reference_logps

                rows = artefact(task.inputs["data"]).path
                reference_logps(task.work, ReferenceConfig.make(task.config), model_path(task.inputs["model"]), rows)
            elif task.stage == ppo.name:
                ppo.body(task.work, PpoStageConfig.make(task.config), **task.inputs)
            else:
                train.body(task.work, TrainStageConfig.make(task.config), **task.inputs)
    except EquipoiseError as error:
        return error.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
