"""A new small Llama with its own tokenizer, for runs that begin without any pretrained model."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING

from equipoise.data.templates import resolve_template
from equipoise.errors import DataError, SettingError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

logger = logging.getLogger(__name__)

_BOS, _EOS, _PAD, _UNK = "<|bos|>", "<|eos|>", "<|pad|>", "<|unk|>"
_ROLES = ("<|system|>", "<|user|>", "<|assistant|>")
_BYTES = 256
# A turn is its role token and its text; only answers end, because only answers have to be ended by the model.
_TEMPLATE = (
    "{{ bos_token }}"
    "{%- for message in messages -%}"
    "{{ '<|' + message.role + '|>' + message.content }}"
    "{%- if message.role == 'assistant' -%}{{ eos_token }}{%- endif -%}"
    "{%- endfor -%}"
    "{%- if add_generation_prompt -%}{{ '<|assistant|>' }}{%- endif -%}"
)


def fresh_model(
    out: Path,
    *,
    texts: Iterable[str],
    vocab_size: int = 8192,
    hidden_size: int = 320,
    layers: int = 6,
    heads: int = 5,
    intermediate_size: int | None = None,
    max_length: int = 1024,
    chat_template: str | None = None,
    seed: int = 0,
) -> Path:
    """Write an untrained Llama and a byte-level BPE tokenizer trained on `texts` to the directory `out`.

    The defaults give about 10 million parameters (embeddings tied). `intermediate_size` defaults to 8/3 of the hidden
    size, rounded up to a multiple of 64. `chat_template` is a named template or a .jinja file; without one a template
    with a token per role is used. Equal arguments give equal files. Raises SettingError for sizes that do not fit
    together, DataError where `texts` hold nothing.
    """
    if intermediate_size is None:
        intermediate_size = -(-hidden_size * 8 // 3 // 64) * 64
    _check_sizes(vocab_size=vocab_size, hidden_size=hidden_size, heads=heads)
    for name, size in (("layers", layers), ("intermediate_size", intermediate_size), ("max_length", max_length)):
        if size < 1:
            raise SettingError(f"{name} is {size}, expected 1 or more")
    template = _TEMPLATE if chat_template is None else resolve_template(chat_template)
    tokenizer = train_tokenizer(texts, vocab_size=vocab_size)
    tokenizer.chat_template = template
    tokenizer.model_max_length = max_length
    if len(tokenizer) < vocab_size:
        logger.info("the texts hold only enough for a vocabulary of %d, not %d", len(tokenizer), vocab_size)

    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=hidden_size,
        intermediate_size=intermediate_size,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        num_key_value_heads=heads,
        max_position_embeddings=max_length,
        tie_word_embeddings=True,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = LlamaForCausalLM(config)
    out.mkdir(parents=True, exist_ok=True)
    model.save_pretrained(out)
    tokenizer.save_pretrained(out)
    logger.info("a new Llama of %.1fM parameters is in %s", model.num_parameters() / 1e6, out)
    return out


def train_tokenizer(texts: Iterable[str], *, vocab_size: int) -> PreTrainedTokenizerFast:
    """Train a byte-level BPE (Sennrich et al. 2016, arXiv:1508.07909) that any text survives unchanged.

    Begin, end, padding and unknown are four different tokens, and each role has its own. Nothing is added around a
    text: the chat template writes every special token.
    """
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    specials = [_PAD, _BOS, _EOS, _UNK, *_ROLES]
    core = Tokenizer(models.BPE())
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    core.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        min_frequency=2,
        special_tokens=specials,
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    core.train_from_iterator(_some(texts), trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=core,
        bos_token=_BOS,
        eos_token=_EOS,
        pad_token=_PAD,
        unk_token=_UNK,
        extra_special_tokens=list(_ROLES),
        clean_up_tokenization_spaces=False,
    )


def _some(texts: Iterable[str]) -> Iterator[str]:
    """Return the texts that are not blank; at least one has to be there."""
    filled = (text for text in texts if text.strip())
    first = next(filled, None)
    if first is None:
        raise DataError("there is no text to train a tokenizer on")
    return chain([first], filled)


def _check_sizes(*, vocab_size: int, hidden_size: int, heads: int) -> None:
    least = _BYTES + len(_ROLES) + 4
    if vocab_size < least:
        raise SettingError(f"vocab_size is {vocab_size}, but the bytes and special tokens alone are {least}")
    if heads < 1 or hidden_size % heads or (hidden_size // heads) % 2:
        raise SettingError(
            f"hidden_size {hidden_size} does not divide into {heads} heads of even width (rotary positions turn pairs)"
        )
