"""What the benchmarks train: HH-RLHF harmless pairs, a tokenizer made from them, and a random 13.8M Llama."""

from __future__ import annotations

import gzip
import json
import os
import random
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

HIDDEN, LAYERS, HEADS, INTERMEDIATE, VOCABULARY = 384, 6, 6, 1024, 8192  # 13.8M parameters, tied
LONG_PROMPT, LONG_ANSWER = (500, 1500), (50, 200)  # tokens
MAX_LENGTH = 4096  # above every row: nothing is truncated
TEMPLATE = (
    "{%- for m in messages -%}"
    "{%- if m.role == 'user' -%}{{ '<|user|>' + m.content }}"
    "{%- else -%}{{ '<|assistant|>' + m.content + eos_token }}{%- endif -%}"
    "{%- endfor -%}"
    "{%- if add_generation_prompt -%}{{ '<|assistant|>' }}{%- endif -%}"
)


def read_pairs() -> Iterator[dict[str, Any]]:
    """HH-RLHF harmless pairs whose dialogues differ in the last answer only."""
    root = Path(os.environ.get("EQUIPOISE_SHARED_DATA", Path(__file__).resolve().parents[2] / "shared" / "data"))
    path = root / "hh_rlhf_harmless_test" / "test.jsonl.gz"
    if not path.is_file():
        sys.exit(f"{path} is missing: set EQUIPOISE_SHARED_DATA to the folder that holds hh_rlhf_harmless_test")
    with gzip.open(path, "rt", encoding="utf-8") as file:
        for line in file:
            row = json.loads(line)
            chosen, rejected = (dialogue(row[side]) for side in ("chosen", "rejected"))
            whole = len(chosen) > 1 and all(turns[-1]["role"] == "assistant" for turns in (chosen, rejected))
            if whole and chosen[:-1] == rejected[:-1] and chosen[-1] != rejected[-1]:
                yield {"prompt": chosen[:-1], "chosen": chosen[-1:], "rejected": rejected[-1:]}


def dialogue(transcript: str) -> list[dict[str, str]]:
    r"""Turns of a `\n\nHuman: ...\n\nAssistant: ...` transcript."""
    parts = re.split(r"\n\n(Human|Assistant):", transcript)[1:]
    roles = {"Human": "user", "Assistant": "assistant"}
    return [{"role": roles[who], "content": text.strip()} for who, text in zip(parts[::2], parts[1::2], strict=True)]


def long_pairs(pairs: list[dict[str, Any]], tokenizer: Any, rng: random.Random) -> list[dict[str, Any]]:
    """Pairs with answers of 50-200 tokens, after whole other dialogues that fill the prompt to 500-1500 tokens."""

    def length(messages: list[dict[str, str]]) -> int:
        text = tokenizer.apply_chat_template(messages, tokenize=False)
        return len(tokenizer(text, add_special_tokens=False)["input_ids"])

    history = [(pair["prompt"] + pair["chosen"], length(pair["prompt"] + pair["chosen"])) for pair in pairs]
    joined = []
    for pair in pairs:
        if not all(LONG_ANSWER[0] <= length(pair[side]) <= LONG_ANSWER[1] for side in ("chosen", "rejected")):
            continue
        target, size = rng.uniform(*LONG_PROMPT), length(pair["prompt"])
        turns: list[dict[str, str]] = []
        while size < target:
            more, tokens = rng.choice(history)
            turns, size = turns + more, size + tokens
        if size <= LONG_PROMPT[1]:
            joined.append(pair | {"prompt": turns + pair["prompt"]})
    return joined


def unpaired(pairs: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Each pair as a desirable and an undesirable row."""
    sides = (("chosen", True), ("rejected", False))
    return [
        {"prompt": pair["prompt"], "completion": pair[side], "label": label} for pair in pairs for side, label in sides
    ]


def train_tokenizer(pairs: list[dict[str, Any]]) -> Any:
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    core = Tokenizer(models.BPE())
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    core.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY,
        special_tokens=["<|pad|>", "<|end|>", "<|user|>", "<|assistant|>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    texts = (m["content"] for pair in pairs for side in ("prompt", "chosen", "rejected") for m in pair[side])
    core.train_from_iterator(texts, trainer)
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=core, eos_token="<|end|>", pad_token="<|pad|>")
    tokenizer.chat_template = TEMPLATE
    return tokenizer


def save_model(path: Path, tokenizer: Any, seed: int) -> int:
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=VOCABULARY,
        hidden_size=HIDDEN,
        num_hidden_layers=LAYERS,
        num_attention_heads=HEADS,
        intermediate_size=INTERMEDIATE,
        max_position_embeddings=MAX_LENGTH,
        tie_word_embeddings=True,
        pad_token_id=tokenizer.pad_token_id,
        eos_token_id=tokenizer.eos_token_id,
        bos_token_id=None,
    )
    model = LlamaForCausalLM(config)
    model.save_pretrained(path)
    return model.num_parameters()
