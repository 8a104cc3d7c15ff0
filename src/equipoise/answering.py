"""Answers to a prompt file, in process, from a server started here or from one that runs, appended as they come."""

from __future__ import annotations

import contextlib
import json
import logging
import shlex
from collections.abc import Callable, Generator, Mapping, Sequence
from collections.abc import Set as AbstractSet
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from pydantic import model_validator

from equipoise.config import Config, Execution, Later
from equipoise.errors import DataError, SettingError
from equipoise.generate import (
    Job,
    Sampling,
    as_read,
    check_room,
    completion,
    generate,
    jobs_for,
    prompt_ids,
    request_seed,
)
from equipoise.judges import Endpoint
from equipoise.records import read_jsonl, write_jsonl
from equipoise.serving import served, words_of
from equipoise.store import Work

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from equipoise.judges.http import Client, Reply
    from equipoise.models.load import ModelName
    from equipoise.types import Message

logger = logging.getLogger(__name__)

_Rows = Sequence[Mapping[str, Any]]
_Done = AbstractSet[tuple[str, int]]
_Answers = Generator[dict[str, Any], None, None]


class GenerateConfig(Config):
    """How a model answers prompts.

    `serve` is a command such as `vllm serve {model} --port {port}`: answers then come from what it starts, up to
    `concurrency` at once. They are other answers than those in process, drawn with other random numbers.
    `patience_s` is how long the server may take to be ready, and then for an answer.
    """

    sampling: Sampling = Sampling()
    chat_template: str | None = None
    dtype: Literal["auto", "float32", "bfloat16"] = "auto"
    serve: str | None = Later(None)
    batch_tokens: int = Execution(32768, gt=0)
    concurrency: int = Execution(16, gt=0)
    patience_s: float = Execution(600.0, gt=0)

    @model_validator(mode="after")
    def _servable(self) -> GenerateConfig:
        if self.serve is not None:
            words_of(self.serve)
            if self.dtype != "auto":
                raise ValueError(f"dtype {self.dtype} does not reach a served model: write it into the serve command")
        return self


def generate_rows(work: Work, config: GenerateConfig, model_name: str, prompts: Path) -> None:
    """Answer `prompts.jsonl`, appending to a growing file, then sort the answers into prompt order.

    Rows are those of `generate`; answers of a served model have no `logp` and no `token_ids`.
    """
    rows = as_read(_prompt_rows(prompts), model_name, asking=True)
    answer = _in_process if config.serve is None else _from_a_server
    _answer_all(work, rows, config.sampling, lambda done: answer(work, config, model_name, rows, done))


class ServedConfig(Config):
    """What a server that runs already answers now.

    What it serves may be another model tomorrow, so answers belong to one `asking` (a name or time) and are taken up
    by nothing else. The sampling of the answers takes the place of the endpoint's.
    """

    endpoint: Endpoint
    sampling: Sampling = Sampling()
    asking: str


def served_rows(work: Work, config: ServedConfig, prompts: Path) -> None:
    """Ask a running server about `prompts.jsonl`, appending to a growing file; rows as those of a served model."""
    from equipoise.judges.http import Client

    rows, sampling = _prompt_rows(prompts), config.sampling
    wanting = next((row for row in rows if row.get("condition")), None)
    if wanting is not None:
        raise SettingError(f"prompt '{wanting['id']}' asks for levels, and what a server was trained on is not known")
    told = {"temperature": sampling.temperature, "top_p": sampling.top_p, "max_tokens": sampling.max_new_tokens}
    stop = {"stop": list(sampling.stop)} if sampling.stop else {}
    top_k = {} if sampling.top_k is None else {"top_k": sampling.top_k}
    # The client adds an ask's repeat to the seed, and so every answer has one of its own.
    endpoint = config.endpoint.but(**told, seed=0, extra={**stop, **top_k, **config.endpoint.extra})

    def answer(done: _Done) -> _Answers:
        wanted = [Job(row, repeat, ()) for row in rows for repeat in range(sampling.repeats)]
        with Client(endpoint, None) as client:
            client.check()
            left = [job for job in wanted if (job.row["id"], job.repeat) not in done]
            yield from _replies(client, left, sampling, remedy="the others are kept, run the same command again")

    _answer_all(work, rows, sampling, answer)


def _prompt_rows(prompts: Path) -> list[dict[str, Any]]:
    return read_jsonl(prompts / "prompts.jsonl" if prompts.is_dir() else prompts)


def _answer_all(work: Work, rows: _Rows, sampling: Sampling, answer: Callable[[_Done], _Answers]) -> None:
    """Append what `answer` gives of all that is not there yet; at the end `completions.jsonl` in prompt order."""
    growing, whole = work.path / "growing.jsonl", work.path / "completions.jsonl"
    found = read_jsonl(growing) if growing.exists() else read_jsonl(whole) if whole.exists() else []
    write_jsonl(growing, found)  # without a half-written last line
    done = {(r["prompt_id"], r["repeat"]) for r in found}
    total = len(rows) * sampling.repeats
    if len(done) < total:
        finished = len(done)
        # Closed at once where appending fails, so that a server is stopped then and not when memory is collected.
        with growing.open("a", encoding="utf-8") as file, contextlib.closing(answer(done)) as answers:
            for row in answers:
                file.write(json.dumps(row, ensure_ascii=False) + "\n")
                file.flush()  # an answer takes far longer than handing it to the kernel
                finished += 1
                if finished % 64 == 0:
                    work.progress("generate", finished, total)
        found = read_jsonl(growing)
    order = {row["id"]: i for i, row in enumerate(rows)}
    found.sort(key=lambda r: (order[r["prompt_id"]], r["repeat"]))
    write_jsonl(whole, found)
    growing.unlink()
    work.summary.update(
        completions=len(found),
        tokens=sum(r["n_tokens"] for r in found),
        cut_off=sum(r["finish_reason"] == "length" for r in found),
    )


def _in_process(work: Work, config: GenerateConfig, model_name: str, rows: _Rows, done: _Done) -> _Answers:
    from equipoise.models.load import load_for_scoring, load_tokenizer, this_process

    device = this_process().device
    tokenizer = load_tokenizer(model_name, config.chat_template)
    model = load_for_scoring(model_name, config.dtype, "sdpa", device)
    yield from generate(model, tokenizer, rows, config.sampling, batch_tokens=config.batch_tokens, done=done)


def _from_a_server(work: Work, config: GenerateConfig, model_name: str, rows: _Rows, done: _Done) -> _Answers:
    """Start the server, ask it for what is not there yet, stop it."""
    from equipoise.judges.http import Client
    from equipoise.models.load import ModelName, load_tokenizer, positions_of

    assert config.serve is not None
    name, sampling = ModelName.parse(model_name), config.sampling
    if name.adapter_base is not None:
        raise SettingError(
            f"{model_name} is an adapter over {name.adapter_base}, and a server is given whole models: save it merged "
            "into its base (PEFT's merge_and_unload), or leave serve out"
        )
    tokenizer = load_tokenizer(model_name, config.chat_template)
    jobs = jobs_for(tokenizer, rows, sampling, done)
    check_room(positions_of(model_name), jobs, sampling)
    extra = _asked_beside(work, config.serve, name, sampling)
    asks = {
        "temperature": sampling.temperature,
        "top_p": sampling.top_p,
        "max_tokens": sampling.max_new_tokens,
        "seed": 0,  # the client adds an ask's repeat, which is a seed of its own below
        "concurrency": config.concurrency,
        "extra": extra,
    }
    with served(
        config.serve, _location(name), log=work.path / "server.txt", reads=lambda messages: _ids(tokenizer, messages),
        asks=asks, patience_s=config.patience_s, note=work.note,
    ) as endpoint, Client(endpoint, None) as client:  # fmt: skip
        hint = f"{work.path / 'server.txt'} has what the server printed"
        remedy = f"the others are kept, {hint}, run the same command again to ask for these"
        yield from _replies(client, jobs, sampling, remedy=remedy)


def _replies(client: Client, jobs: Sequence[Job], sampling: Sampling, *, remedy: str) -> _Answers:
    """A completion for each job as replies come; what stays without one is refused at the end, after all others."""
    from equipoise.judges.http import Ask

    questions = [
        Ask(
            tuple({"role": turn["role"], "content": turn["content"]} for turn in _read(job.row)),
            repeat=request_seed(sampling.seed, job.row["id"], job.repeat),
        )
        for job in jobs
    ]
    faults: list[str] = []
    for at, reply in client.replies(questions):
        fault = _fault(reply)
        if fault is not None:
            faults.append(f"prompt '{jobs[at].row['id']}', repeat {jobs[at].repeat}: {fault}")
            continue
        assert reply.text is not None
        yield completion(
            jobs[at], reply.text, ended=reply.finish == "stop", n_tokens=reply.completion_tokens, stop=sampling.stop
        )
    if faults:
        raise DataError(
            f"{len(faults)} of {len(jobs)} requests stayed without an answer, the first is {faults[0]}; {remedy}"
        )


def _fault(reply: Reply) -> str | None:
    """Why a reply cannot be a completion."""
    if reply.text is None:
        return reply.fault or "no text"
    return None if reply.finish in ("stop", "length") else f"it ended with '{reply.finish}', not with stop or length"


def _read(row: Mapping[str, Any]) -> Sequence[Message]:
    """What the model reads of a prompt row."""
    read: Sequence[Message] = row.get("reads", row["prompt"])
    return read


def _ids(tokenizer: PreTrainedTokenizerBase, messages: Sequence[Message]) -> Sequence[int] | None:
    """Token ids of a dialogue; None where the template does not take its roles."""
    from jinja2.exceptions import TemplateError

    try:
        return prompt_ids(tokenizer, messages)
    except TemplateError:
        return None


def _location(name: ModelName) -> str:
    """A directory, or a hub id; a revision is downloaded first, because servers differ in how they are told one."""
    if name.revision is None:
        return name.location
    from huggingface_hub import snapshot_download

    return snapshot_download(name.location, revision=name.revision)


def _asked_beside(work: Work, command: str, name: ModelName, sampling: Sampling) -> dict[str, Any]:
    """Fields of a request that OpenAI's protocol has not, or only sometimes; what cannot be asked for is refused.

    Servers take what a request leaves open from the model's generation_config.json, which answers in process do not.
    """
    from transformers import GenerationConfig

    try:
        found = GenerationConfig.from_pretrained(name.location, revision=name.revision or "main").to_diff_dict()
    except OSError:  # a model need not have one
        found = {}
    stop = {"stop": list(sampling.stop)} if sampling.stop else {}
    beside = {k: v for k in ("repetition_penalty", "min_p", "top_k") if (v := found.get(k)) not in (None, 0, 1.0, -1)}
    if sampling.top_k is not None:
        beside.pop("top_k", None)
    if beside:
        said = ", ".join(f"{key} {value}" for key, value in beside.items())
        work.note(f"generation_config.json of {name} sets {said}, which the server may apply to every answer")
    if Path(shlex.split(command)[0]).name != "transformers":
        return stop | ({} if sampling.top_k is None else {"top_k": sampling.top_k})
    # transformers 5.23: a request's temperature does not turn sampling on, and its top_k is refused.
    samples, top_k = bool(found.get("do_sample")), found.get("top_k", 50)
    if not sampling.greedy and (not samples or top_k != (sampling.top_k or 0)):
        raise SettingError(
            f"'transformers serve' samples as generation_config.json of {name} says, which has do_sample {samples} and "
            f"top_k {top_k}: write do_sample true and top_k {sampling.top_k or 0} there"
        )
    return stop
