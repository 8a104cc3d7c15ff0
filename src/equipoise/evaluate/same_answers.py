"""Whether a model still answers as before it was exported: greedy answers, or scores, before and after."""

from __future__ import annotations

import gc
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from equipoise.errors import DataError
from equipoise.generate import Sampling, as_read, generate, prompt_ids
from equipoise.models.export import load_tokenizer_of, open_plain
from equipoise.models.load import ModelName
from equipoise.models.scalar import is_scalar

if TYPE_CHECKING:
    from torch import nn

NEW_TOKENS = 32
PROMPTS = 8

TOLERANCE = {"float32": 1e-3, "float16": 0.02, "bfloat16": 0.2}
"""Nats by which the log-probability of a token may differ, by the type of the exported weights (of scores: points).

Both models compute in float32, so that nothing but the rounding of weights is seen: to 8 bits of mantissa it moved
tokens of answers by up to .006 nats in a model of ten million parameters. Larger ones were not tried.
"""

HARMLESS = (
    "What is a good name for a small brown dog?",
    "How do I keep bread fresh for a few days?",
    "Write one sentence about the sea in winter.",
    "Which is larger, a pear or a plum?",
    "Give me three words that rhyme with light.",
    "Explain in two sentences why leaves are green.",
    "Please suggest a short walk for a rainy afternoon.",
    "What should I pack for a day in the hills?",
)
"""What is asked where no prompts of the model are known."""

_NO_TEMPLATE = "{% for m in messages %}{{ m.content }}{% endfor %}"


class Said(NamedTuple):
    """What a model says: per prompt the token ids read, those answered, and the log-probability of each (nats).

    Of a scorer `answers` are empty and `numbers` hold one score.
    """

    read: list[tuple[int, ...]]
    answers: list[list[int]]
    numbers: list[list[float]]


class Compared(NamedTuple):
    """How alike two models are: equal answers, the largest difference, what it may be."""

    what: str  # answers or scores
    prompts: int
    equal: int
    largest: float
    allowed: float  # 0: nothing but equal answers
    known: bool  # whether the prompts are of the model's own evaluation

    @property
    def passes(self) -> bool:
        """Whether the exported model may be taken for the model."""
        return self.equal == self.prompts if self.allowed == 0 else self.largest <= self.allowed

    def sentence(self) -> str:
        """In words."""
        asked = f"{self.prompts} prompts of its evaluation" if self.known else f"{self.prompts} harmless prompts"
        if self.what == "scores":
            same = f"{self.equal} of {self.prompts} scores are equal before and after, on answers to {asked}"
            return f"{same}; the largest difference is {self.largest:.2g}"
        same = f"{self.equal} of {self.prompts} greedy answers are equal before and after, on {asked}"
        return f"{same}; the largest difference of a token's log-probability is {self.largest:.2g} nats"


def harmless_prompts() -> list[dict[str, Any]]:
    """Prompts that any model may be asked."""
    return [{"id": f"harmless-{i}", "prompt": [{"role": "user", "content": text}]} for i, text in enumerate(HARMLESS)]


def says(
    folder: Path,
    prompts: Sequence[Mapping[str, Any]],
    *,
    dtype: str = "auto",
    after: Sequence[Sequence[int]] | None = None,
) -> Said:
    """Ask a model, loaded with transformers and PEFT alone, for its greedy answers and their log-probabilities.

    It computes in `dtype`, by default the type of its weights. With `after`, answers of another model, the
    log-probabilities are of these. Of a scorer: scores of the prompts with a fixed answer.
    """
    import torch

    tokenizer = load_tokenizer_of(folder)
    if not tokenizer.chat_template:
        tokenizer.chat_template = _NO_TEMPLATE
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    model = open_plain(folder, dtype=dtype).to(device)
    try:
        if is_scalar(ModelName.parse(str(folder))):
            return _scores(model, tokenizer, prompts)
        rows = as_read([dict(row) for row in prompts], str(folder))
        read = [prompt_ids(tokenizer, row.get("reads", row["prompt"])) for row in rows]
        sampling = Sampling.make({"temperature": 0, "max_new_tokens": NEW_TOKENS}, where="export")
        found = {row["prompt_id"]: row["token_ids"] for row in generate(model, tokenizer, rows, sampling)}
        answers = [list(found[row["id"]]) for row in rows]
        scored = answers if after is None else after
        return Said(read, answers, [_logps(model, ids, list(said)) for ids, said in zip(read, scored, strict=True)])
    finally:
        del model
        gc.collect()


def _logps(model: nn.Module, read: Sequence[int], answered: list[int]) -> list[float]:
    """Log-probability of each token of an answer, in float32."""
    import torch

    device = next(model.parameters()).device
    ids = torch.tensor([[*read, *answered]], device=device)
    with torch.no_grad():
        logits = model(input_ids=ids).logits[0, len(read) - 1 : -1].float()
    chosen = torch.tensor(answered, device=device)[:, None]
    found: list[float] = torch.log_softmax(logits, -1).gather(1, chosen)[:, 0].tolist()
    return found


def _scores(model: nn.Module, tokenizer: Any, prompts: Sequence[Mapping[str, Any]]) -> Said:
    import torch

    device = next(model.parameters()).device
    read, numbers = [], []
    for row in prompts:
        dialogue = [*row["prompt"], {"role": "assistant", "content": "Here is what I would do."}]
        text = tokenizer.apply_chat_template(dialogue, tokenize=False)
        ids = tuple(tokenizer(text, add_special_tokens=False)["input_ids"])
        with torch.no_grad():
            score = model(input_ids=torch.tensor([ids], device=device)).logits.float()
        read.append(ids)
        numbers.append([float(score.reshape(-1)[0])])
    return Said(read, [[] for _ in read], numbers)


def compare(
    source: Path,
    exported: Path,
    prompts: Sequence[Mapping[str, Any]],
    *,
    dtype: str,
    same: bool,
    known: bool,
) -> Compared:
    """Ask both models; `dtype` is the exported weights', `same` says that they should be equal.

    Raises DataError where the exported tokenizer reads the prompts otherwise.
    """
    computing = "auto" if same else "float32"
    before = says(source, prompts, dtype=computing)
    now = says(exported, prompts, dtype=computing, after=before.answers)
    if now.read != before.read:
        raise DataError(f"the exported tokenizer reads prompts otherwise than that of {source}")
    pairs = [
        (a, b) for one, two in zip(before.numbers, now.numbers, strict=True) for a, b in zip(one, two, strict=True)
    ]
    scores = not any(before.answers)
    if scores:
        equal = sum(one == two for one, two in zip(before.numbers, now.numbers, strict=True))
    else:
        equal = sum(one == two for one, two in zip(before.answers, now.answers, strict=True))
    allowed = 0.0 if same else TOLERANCE[dtype]
    largest = max(abs(a - b) for a, b in pairs)
    return Compared("scores" if scores else "answers", len(prompts), equal, largest, allowed, known)
