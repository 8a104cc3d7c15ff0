"""A finished model as plain files: as it is, with another type of weights, or an adapter merged into its base."""

from __future__ import annotations

import shutil
from collections import Counter
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

from equipoise.data.conditions import CONDITIONS_FILE
from equipoise.errors import DataError, SettingError
from equipoise.models.load import ModelName, dtype_of, first_line, load_tokenizer
from equipoise.models.merge import merge_linear
from equipoise.models.scalar import HEAD_FILE, head_of, is_scalar, padding_of
from equipoise.models.weights import DTYPES, FLOATS, Weights, copy_companions

if TYPE_CHECKING:
    from torch import nn

WORLD_FILE = "playground.json"
"""What the playground's bases say of themselves."""

_STEMS = ("model", "adapter_model")
# What this package reads beside a model, besides what every model has.
_OURS = (CONDITIONS_FILE, HEAD_FILE, WORLD_FILE)


def weights_of(folder: Path) -> list[Path]:
    """The safetensors files of a model or adapter, its index among them; raises DataError where there are none."""
    for stem in _STEMS:
        files = [*folder.glob(f"{stem}*.safetensors"), *folder.glob(f"{stem}.safetensors.index.json")]
        if files:
            return sorted(files)
    others = sorted(file.name for pattern in ("*.bin", "*.gguf", "*.pt") for file in folder.glob(pattern))
    has = f"; it holds {', '.join(others[:3])}" if others else ""
    raise DataError(f"{folder} holds no safetensors weights (model.safetensors or adapter_model.safetensors){has}")


def stored_dtype(folder: Path) -> str:
    """The type that most numbers of a model's weights have on disk, such as bfloat16."""
    stem = next(stem for stem in _STEMS if weights_of(folder)[0].name.startswith(stem))
    counts: Counter[str] = Counter()
    with ExitStack() as stack:
        weights = Weights.open(folder, stem, stack)
        for name in weights.names:
            numbers = 1
            for length in weights.shape(name):
                numbers *= length
            counts[weights.code(name)] += numbers
    names = {code: name for name, code in DTYPES.items()}
    return names.get(counts.most_common(1)[0][0], counts.most_common(1)[0][0])


def base_dtype(base: ModelName) -> str:
    """The type of an adapter's base, by its weights where they are here, else by what its config says."""
    if base.is_local:
        return stored_dtype(Path(base.location))
    from transformers import AutoConfig

    try:
        said = AutoConfig.from_pretrained(base.location, revision=base.revision or "main").dtype
    except (OSError, ValueError) as error:
        raise SettingError(f"the base '{base}' of the adapter cannot be read: {first_line(error)}") from error
    return "float32" if said is None else str(said).removeprefix("torch.")


def bytes_of(folder: Path, *, stored: str, dtype: str) -> int:
    """How many bytes a model's weights take with the type `dtype`."""
    widths = {name: FLOATS[code].itemsize for name, code in DTYPES.items()}
    size = sum(file.stat().st_size for file in weights_of(folder))
    return size * widths.get(dtype, 1) // widths.get(stored, 1)


def copy_model(source: Path, out: Path) -> None:
    """Copy a model or adapter byte by byte; a link becomes the file that it leads to."""
    for file in weights_of(source):
        shutil.copyfile(file, out / file.name)
    for name in ("config.json", "adapter_config.json"):
        if (source / name).is_file():
            shutil.copyfile(source / name, out / name)
    copy_companions(source, out)
    copy_ours(source, out)


def cast_model(source: Path, out: Path, dtype: str) -> None:
    """Write a whole model with weights of the type `dtype`, one tensor at a time."""
    weights_of(source)
    merge_linear([source], [1.0], out, dtype=dtype)
    copy_ours(source, out)


def copy_ours(source: Path, out: Path) -> None:
    """Copy what this package says beside a model: what may be asked for, what a head tells, which world it is of."""
    for name in _OURS:
        if (source / name).is_file():
            shutil.copyfile(source / name, out / name)


def merge_adapter(source: Path, out: Path, dtype: str) -> None:
    """Write an adapter's base with the adapter added, summed in float32 and rounded once to `dtype`.

    Raises SettingError for a base that cannot be loaded, DataError for sums that are not finite.
    """
    import torch

    name = ModelName.parse(str(source))
    tokenizer = load_tokenizer_of(source)
    try:
        with torch.no_grad():
            merged: Any = open_plain(source, dtype="float32").merge_and_unload(safe_merge=True)  # type: ignore[operator]
    except ValueError as error:
        if isinstance(error, SettingError):
            raise
        raise DataError(f"{source} cannot be merged into its base: {first_line(error)}") from error
    merged = merged.to(dtype_of(dtype))
    if is_scalar(name):
        head = head_of(str(source)) or "reward"
        merged.config.id2label, merged.config.label2id = {0: head}, {head: 0}
        merged.config.pad_token_id = padding_of(tokenizer, str(source))
    if merged.can_generate():
        _plain_generation(merged)
    merged.save_pretrained(out)
    _copy_generation(name, out)
    if (source / "tokenizer_config.json").is_file():
        copy_companions(source, out)
    else:
        tokenizer.save_pretrained(out)
    copy_ours(source, out)


def _plain_generation(model: Any) -> None:
    """Keep the special ids alone: transformers refuses to save settings that contradict each other; some bases have."""
    from transformers import GenerationConfig

    said = model.generation_config
    ids = {key: said.to_dict().get(key) for key in ("bos_token_id", "eos_token_id", "pad_token_id")}
    model.generation_config = GenerationConfig(**ids)  # type: ignore[no-untyped-call]


def _copy_generation(adapter: ModelName, out: Path) -> None:
    """Copy the base's generation config as it is."""
    from transformers.utils.hub import cached_file

    base = ModelName.parse(str(adapter.adapter_base))
    found = cached_file(
        base.location,
        "generation_config.json",
        revision=base.revision or "main",
        _raise_exceptions_for_missing_entries=False,
        _raise_exceptions_for_connection_errors=False,
    )
    if found is not None and (out / "generation_config.json").is_file():
        shutil.copyfile(found, out / "generation_config.json")


def load_tokenizer_of(folder: Path) -> Any:
    """The tokenizer of a model, or of an adapter's base where the adapter has none; it may lack a chat template."""
    from transformers import AutoTokenizer

    name = ModelName.parse(str(folder))
    own = (folder / "tokenizer_config.json").is_file()
    where = name if own or name.adapter_base is None else ModelName.parse(name.adapter_base)
    try:
        tokenizer = AutoTokenizer.from_pretrained(where.location, revision=where.revision or "main")
    except (OSError, ValueError) as error:
        raise SettingError(f"no tokenizer can be loaded from '{where}': {first_line(error)}") from error
    return tokenizer if tokenizer.chat_template is None else load_tokenizer(str(folder))


def open_plain(folder: Path, *, dtype: str = "auto") -> nn.Module:
    """A model as anybody loads it, with transformers and PEFT alone, with weights of the type on disk."""
    from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification

    name = ModelName.parse(str(folder))
    base = ModelName.parse(name.adapter_base) if name.adapter_base else name
    kind = "auto" if dtype == "auto" else dtype_of(dtype)
    scalar = is_scalar(name)
    loader: Any = AutoModelForSequenceClassification if scalar else AutoModelForCausalLM
    extra = {"num_labels": 1} if scalar else {}
    try:
        model = loader.from_pretrained(base.location, revision=base.revision or "main", dtype=kind, **extra)
        if name.adapter_base:
            from peft import PeftModel

            model = PeftModel.from_pretrained(model, name.location)
    except (OSError, ValueError) as error:
        raise SettingError(f"transformers cannot load '{name}': {first_line(error)}") from error
    opened: nn.Module = model.requires_grad_(False).eval()
    return opened
