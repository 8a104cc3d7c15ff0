"""Models by name: a hub id, a directory or an artefact, as a base or as a base with an adapter."""

from __future__ import annotations

import contextlib
import fnmatch
import json
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from equipoise.errors import DataError, SettingError, nearest

if TYPE_CHECKING:
    import torch
    from accelerate import PartialState
    from torch import nn
    from transformers import PreTrainedTokenizerBase

    from equipoise.config import TrainConfig

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class ModelName:
    """A model as one canonical string: `path`, `owner/name` or `owner/name@revision`."""

    location: str
    revision: str | None = None

    @classmethod
    def parse(cls, text: str) -> ModelName:
        """Split `owner/name@revision`; an existing path is taken as it is."""
        if Path(text).is_dir():
            return cls(str(Path(text).resolve()))
        location, _, revision = text.partition("@")
        if location.count("/") > 1 or location.startswith((".", "/", "~")):
            raise SettingError(f"model '{text}' is not a directory, and a hub id looks like owner/name")
        return cls(location, revision or None)

    @property
    def is_local(self) -> bool:
        """Whether it is a directory on this machine."""
        return Path(self.location).is_dir()

    @property
    def adapter_base(self) -> str | None:
        """The base an adapter directory belongs to; None when this is not an adapter."""
        config = Path(self.location) / "adapter_config.json"
        if not config.is_file():
            return None
        saved = json.loads(config.read_text(encoding="utf-8"))
        base, revision = saved.get("base_model_name_or_path"), saved.get("revision")
        if not base:
            raise SettingError(f"the adapter at {self.location} does not say which base it belongs to")
        return f"{base}@{revision}" if revision and not Path(base).is_dir() else str(base)

    def __str__(self) -> str:
        return self.location if self.revision is None else f"{self.location}@{self.revision}"


def reach_hub(model: ModelName) -> None:
    """Raise OSError for a model that is not on this machine where the hub cannot be reached.

    One attempt: the hub's library makes twelve, over most of a minute.
    """
    if model.is_local:
        return
    import httpx2
    from huggingface_hub import HfApi, try_to_load_from_cache
    from huggingface_hub.errors import HfHubHTTPError, OfflineModeIsEnabled

    for file in ("config.json", "tokenizer_config.json", "adapter_config.json"):
        if isinstance(try_to_load_from_cache(model.location, file, revision=model.revision or "main"), str):
            return
    try:
        # What the hub itself has to say is for whoever loads.
        with contextlib.suppress(HfHubHTTPError, OfflineModeIsEnabled):
            HfApi().model_info(model.location, revision=model.revision, timeout=_HUB_S)
    except httpx2.TransportError as error:
        raise OSError(
            f"it is no directory, nor in this machine's cache, and the hub cannot be reached ({type(error).__name__})"
        ) from error


_HUB_S = 10.0


def load_tokenizer(name: str, chat_template: str | None = None) -> PreTrainedTokenizerBase:
    """Tokenizer of a model (of its base where the adapter directory has none), with a chat template for certain."""
    from transformers import AutoTokenizer

    from equipoise.data.templates import ensure_template

    model = ModelName.parse(name)
    where = model
    if model.adapter_base and not (Path(model.location) / "tokenizer_config.json").is_file():
        where = ModelName.parse(model.adapter_base)
    try:
        reach_hub(where)
        tokenizer = AutoTokenizer.from_pretrained(where.location, revision=where.revision or "main")
    except (OSError, ValueError) as error:
        raise SettingError(f"no tokenizer can be loaded from '{where}': {first_line(error)}") from error
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token  # only ever used to fill; masks never look at it
    ensure_template(tokenizer, chat_template, str(where))
    return tokenizer


def load_model(
    name: str,
    *,
    dtype: str = "float32",
    attn_implementation: str | None = "sdpa",
    trainable_adapter: bool = False,
    load_in_4bit: bool = False,
) -> nn.Module:
    """A causal LM in evaluation mode, with its adapter if it has one, and with the scoring entry.

    `load_in_4bit` quantizes the base; matrix products are then computed in `dtype`.
    """
    import torch
    from transformers import AutoModelForCausalLM

    from equipoise.models.four_bit import prepare_4bit, quantization
    from equipoise.models.scored import check_head, give_entry

    model_name = ModelName.parse(name)
    base = ModelName.parse(model_name.adapter_base) if model_name.adapter_base else model_name
    kind = dtype_of(dtype)
    extra = {"quantization_config": quantization(kind)} if load_in_4bit else {}
    try:
        reach_hub(base)
        model = AutoModelForCausalLM.from_pretrained(
            base.location,
            revision=base.revision or "main",
            dtype=kind,
            attn_implementation=attn_implementation,
            **extra,
        )
    except (OSError, ValueError) as error:
        raise SettingError(f"no causal language model can be loaded from '{base}': {first_line(error)}") from error
    no_dropout(model)
    if load_in_4bit:
        model = prepare_4bit(model)
    give_entry(model)
    if model_name.adapter_base:
        from peft import PeftModel

        model = PeftModel.from_pretrained(model, model_name.location, is_trainable=trainable_adapter)
    model.eval()
    try:
        check_head(model)
    except ValueError as error:
        if not all(bool(torch.isfinite(p).all()) for p in model.parameters()):
            raise DataError(f"the weights of '{name}' are not finite: the model is broken") from error
        raise SettingError(f"'{name}': {error}") from error
    return model


def skeleton(name: str) -> nn.Module:
    """The base of a model without any weights (on the meta device), to look names and shapes up in."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    model = ModelName.parse(name)
    base = ModelName.parse(model.adapter_base) if model.adapter_base else model
    try:
        reach_hub(base)
        config = AutoConfig.from_pretrained(base.location, revision=base.revision or "main")
        with torch.device("meta"):
            return AutoModelForCausalLM.from_config(config)
    except (OSError, ValueError) as error:
        raise SettingError(f"no causal language model can be loaded from '{base}': {first_line(error)}") from error


def positions_of(name: str) -> int | None:
    """How many tokens a model can read; None where it does not say."""
    config = skeleton(name).config.get_text_config(decoder=True).to_dict()
    found = config.get("max_position_embeddings")
    return None if found is None else int(found)


def check_setup(name: str, config: TrainConfig) -> None:
    """Refuse what could not be trained with these settings before any weights load.

    Looks at the tokenizer's template and vocabulary, at the names that LoRA and freezing ask for, and at what an
    adapter that is to be continued was made with.
    """
    tokenizer = load_tokenizer(name, config.chat_template)
    check_vocabulary(skeleton(name), tokenizer, name)
    check_trainable(name, config)


def check_trainable(name: str, config: TrainConfig) -> None:
    """Refuse LoRA and freezing settings that do not fit a model or each other."""
    model = ModelName.parse(name)
    if config.use_peft and config.trainable:
        raise SettingError("use_peft and trainable exclude each other: LoRA freezes the base already")
    if config.load_in_4bit:
        from equipoise.models.four_bit import check_4bit

        check_4bit(this_process().device)
    if model.adapter_base is None:
        if config.use_peft:
            check_targets(skeleton(name), config.lora_target_modules)
        else:
            freeze_except(skeleton(name), config.trainable)
        return
    if not config.use_peft:
        raise SettingError(f"{name} is an adapter: set use_peft: true to continue it, or merge it into its base first")
    saved = json.loads((Path(model.location) / "adapter_config.json").read_text(encoding="utf-8"))
    for key, asked in (("r", config.lora_r), ("lora_alpha", config.lora_alpha)):
        if saved.get(key) != asked:
            setting = key if key.startswith("lora_") else f"lora_{key}"
            raise SettingError(
                f"{setting} is {asked}, but the adapter that is continued ({name}) has {saved.get(key)}: an adapter "
                f"keeps its shape, set {setting}: {saved.get(key)}"
            )


def use_bf16(dtype: str, device: torch.device) -> bool:
    """Whether autocast to bfloat16 is on: asked for, or 'auto' on a device that has it."""
    import torch

    if dtype == "auto":
        return device.type == "cuda" and torch.cuda.is_bf16_supported()
    return dtype == "bfloat16"


def this_process() -> PartialState:
    """This process among those that were launched together: on GPUs, or else on CPUs (accelerate has to be told)."""
    import torch
    from accelerate import PartialState

    # Gradients of confident models hold denormal numbers, on which a CPU's matrix products are up to ten times slower.
    # Zero is their value to any precision that matters here. Threads inherit the mode, so it is set before they exist.
    torch.set_flush_denormal(True)
    return PartialState(cpu=not torch.cuda.is_available())


def load_for_scoring(
    name: str, dtype: str, attn_implementation: str, device: torch.device, *, load_in_4bit: bool = False
) -> nn.Module:
    """A model on its device, without gradients."""
    kind = "bfloat16" if use_bf16(dtype, device) and device.type == "cuda" else "float32"
    model = load_model(name, dtype=kind, attn_implementation=attn_implementation, load_in_4bit=load_in_4bit)
    return model.to(device).requires_grad_(False).eval()


def dtype_of(name: str) -> torch.dtype:
    """The type of weights called `name`."""
    import torch

    kinds = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16, "float64": torch.float64}
    if name not in kinds:
        raise SettingError(f"dtype '{name}' is unknown{nearest(name, kinds)}")
    return kinds[name]


def no_dropout(model: nn.Module) -> None:
    """Dropout is 0: with it the loss would not start at ln 2 and micro-batching would change the result."""
    from torch import nn

    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
    config: Any = model.config
    for key in ("attention_dropout", "hidden_dropout", "resid_pdrop", "embd_pdrop", "attn_pdrop"):
        if key in config.to_dict() and config.to_dict()[key]:
            logger.info("%s %s of the checkpoint is set to 0", key, config.to_dict()[key])
            setattr(config, key, 0.0)
    for module in model.modules():
        if "attention_dropout" in vars(module):
            module.attention_dropout = 0.0


def check_vocabulary(model: nn.Module, tokenizer: PreTrainedTokenizerBase, where: str) -> None:
    """Refuse a tokenizer that can produce ids the model has no embedding for."""
    rows = model.get_input_embeddings().weight.shape[0]
    highest = max(tokenizer.get_vocab().values())
    if highest >= rows:
        raise SettingError(
            f"model and tokenizer of '{where}' disagree: the tokenizer's ids go up to {highest}, "
            f"the model embeds only {rows} tokens"
        )


def add_lora(
    model: nn.Module,
    *,
    r: int,
    alpha: int,
    dropout: float,
    targets: str | Sequence[str],
    base_name: str,
    scalar: bool = False,
    adapter: str = "default",
) -> nn.Module:
    """Freeze `model` and put a trainable LoRA adapter on the named modules; every name must match something.

    A `scalar` head is trained whole and saved with the adapter; `adapter` is what PEFT calls it.
    """
    from peft import LoraConfig, get_peft_model

    check_targets(model, targets)
    base = ModelName.parse(base_name)
    config = LoraConfig(
        r=r,
        lora_alpha=alpha,
        lora_dropout=dropout,
        target_modules=targets,
        task_type="SEQ_CLS" if scalar else "CAUSAL_LM",
        bias="none",
        revision=base.revision,
    )
    model.config._name_or_path = base.location  # what PEFT writes into adapter_config.json
    return get_peft_model(model, config, adapter_name=adapter)


def check_targets(model: nn.Module, targets: str | Sequence[str]) -> None:
    """Refuse LoRA targets that are not linear layers of the model, naming the nearest one."""
    from torch import nn

    linear = [n for n, m in model.named_modules() if isinstance(m, nn.Linear)]
    if not isinstance(targets, str):
        for target in targets:
            if not any(name == target or name.endswith("." + target) for name in linear):
                known = sorted({name.rsplit(".", 1)[-1] for name in linear})
                raise SettingError(f"lora_target_modules: '{target}' matches no linear layer{nearest(target, known)}")
    elif targets != "all-linear":
        raise SettingError(f"lora_target_modules must be a list of module names or 'all-linear', got '{targets}'")


def freeze_except(model: nn.Module, patterns: Sequence[str] | None) -> str:
    """Keep only parameters matching a pattern trainable (substring or glob); returns a one-line report."""
    import torch

    parameters = list(model.named_parameters())
    if patterns:
        matched: dict[str, int] = dict.fromkeys(patterns, 0)
        for name, parameter in parameters:
            hits = [p for p in patterns if p in name or fnmatch.fnmatch(name, p)]
            parameter.requires_grad_(bool(hits))
            for hit in hits:
                matched[hit] += 1
        for pattern, count in matched.items():
            if count == 0:
                known = {part for name, _ in parameters for part in name.split(".") if not part.isdigit()}
                raise SettingError(f"trainable: '{pattern}' matches no parameter{nearest(pattern, known)}")
    total = sum(p.numel() * (2 if p.dtype == torch.uint8 else 1) for _, p in parameters)  # two of 4 bits in a byte
    kept = sum(p.numel() for _, p in parameters if p.requires_grad)
    # The name of an adapter and its factors stand between a module and its `weight`.
    parts = [n.partition(".lora_")[0].split(".") for n, p in parameters if p.requires_grad]
    names = sorted({part[-2] if part[-1] in ("weight", "bias") and len(part) > 1 else part[-1] for part in parts})
    return f"{kept:,} of {total:,} parameters are trained ({kept / total:.1%}): {', '.join(names)}"


def checkpoint_layers(model: Any, *, frozen_base: bool) -> None:
    """Compute layers again in the backward pass instead of keeping them; with adapters, over a `frozen_base`."""
    if hasattr(model, "activation_checkpointing_enable"):  # what newer versions of transformers call it
        model.activation_checkpointing_enable({"use_reentrant": False})
    else:
        model.gradient_checkpointing_enable({"use_reentrant": False})
    if frozen_base:
        model.enable_input_require_grads()


def first_line(error: Exception) -> str:
    """What an exception of a library says first, short enough for a sentence."""
    return str(error).strip().splitlines()[0][:200]
