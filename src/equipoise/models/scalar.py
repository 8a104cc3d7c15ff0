"""Models with a scalar head: reward and cost models, saved as plain `AutoModelForSequenceClassification`.

The score is read at the last token of an answer, its end token. Plain transformers reads it at the last token that is
not padding, so that padding must not be the token which ends answers: `padding_of` finds another.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import nn

from equipoise.data.tokens import spans
from equipoise.errors import DataError, SettingError
from equipoise.models.beaver import is_beaver, load_beaver
from equipoise.models.load import ModelName, dtype_of, first_line, load_tokenizer, no_dropout, reach_hub
from equipoise.models.scored import causal_lm, check_scalar_head, give_scalar_entry
from equipoise.types import Message

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

Head = Literal["reward", "cost"]
HEAD_FILE = "scorer.json"
"""What a trained head tells, beside the model or adapter."""

HEAD = "score"
"""What transformers calls the head of a decoder for sequence classification."""


def load_scalar(
    name: str,
    *,
    dtype: str = "float32",
    attn_implementation: str | None = "sdpa",
    device: torch.device | None = None,
    chat_template: str | None = None,
) -> tuple[nn.Module, PreTrainedTokenizerBase]:
    """A finished reward or cost model on its device, without gradients, and its tokenizer.

    `model(packed=...)` gives scores (B, K). Raises SettingError for a model without a scalar head.
    """
    model_name = ModelName.parse(name)
    tokenizer = load_tokenizer(name, chat_template)
    beaver = is_beaver(model_name)
    if not beaver and not is_scalar(model_name):
        raise SettingError(
            f"'{name}' has no scalar head: train one with method: reward_model or method: cost_model, or name a "
            "classifier with classifier: and label:"
        )
    base = ModelName.parse(model_name.adapter_base) if model_name.adapter_base else model_name
    load = load_beaver if beaver else _load
    model = load(base, dtype=dtype, attn_implementation=attn_implementation)
    if model_name.adapter_base:
        from peft import PeftModel

        model = PeftModel.from_pretrained(model, model_name.location)
    return finished(model, tokenizer, name).to(device or torch.device("cpu")), tokenizer


def finished(model: nn.Module, tokenizer: PreTrainedTokenizerBase, name: str) -> nn.Module:
    """Check a loaded model and give back the one entry, in evaluation mode and without gradients."""
    inner = causal_lm(model)
    inner.score.float()
    inner.config.pad_token_id = padding_of(tokenizer, name)
    model.requires_grad_(False).eval()
    try:
        check_scalar_head(model)
    except ValueError as error:
        if not all(bool(torch.isfinite(p).all()) for p in model.parameters()):
            raise DataError(f"the weights of '{name}' are not finite: the model is broken") from error
        raise SettingError(f"'{name}': {error}") from error
    return model


def new_scalar(
    name: str,
    tokenizer: PreTrainedTokenizerBase,
    head: Head,
    *,
    dtype: str,
    attn_implementation: str,
    load_in_4bit: bool = False,
) -> nn.Module:
    """A model to train: the backbone of `name` with a new head of zeros, or with the head it has.

    From zeros every training starts at the loss of equal scores, and two runs of one seed at the same one.
    """
    from equipoise.models.four_bit import prepare_4bit, quantization

    model_name = ModelName.parse(name)
    if model_name.adapter_base is not None:
        raise SettingError(f"'{name}' is an adapter: merge it into its base to train a {head} model on it")
    extra = {"quantization_config": quantization(dtype_of(dtype), skip=(HEAD,))} if load_in_4bit else {}
    model: Any = _load(model_name, dtype=dtype, attn_implementation=attn_implementation, **extra)
    if load_in_4bit:
        model = prepare_4bit(model)
    if not is_scalar(model_name):
        nn.init.zeros_(model.score.weight)
    model.score.float()
    padding = padding_of(tokenizer, name)
    model.config.pad_token_id = padding
    tokenizer.pad_token_id = padding  # saved beside the model, so that plain batches are padded alike
    model.config.id2label, model.config.label2id = {0: head}, {head: 0}
    check_scalar_head(model)
    return model


def _load(model: ModelName, *, dtype: str, attn_implementation: str | None, **extra: Any) -> nn.Module:
    from transformers import AutoModelForSequenceClassification

    try:
        loaded, found = AutoModelForSequenceClassification.from_pretrained(
            model.location,
            revision=model.revision or "main",
            num_labels=1,
            dtype=dtype_of(dtype),
            attn_implementation=attn_implementation,
            output_loading_info=True,
            **extra,
        )
    except (OSError, ValueError, RuntimeError) as error:
        raise SettingError(f"no sequence classifier can be made from '{model}': {first_line(error)}") from error
    lacking = [key for key in found["missing_keys"] if key.startswith(f"{HEAD}.")]
    if lacking and is_scalar(model):
        raise DataError(f"'{model}' says that it has a scalar head, but its weights lack {', '.join(lacking)}")
    if not isinstance(dict(loaded.named_children()).get(HEAD), nn.Linear):
        raise SettingError(
            f"'{model}' is a {type(loaded).__name__}, whose head is not a decoder's: a reward or cost model needs a "
            "causal language model as its backbone"
        )
    no_dropout(loaded)
    return give_scalar_entry(loaded)


def has_head(model: ModelName) -> bool:
    """Whether a checkpoint can score answers: ours, a plain classifier with one output, or Beaver's."""
    return is_beaver(model) or is_scalar(model)


def is_scalar(model: ModelName) -> bool:
    """Whether a checkpoint, or an adapter over one, has a trained head with one output."""
    from transformers import AutoConfig

    if model.adapter_base is not None:
        saved = json.loads((Path(model.location) / "adapter_config.json").read_text(encoding="utf-8"))
        return bool(saved.get("task_type") == "SEQ_CLS")
    try:
        reach_hub(model)
        config = AutoConfig.from_pretrained(model.location, revision=model.revision or "main")
    except (OSError, ValueError) as error:
        raise SettingError(f"no model can be loaded from '{model}': {first_line(error)}") from error
    known = config.architectures or []
    return any(name.endswith("ForSequenceClassification") for name in known) and config.num_labels == 1


def write_head(folder: Path, head: Head, *, zero: bool) -> None:
    """Say beside a saved model what its head tells, and whether its 0 means anything (a plain config could not)."""
    (folder / HEAD_FILE).write_text(json.dumps({"head": head, "zero": zero}) + "\n", encoding="utf-8")


def lacks_zero(name: str) -> bool:
    """Whether a head is known to have learned from ranks alone, so that no score divides safe from unsafe."""
    path = Path(ModelName.parse(name).location) / HEAD_FILE
    return path.is_file() and not json.loads(path.read_text(encoding="utf-8")).get("zero", True)


def head_of(name: str) -> str | None:
    """What a trained head says it is, 'reward' or 'cost'; None where the checkpoint does not say.

    Beaver's `score_type` is not believed: that of its published cost model says reward.
    """
    folder = Path(ModelName.parse(name).location)
    if (folder / HEAD_FILE).is_file():
        return str(json.loads((folder / HEAD_FILE).read_text(encoding="utf-8"))["head"])
    if not (folder / "config.json").is_file():
        return None
    label = (json.loads((folder / "config.json").read_text(encoding="utf-8")).get("id2label") or {}).get("0")
    return label if label in ("reward", "cost") else None


def padding_of(tokenizer: PreTrainedTokenizerBase, name: str) -> int:
    """A token to fill batches with that is not the one which ends answers."""
    asked, answered = [Message(role="user", content="a")], [Message(role="assistant", content="b")]
    last = spans(tokenizer, [asked], [answered])[0].ids[-1]
    for token in (tokenizer.pad_token_id, tokenizer.unk_token_id, tokenizer.bos_token_id):
        if token is not None and token != last:
            return int(token)
    raise SettingError(
        f"the tokenizer of '{name}' pads with the token that ends answers and has no other: give it a pad_token"
    )
