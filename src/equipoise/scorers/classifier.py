"""Hub classifiers over stored answers: plain padded batches, sorted by length; the score is about one label."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

from equipoise.data.plan import group_by_tokens
from equipoise.data.templates import ensure_template
from equipoise.errors import SettingError, nearest
from equipoise.scorers import ScorerUse
from equipoise.scorers.answers import Answer, Scored
from equipoise.scorers.labels import log_odds
from equipoise.scorers.packed import room
from equipoise.types import Message

if TYPE_CHECKING:
    import torch

logger = logging.getLogger(__name__)

BLOCK = 4096
_UNLIMITED = 10**6  # a tokenizer that knows no limit says a number far above it


def loaded_classifier(use: ScorerUse, name: str) -> Callable[[Sequence[Answer]], Iterator[Scored]]:
    """A classifier: log-odds of the label, or its logit where labels do not exclude each other.

    What is too long loses its start where dialogues are read, and its end where answers are; both are counted.
    """
    import torch

    from equipoise.models.load import check_vocabulary, this_process, use_bf16

    device = this_process().device
    bf16 = use_bf16(use.dtype, device)
    model, tokenizer = _load(name, torch.bfloat16 if bf16 and device.type == "cuda" else torch.float32)
    label = _index(use, model, name)
    check_vocabulary(model, tokenizer, name)
    model = model.to(device).requires_grad_(False).eval()
    max_length = room(use.max_length, _positions(model, tokenizer), name)
    if use.reads == "dialogue":
        ensure_template(tokenizer, use.chat_template, name)
    elif use.chat_template is not None:
        raise SettingError("chat_template does nothing for a classifier that reads the answer alone: reads: dialogue")
    padding = model.config.get_text_config().pad_token_id
    if padding is None:
        logger.warning("'%s' knows no padding token, so its answers are scored one at a time", name)
    exclusive = model.config.problem_type in (None, "single_label_classification")

    def score(answers: Sequence[Answer]) -> Iterator[Scored]:
        for start in range(0, len(answers), BLOCK):
            block = answers[start : start + BLOCK]
            coded, cut = _encode(tokenizer, use, block, max_length)
            lengths = [len(ids) for ids in coded]
            ordered = sorted(range(len(block)), key=lambda i: (lengths[i], i))
            budget = use.tokens_per_micro_batch if padding is not None else 1
            for micro in group_by_tokens(ordered, lengths, budget):
                batch = _padded([coded[i] for i in micro.rows], padding or 0, device)
                with torch.no_grad(), torch.autocast(device.type, dtype=torch.bfloat16, enabled=bf16):
                    logits = model(**batch).logits.double().cpu().tolist()
                values = [log_odds(z, label) if exclusive else z[label] for z in logits]
                yield Scored([block[i].row for i in micro.rows], values, [cut[i] for i in micro.rows])

    return score


def _load(name: str, dtype: torch.dtype) -> tuple[Any, Any]:
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    from equipoise.models.load import ModelName, first_line, reach_hub

    where = ModelName.parse(name)
    try:
        reach_hub(where)
        tokenizer = AutoTokenizer.from_pretrained(where.location, revision=where.revision or "main")
        model, loading = AutoModelForSequenceClassification.from_pretrained(
            where.location, revision=where.revision or "main", dtype=dtype, output_loading_info=True
        )
    except (OSError, ValueError) as error:
        raise SettingError(f"no classifier can be loaded from '{name}': {first_line(error)}") from error
    if loading["missing_keys"]:
        missing = sorted(loading["missing_keys"])[0]
        raise SettingError(f"'{name}' is no trained classifier: its weights lack '{missing}'")
    return model, tokenizer


def _index(use: ScorerUse, model: Any, name: str) -> int:
    labels = {str(label): int(i) for i, label in model.config.id2label.items()}
    assert use.label is not None
    if use.label not in labels:
        raise SettingError(f"'{name}' knows no label '{use.label}'{nearest(use.label, labels)}")
    return labels[use.label]


def _positions(model: Any, tokenizer: Any) -> int | None:
    """Tokens that the model can read; some keep the first rows of their position embeddings for padding."""
    from torch import nn

    found = []
    if tokenizer.model_max_length < _UNLIMITED:
        found.append(int(tokenizer.model_max_length))
    for path, module in model.named_modules():
        if path.endswith("position_embeddings") and isinstance(module, nn.Embedding):
            found.append(module.num_embeddings - (0 if module.padding_idx is None else module.padding_idx + 1))
    known = model.config.get_text_config().to_dict().get("max_position_embeddings")
    return min([*found, *([known] if isinstance(known, int) and known > 0 else [])], default=None)


def _encode(
    tokenizer: Any, use: ScorerUse, answers: Sequence[Answer], max_length: int | None
) -> tuple[list[list[int]], list[bool]]:
    """Token ids of what the classifier reads, and which of it was cut."""
    if use.reads == "answer":
        texts, special = [answer.text for answer in answers], True
    else:
        # An encoder's tokenizer frames texts itself; a decoder's template writes its special tokens.
        special = tokenizer.cls_token is not None
        ends = {"bos_token": "", "eos_token": ""} if special else {}
        texts = [
            tokenizer.apply_chat_template(
                [*answer.prompt, Message(role="assistant", content=answer.text)], tokenize=False, **ends
            )
            for answer in answers
        ]
    tokenizer.truncation_side = "right" if use.reads == "answer" else "left"
    coded: list[list[int]] = tokenizer(texts, add_special_tokens=special, verbose=False)["input_ids"]
    long = [i for i, ids in enumerate(coded) if max_length is not None and len(ids) > max_length]
    if long:
        cut = tokenizer([texts[i] for i in long], add_special_tokens=special, truncation=True, max_length=max_length)
        for i, ids in zip(long, cut["input_ids"], strict=True):
            coded[i] = ids
    empty = tokenizer.eos_token_id if tokenizer.eos_token_id is not None else tokenizer.unk_token_id
    coded = [ids or [empty] for ids in coded]  # a decoder's tokenizer makes nothing of an empty answer
    cut_off = set(long)
    return coded, [i in cut_off for i in range(len(answers))]


def _padded(rows: Sequence[Sequence[int]], padding: int, device: torch.device) -> dict[str, Any]:
    import torch

    width = max(map(len, rows))
    ids = torch.full((len(rows), width), padding, dtype=torch.long)
    mask = torch.zeros((len(rows), width), dtype=torch.long)
    for i, row in enumerate(rows):
        ids[i, : len(row)] = torch.tensor(row, dtype=torch.long)
        mask[i, : len(row)] = 1
    return {"input_ids": ids.to(device), "attention_mask": mask.to(device)}
