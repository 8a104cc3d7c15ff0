"""What judges and proposers say of a model's answers, as stages: every reply is asked for once, in whichever run."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from equipoise.config import Config, Execution
from equipoise.errors import DataError, UserError
from equipoise.judges import Endpoint
from equipoise.judges.cache import Cache
from equipoise.judges.guards import Grader, grader_of
from equipoise.judges.http import Ask, Client, Reply
from equipoise.judges.prompts import PROPOSER, propose_messages, read_rules
from equipoise.records import read_jsonl, write_jsonl
from equipoise.stages import artefact
from equipoise.store import Input, Work, current_store, stage, write_json
from equipoise.types import Artefact


class Judge(Config):
    """Who judges, by which rubric, and what may go without a verdict; `account` is what a budget is counted for."""

    endpoint: Endpoint
    rubric: str
    version: int
    max_unscored: float = Execution(0.01, ge=0, le=1)
    account: str = Execution("")

    def check_unscored(self, verdicts: Sequence[Mapping[str, Any]]) -> None:
        """Refuse verdicts of which more lack than `max_unscored` allows, and more than one."""
        lost = [one for one in verdicts if one["value"] is None]
        if len(lost) <= max(1.0, self.max_unscored * len(verdicts)):
            return
        why = max({one["fault"] for one in lost}, key=lambda fault: sum(one["fault"] == fault for one in lost))
        raise DataError(
            f"{len(lost)} of {len(verdicts)} replies of {self.endpoint.model} are no verdict of rubric {self.rubric} "
            f"(most often: {why}), more than max_unscored {self.max_unscored:g} allows: the same command asks again "
            "for what came broken, another model or a larger max_unscored helps against the rest; all that came is kept"
        )


def judge_of(endpoint: Endpoint, rubric: str, *, max_unscored: float = 0.01, account: str = "") -> Judge:
    """A judge by the present version of a rubric, ours or a guard's. Raises SettingError where there is none."""
    version = grader_of(rubric).version
    return Judge(endpoint=endpoint, rubric=rubric, version=version, max_unscored=max_unscored, account=account)


def check_endpoint(endpoint: Endpoint, *, role: str = "") -> None:
    """Refuse an endpoint that is not there, rejects the key or does not know the model; `role` is who it is there."""
    try:
        with Cache(cache_path()) as cache, Client(endpoint, cache, account="checks") as client:
            client.check()
    except UserError as error:
        raise type(error)(f"{role}: {error}" if role else str(error)) from None


@stage(version=1)
def judged(work: Work, config: Judge, *, completions: Input) -> None:
    """A verdict on every answer: `verdicts.jsonl`, in the answers' order, None where it does not parse.

    Raises DataError where more than `max_unscored` of them have none, and more than one; replies that came are kept in
    any case.
    """
    rubric = _rubric(config)
    rows = read_jsonl(artefact(completions).path / "completions.jsonl")
    found: list[dict[str, Any]] = []
    replies, spent = replies_of(work, config.endpoint, [rubric.messages(row) for row in rows], "judge", config.account)
    for row, reply in zip(rows, replies, strict=True):
        said = rubric.read(reply.text) if reply.text is not None else None
        about = {name: row[name] for name in ("prompt_id", "repeat", "kind", "category") if name in row}
        found.append(
            {
                **about,
                "value": None if said is None else said.value,
                "label": None if said is None else said.label,
                "reason": None if said is None else said.reason,
                "fault": reply.fault if said is None and reply.fault else None if said else "no verdict in the reply",
                "judge": config.endpoint.model,
                "rubric": rubric.versioned,
                "request": reply.key,
            }
        )
    write_jsonl(work.path / "verdicts.jsonl", found)
    work.summary.update(_counts(found), **spent)
    config.check_unscored(found)


def _rubric(config: Judge) -> Grader:
    rubric = grader_of(config.rubric)
    if rubric.version != config.version:
        raise DataError(
            f"rubric {config.rubric} is at version {rubric.version} here, and version {config.version} is asked for: "
            "these verdicts were begun with another release"
        )
    return rubric


def _counts(found: Sequence[Mapping[str, Any]]) -> dict[str, int]:
    values = [one["value"] for one in found]
    return {"answers": len(found), "faulty": values.count(1.0), "unscored": values.count(None)}


class ProposeConfig(Config):
    """Who proposes rules; `known` ones need no repetition."""

    endpoint: Endpoint
    version: int = PROPOSER
    last_paragraph: bool = False
    known: tuple[str, ...] = ()
    account: str = Execution("")


@stage(version=1)
def proposed(work: Work, config: ProposeConfig, *, completions: Input, verdicts: Input) -> None:
    """Rules for the answers that were judged faulty: `proposal.json`, each with the answers it cites (all, if none).

    `rules` is empty where no line of the reply reads as a rule.
    """
    failed = faulty(artefact(completions), artefact(verdicts))
    (reply,), spent = replies_of(
        work, config.endpoint, [propose_messages(failed, known=config.known)], "propose", config.account
    )
    if reply.text is None and reply.finish != "content_filter":
        raise DataError(f"{config.endpoint.model} proposed no rules: {reply.fault}; the same command asks it again")
    # A filter that withholds a proposal will do so again: the iteration goes on without.
    rules = read_rules(reply.text or "", last_paragraph=config.last_paragraph) or ()
    if reply.finish == "length" and rules:  # its last rule is half of one
        rules = rules[:-1]
        work.note(f"a proposal was cut off at max_tokens {config.endpoint.max_tokens}: its last rule is left out")
    written = []
    for rule in rules:
        cited = [number for number in rule.cites if number <= len(failed)] or range(1, len(failed) + 1)
        written.append({"text": rule.text, "about": [failed[number - 1]["prompt_id"] for number in cited]})
    write_json(work.path / "proposal.json", {"rules": written, "reply": reply.text, "request": reply.key})
    work.summary.update(rules=len(written), **spent)


def faulty(completions: Artefact, verdicts: Artefact) -> list[dict[str, Any]]:
    """The answers that were judged to have the fault, in order."""
    rows = read_jsonl(completions.path / "completions.jsonl")
    said = read_jsonl(verdicts.path / "verdicts.jsonl")
    return [row for row, one in zip(rows, said, strict=True) if one["value"] == 1.0]


def replies_of(
    work: Work, endpoint: Endpoint, asked: Sequence[Sequence[Mapping[str, Any]] | Ask], what: str, account: str
) -> tuple[list[Reply], dict[str, Any]]:
    """Replies in order, from the store's cache where they are there, and what they take; `what` is for progress.

    What is asked are messages, or an `Ask` where several replies to the same messages are wanted.
    """
    replies: dict[int, Reply] = {}
    say: Callable[[int, int], None] = lambda done, total: work.progress(what, done, total)
    cache = Cache(cache_path())
    try:
        with Client(endpoint, cache, account=account_of(account, endpoint)) as client:
            asks = [one if isinstance(one, Ask) else Ask(tuple(one)) for one in asked]
            for index, reply in client.replies(asks, progress=say):
                replies[index] = reply
    finally:
        cache.close()
    return [replies[i] for i in range(len(asked))], _cost(replies.values(), endpoint)


def _cost(replies: Iterable[Reply], endpoint: Endpoint) -> dict[str, Any]:
    """What the replies take, whoever paid for them and when: the same however often a stage was killed."""
    distinct = {reply.key: reply for reply in replies}.values()
    tokens = sum(reply.prompt_tokens for reply in distinct), sum(reply.completion_tokens for reply in distinct)
    return {
        "requests": len(distinct),
        "prompt_tokens": tokens[0],
        "completion_tokens": tokens[1],
        "price": None if endpoint.price is None else endpoint.price.of(*tokens),
    }


def account_of(account: str, endpoint: Endpoint) -> str:
    """What a run's budget for an endpoint is counted under."""
    return f"{account} {endpoint.identity or endpoint.base_url} {endpoint.model}".strip()


def cache_path() -> Path:
    """Where replies are kept: one file for all runs of a store."""
    return current_store().root / "judge.sqlite"
