"""samples.html: what models answered, prompt by prompt, with every verdict; harmful text is closed until asked for."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, NamedTuple

from equipoise.evaluate.verdicts import JUDGED_ON, Measures
from equipoise.types import Message

FILE = "samples.html"
MODELS, PROMPTS, LETTERS = 5, 1500, 4_000_000
"""At most so many models, prompts and letters of answers and reasons are on the page, which must open quickly."""

KINDS = (("harmful", "Harmful"), ("borderline", "Borderline"), ("benign", "Ordinary"))

OUTCOMES: Mapping[Measures, str] = MappingProxyType({"unsafe_rate": "unsafe", "over_refusal": "refused"})
WORDS = {"unsafe_rate": ("unsafe", "safe"), "over_refusal": ("refused", "not refused")}
"""What a verdict without a label of its own is called: above one half, and not."""

Row = Mapping[str, Any]


class Graded(NamedTuple):
    """One grader's verdict on an answer, in words; `reason` is empty where it gave none."""

    grader: str
    label: str
    reason: str


@dataclass(frozen=True, slots=True)
class Answer:
    """A model's answer: whether it was found unsafe and a refusal (None: no verdict), cut off, and by whom.

    `uncounted` names what enters no rate, because the prompt is of another kind than the rate is about.
    """

    model: int
    text: str
    unsafe: bool | None
    refused: bool | None
    cut: bool = False
    verdicts: tuple[Graded, ...] = ()
    uncounted: frozenset[str] = frozenset()

    @property
    def outcomes(self) -> list[str]:
        """What filters look for: unsafe and refused where they count, else uncounted; unscored."""
        hits = [name for name, hit in (("unsafe", self.unsafe), ("refused", self.refused)) if hit]
        found = [name for name in hits if name not in self.uncounted]
        found += ["uncounted"] if len(found) < len(hits) else []
        return found or (["unscored"] if self.unsafe is None and self.refused is None else [])

    def letters(self) -> int:
        """How much room the answer takes."""
        return len(self.text) + sum(len(one.grader) + len(one.label) + len(one.reason) for one in self.verdicts)


@dataclass(frozen=True, slots=True)
class Prompt:
    """A prompt with the answers to it, by model."""

    kind: str
    category: str
    turns: Sequence[Message]
    answers: list[Answer] = field(default_factory=list)

    def letters(self) -> int:
        """How much room prompt and answers take."""
        return sum(len(turn["content"]) for turn in self.turns) + sum(one.letters() for one in self.answers)


class Shown(NamedTuple):
    """What the page shows: models in order, prompts, and how many of both there are in all."""

    models: list[str]
    prompts: list[Prompt]
    all_models: int
    all_prompts: int


def from_answers(rows: Iterable[Row], *, first: Sequence[str] = (), judges: Sequence[Row] = ()) -> Shown:
    """Prompts and first answers (repeat 0) of answers.jsonl on verdict; `first` are the models to keep before others.

    Whether an answer is unsafe or a refusal is what the graders say whose figures the page shows; `judges` is that part
    of results.json, without which every grader counts, for refusals where its name says so.
    """
    kept = [row for row in rows if row["repeat"] == 0 and row["split"] == "verdict"]
    models, found = _models((row["model"] for row in kept), first), dict[tuple[str, str], Prompt]()
    counts: dict[str, set[str]] = {}
    for judge in judges:
        if judge["first"]:
            counts.setdefault(judge["name"], set()).add(judge["measures"])
    place = {model: i for i, model in enumerate(models[:MODELS])}
    for row in kept:
        prompt = found.setdefault((row["suite"], row["prompt_id"]), _prompt(row))
        if row["model"] in place:
            prompt.answers.append(_judged(row, place[row["model"]], counts))
    return _shown(models, list(found.values()))


def from_samples(samples: Iterable[Row], *, first: Sequence[str] = ()) -> Shown:
    """The same from samples: a prompt with `answers`, `cost` and, where known, `refused` by model."""
    samples = list(samples)
    models, found = _models((label for sample in samples for label in sample["answers"]), first), []
    place = {model: i for i, model in enumerate(models[:MODELS])}
    for sample in samples:
        prompt = _prompt(sample)
        for label, text in sample["answers"].items():
            if label in place:
                cost = sample["cost"].get(label)
                refused = sample.get("refused", {}).get(label)
                unsafe = None if cost is None else cost > 0
                prompt.answers.append(Answer(place[label], text, unsafe, refused, uncounted=_uncounted(prompt.kind)))
        found.append(prompt)
    return _shown(models, found)


def view(shown: Shown, *, title: str) -> dict[str, Any]:
    """What the template of samples.html is told."""
    kinds = [(kind, name) for kind, name in KINDS if any(prompt.kind == kind for prompt in shown.prompts)]
    left = []
    if len(shown.models) < shown.all_models:
        left.append(f"{len(shown.models)} of {shown.all_models:,} models")
    if len(shown.prompts) < shown.all_prompts:
        left.append(f"{len(shown.prompts):,} of {shown.all_prompts:,} prompts, those with an unsafe answer first")
    return {
        "title": title,
        "models": shown.models,
        "kinds": kinds,
        "groups": [(kind, name, [p for p in shown.prompts if p.kind == kind]) for kind, name in kinds],
        "left": left,
        "uncounted": any(
            ("unsafe" in one.uncounted and one.unsafe is not None) or ("refused" in one.uncounted and one.refused)
            for prompt in shown.prompts
            for one in prompt.answers
        ),
        "count": len(shown.prompts),
    }


def _models(labels: Iterable[str], first: Sequence[str]) -> list[str]:
    known = list(dict.fromkeys(labels))
    return [*(label for label in first if label in known), *(label for label in known if label not in first)]


def _prompt(row: Row) -> Prompt:
    said = row["prompt"]
    turns: list[Message] = [{"role": "user", "content": said}] if isinstance(said, str) else list(said)
    return Prompt(row["kind"], (row.get("category") or "").replace("_", " "), turns)


def _uncounted(kind: str) -> frozenset[str]:
    """What of an answer to a prompt of this kind enters no rate."""
    return frozenset(name for measures, name in OUTCOMES.items() if JUDGED_ON[measures] != kind)


def _measured(known: Iterable[str], kind: str) -> str | None:
    """What a verdict on an answer to a prompt of this kind says, of all that its grader measures."""
    asked = next((measures for measures, about in JUDGED_ON.items() if about == kind), "unsafe_rate")
    return min(known, key=lambda measures: (measures != asked, measures != "unsafe_rate"), default=None)


def _judged(row: Row, model: int, counts: Mapping[str, Iterable[str]]) -> Answer:
    verdicts = row.get("verdicts") or {}
    found: dict[str, list[float | None]] = {"unsafe_rate": [], "over_refusal": []}
    told = []
    for grader, verdict in verdicts.items():
        guessed = "over_refusal" if "refus" in grader else "unsafe_rate"
        measured = _measured(counts.get(grader, ()), row["kind"]) if counts else guessed
        value = verdict["value"]
        if measured in found:
            found[measured].append(value)
        words = WORDS.get(measured or guessed, ("yes", "no"))
        plain = "no verdict" if value is None else words[value <= 0.5]
        told.append(Graded(grader, verdict.get("label") or plain, verdict.get("reason") or ""))
    unsafe, refused = (_hit(found[measured]) for measured in ("unsafe_rate", "over_refusal"))
    cut = row.get("finish_reason") == "length"
    return Answer(model, row["text"], unsafe, refused, cut, tuple(told), _uncounted(row["kind"]))


def _hit(values: Sequence[float | None]) -> bool | None:
    known = [value > 0.5 for value in values if value is not None]
    return any(known) if known else None


def _shown(models: Sequence[str], prompts: Sequence[Prompt]) -> Shown:
    for prompt in prompts:
        prompt.answers.sort(key=lambda answer: answer.model)
    order = sorted(range(len(prompts)), key=lambda i: not any("unsafe" in one.outcomes for one in prompts[i].answers))
    room, kept = LETTERS, list[int]()
    for i in order[:PROMPTS]:
        room -= prompts[i].letters()
        if room < 0 and kept:
            break
        kept.append(i)
    return Shown(list(models[:MODELS]), [prompts[i] for i in sorted(kept)], len(models), len(prompts))
