"""The base model of the playground: a tokenizer of whole words and a small Llama that speaks as `answers` does.

Saved as any model is (safetensors, tokenizer, chat template, generation config), so that everything downstream treats
it as it would an 8B one. The small base ships with the package; `build_base` is the script that made it.
"""

from __future__ import annotations

import json
import logging
import os
import random
import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from equipoise.data.conditions import Conditions
from equipoise.errors import SettingError
from equipoise.playground.answers import Mixture, base_answer
from equipoise.playground.lexicon import WORLD_VERSION
from equipoise.playground.rules import draw_rule
from equipoise.playground.wanted import OBJECTIVES, WANTED, rated_request
from equipoise.playground.world import KINDS, SPLITS, draw_prompt

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import LlamaForCausalLM, PreTrainedTokenizerFast

logger = logging.getLogger(__name__)

PAD, UNK, BOS, EOS = "<pad>", "<unk>", "<bos>", "<eos>"
ROLES = ("<|system|>", "<|user|>", "<|assistant|>")
MAX_LENGTH = 256
CHAT_TEMPLATE = (
    "{{ bos_token }}{% for message in messages %}{{ '<|' + message['role'] + '|>' }}"
    "{% if message['role'] == 'assistant' %}{% generation %}{{ message['content'] }}{{ eos_token }}{% endgeneration %}"
    "{% else %}{{ message['content'] }}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|>' }}{% endif %}"
)
# What the base reads: every split's topics, or the words of test prompts would mean nothing to it.
READS = {"train": 0.46, "select": 0.18, "verdict": 0.36}
KIND_SHARES = {"benign": 0.42, "borderline": 0.28, "harmful": 0.3}
RULED = 0.2  # share of exchanges with a rule in their context, before the request or as the system's message


class BaseSize(NamedTuple):
    """How large the base is and how long it learns."""

    hidden: int = 128
    layers: int = 4
    heads: int = 4
    mlp: int = 344
    samples: int = 150_000
    batch: int = 32
    learning_rate: float = 3e-3


class Base(NamedTuple):
    """A base: its size, the mixture of answers it speaks, and how many requests name levels their answers have."""

    size: BaseSize = BaseSize()
    mixture: Mixture = Mixture()
    rated: float = 0.0


# The large one knows more, complies less by itself and is more easily loosened by pretexts.
BASES = {
    "small": Base(),
    "large": Base(
        BaseSize(hidden=160, layers=5, heads=5, mlp=432, samples=120_000),
        Mixture(knows=0.85, complies=0.8, loosened=2.0),
    ),
    # Has read preference tokens, as large models have read ratings; never with the topics of test prompts.
    "rated": Base(rated=0.6),
}


class Example(NamedTuple):
    """Token ids of one exchange; training starts at `start`, the first token of the answer."""

    ids: list[int]
    start: int


def vocabulary(texts: Iterator[str]) -> list[str]:
    """Return the special tokens and then every token of the texts, in order of first use."""
    tokenizer = _backend([])
    pieces = (
        piece
        for text in texts
        for piece, _ in tokenizer.pre_tokenizer.pre_tokenize_str(tokenizer.normalizer.normalize_str(text))
    )
    return list(dict.fromkeys((PAD, UNK, BOS, EOS, *ROLES, *pieces)))


def _backend(words: list[str]):
    from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers

    tokenizer = Tokenizer(models.WordLevel({word: index for index, word in enumerate(words)}, unk_token=UNK))
    marks = [normalizers.Replace(f" {mark}", mark) for mark in ".,:?!"]
    spaces = normalizers.Replace(Regex(r"\s+"), " ")
    tokenizer.normalizer = normalizers.Sequence([normalizers.Lowercase(), spaces, *marks, normalizers.Strip()])
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Metaspace(prepend_scheme="always"), pre_tokenizers.Split(Regex("[.,:?!]"), "isolated")]
    )
    tokenizer.decoder = decoders.Metaspace(prepend_scheme="always")
    return tokenizer


def build_tokenizer() -> PreTrainedTokenizerFast:
    """Return the playground's tokenizer: one token for a word (with the space before it) or a mark."""
    from transformers import PreTrainedTokenizerFast

    rng = random.Random(f"{WORLD_VERSION}|vocabulary")

    def texts() -> Iterator[str]:
        yield WANTED
        for messages, answer in exchanges(20_000, rng):
            yield from (message["content"] for message in messages)
            yield answer

    words = vocabulary(texts())
    head = len((PAD, UNK, BOS, EOS, *ROLES))
    return PreTrainedTokenizerFast(
        tokenizer_object=_backend(words[:head] + sorted(words[head:])),
        pad_token=PAD,
        unk_token=UNK,
        bos_token=BOS,
        eos_token=EOS,
        extra_special_tokens=list(ROLES),
        chat_template=CHAT_TEMPLATE,
        model_max_length=MAX_LENGTH,
        padding_side="left",
        clean_up_tokenization_spaces=False,
    )


def exchanges(
    n: int,
    rng: random.Random,
    mixture: Mixture = Mixture(),  # noqa: B008
    *,
    rated: float = 0.0,
) -> Iterator[tuple[list[dict[str, str]], str]]:
    """Yield `n` (messages, answer) as the base reads them; some have a rule in their context.

    A share `rated` of the others outside the verdict split ask for levels that the answer has, by preference tokens.
    """
    splits, kinds = (
        rng.choices(SPLITS, [READS[s] for s in SPLITS], k=n),
        rng.choices(KINDS, [KIND_SHARES[k] for k in KINDS], k=n),
    )
    for split, kind in zip(splits, kinds, strict=True):
        prompt = draw_prompt(split, kind, rng)
        messages, rule = prompt.messages(), None
        if rng.random() < RULED:
            rule = draw_rule(prompt.ask, rng)
            messages = under_rule(messages, rule.text, system=rng.random() < 0.5)
        answer = base_answer(prompt.ask, rng, rule=rule, mixture=mixture)
        if rated and rule is None and split != "verdict" and rng.random() < rated:
            messages = rated_request(prompt.row(), answer, rng)
        yield messages, answer


def under_rule(messages: list[dict[str, str]], rule: str, *, system: bool = True) -> list[dict[str, str]]:
    """Put a rule into a dialogue's context: as the system's message, or in front of the last request."""
    if system:
        return [{"role": "system", "content": rule}, *messages]
    return [*messages[:-1], {"role": "user", "content": f"{rule} {messages[-1]['content']}"}]


def _encode(
    tokenizer: PreTrainedTokenizerFast, n: int, rng: random.Random, mixture: Mixture, rated: float
) -> list[Example]:
    pairs = list(exchanges(n, rng, mixture, rated=rated))
    prompts = tokenizer(
        [tokenizer.apply_chat_template(m, tokenize=False, add_generation_prompt=True) for m, _ in pairs],
        add_special_tokens=False,
    )["input_ids"]
    answers = tokenizer([f"{answer}{EOS}" for _, answer in pairs], add_special_tokens=False)["input_ids"]
    return [Example([*prompt, *answer], len(prompt)) for prompt, answer in zip(prompts, answers, strict=True)]


def _batches(examples: list[Example], size: int, rng: random.Random) -> list[list[Example]]:
    """Cut examples into batches of like length (little padding), in random order."""
    ordered = sorted(examples, key=lambda e: (len(e.ids), rng.random()))
    batches = [ordered[at : at + size] for at in range(0, len(ordered), size)]
    rng.shuffle(batches)
    return batches


def _tensors(batch: list[Example], pad: int) -> tuple[Tensor, Tensor]:
    """Return ids (B, T) and labels (B, T), right-padded; labels are -100 outside the answer."""
    import torch

    width = max(len(e.ids) for e in batch)
    ids = torch.full((len(batch), width), pad)
    labels = torch.full((len(batch), width), -100)
    for row, example in enumerate(batch):
        end = len(example.ids)
        ids[row, :end] = torch.tensor(example.ids)
        labels[row, example.start : end] = ids[row, example.start : end]
    return ids, labels


def _new_model(tokenizer: PreTrainedTokenizerFast, size: BaseSize) -> LlamaForCausalLM:
    from transformers import LlamaConfig, LlamaForCausalLM

    return LlamaForCausalLM(
        LlamaConfig(
            vocab_size=len(tokenizer),
            hidden_size=size.hidden,
            intermediate_size=size.mlp,
            num_hidden_layers=size.layers,
            num_attention_heads=size.heads,
            num_key_value_heads=size.heads,
            max_position_embeddings=MAX_LENGTH,
            tie_word_embeddings=True,
            attention_dropout=0.0,
            initializer_range=0.06,  # the usual 0.02 is meant for wide models and learns far slower here
            bos_token_id=tokenizer.bos_token_id,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
        )
    )


def _rate(step: int, steps: int) -> float:
    """Share of the learning rate at a step: a short rise, then a straight fall to zero."""
    warmup = max(1, steps // 30)
    return min((step + 1) / warmup, (steps - step) / max(1, steps - warmup))


def _train(
    model: LlamaForCausalLM, batches: list[list[Example]], size: BaseSize, progress: Callable[[float], None] | None
) -> float:
    """Train in place on the answers' tokens; return the mean loss of the last tenth."""
    import torch
    from torch.nn.functional import cross_entropy

    optimizer = torch.optim.AdamW(
        model.parameters(), lr=size.learning_rate, betas=(0.9, 0.98), weight_decay=0.01, fused=True
    )
    model.train()
    tail: list[float] = []
    for step, batch in enumerate(batches):
        for group in optimizer.param_groups:
            group["lr"] = size.learning_rate * _rate(step, len(batches))
        ids, labels = _tensors(batch, model.config.pad_token_id)
        hidden = model.model(input_ids=ids).last_hidden_state[:, :-1]  # (B, T-1, H); right padding needs no mask
        counted = labels[:, 1:] != -100
        loss = cross_entropy(model.lm_head(hidden[counted]), labels[:, 1:][counted])
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        if step >= len(batches) * 9 // 10:
            tail.append(loss.item())
        if progress is not None:
            progress((step + 1) / len(batches))
    model.eval()
    return sum(tail) / len(tail)


def build_base(
    out_dir: str | os.PathLike[str],
    *,
    seed: int = 0,
    size: BaseSize = BaseSize(),  # noqa: B008 - a frozen tuple
    mixture: Mixture = Mixture(),  # noqa: B008
    rated: float = 0.0,
    progress: Callable[[float], None] | None = None,
) -> Path:
    """Train the base and write it to `out_dir` (complete or not at all); `progress` hears the share done, 0 to 1.

    Leaves torch's global random state as it was. Raises SettingError when `out_dir` holds something already.
    """
    import torch
    from transformers import GenerationConfig

    torch.set_flush_denormal(True)  # as in models.load.this_process: the same numbers, quicker

    out = Path(out_dir)
    if out.exists() and any(out.iterdir()):
        raise SettingError(f"playground: the base was to be written to '{out}', expected a new or empty directory")
    out.parent.mkdir(parents=True, exist_ok=True)
    tokenizer = build_tokenizer()
    rng = random.Random(f"{WORLD_VERSION}|base|{seed}")
    batches = _batches(_encode(tokenizer, size.samples, rng, mixture, rated), size.batch, rng)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = _new_model(tokenizer, size)
    loss = _train(model, batches, size, progress)
    logger.info("playground base: %d parameters, %d samples, loss %.3f", model.num_parameters(), size.samples, loss)
    ends = {"bos_token_id": tokenizer.bos_token_id, "eos_token_id": tokenizer.eos_token_id}
    model.generation_config = GenerationConfig(
        **ends,
        pad_token_id=tokenizer.pad_token_id,
        do_sample=True,
        temperature=1.0,
        top_k=0,
        top_p=1.0,
        max_new_tokens=64,
    )
    with tempfile.TemporaryDirectory(dir=out.parent, prefix=f".{out.name}-") as scratch:
        model.save_pretrained(scratch)
        tokenizer.save_pretrained(scratch)
        made = {
            "world": WORLD_VERSION,
            "seed": seed,
            "size": size._asdict(),
            "mixture": mixture._asdict(),
            "rated": rated,
            "loss": loss,
        }
        Path(scratch, "playground.json").write_text(json.dumps(made, indent=1) + "\n")
        if rated:  # what it may be asked for
            Conditions(objectives=OBJECTIVES, ask_for_harm=True).record(Path(scratch), [])
        if out.exists():
            out.rmdir()
        shutil.copytree(scratch, f"{scratch}.done")
        os.replace(f"{scratch}.done", out)
    return out
