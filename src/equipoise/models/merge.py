"""Linear merges of whole models, tensor by tensor (P-SACPO, task arithmetic); adapters are in `merge_lora`."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from equipoise.errors import DataError, SettingError, nearest
from equipoise.models.weights import (
    CODES,
    COUNTS,
    DTYPES,
    FLOATS,
    TensorSpec,
    Weights,
    copy_companions,
    read_json,
    write_json,
    write_safetensors,
)

logger = logging.getLogger(__name__)

MAX_SHARD_BYTES = 5 * 10**9

# Keys of config.json that may differ without changing what the weights compute.
_HARMLESS = {
    "_name_or_path",
    "transformers_version",
    "dtype",
    "torch_dtype",
    "use_cache",
    "initializer_range",
    "max_position_embeddings",
    "bos_token_id",
    "eos_token_id",
    "pad_token_id",
}


def merge_linear(
    sources: Sequence[Path],
    weights: Sequence[float],
    out: Path,
    *,
    dtype: str | None = None,
    max_shard_bytes: int = MAX_SHARD_BYTES,
) -> None:
    """Write sum_i weights[i] * model_i to `out`, one tensor at a time.

    P-SACPO (Wachi et al. 2024, arXiv:2404.11049): theta(q) = q * theta_{r + lambda g} + (1 - q) * theta_r.

    Sources are Hugging Face directories with safetensors weights; configuration, tokenizer and chat template come from
    the first. Sums are taken in float32 (float64 where a source is float64) and rounded once, to `dtype` or to the
    widest type among the sources. Weights are used as given, also negative ones; a sum other than 1 rescales the whole
    model and is logged as a warning. Refuses with SettingError or DataError before anything is written when the models
    differ in tensors, shapes, vocabulary or in a setting that changes what the weights compute.
    """
    sources = [Path(source) for source in sources]
    check_weights(len(sources), weights)
    target = dtype_code(dtype)
    check_out(sources, out)
    configs = [_read_model_config(source) for source in sources]
    for source, config in zip(sources[1:], configs[1:], strict=True):
        _check_same_config(sources[0], configs[0], source, config)
        _check_same_vocabulary(sources[0], source)
    if not math.isclose(math.fsum(weights), 1.0, abs_tol=1e-6):
        logger.warning("merge weights sum to %g, not 1: every tensor of the result is rescaled", math.fsum(weights))
    with ExitStack() as stack:
        models = [Weights.open(source, "model", stack) for source in sources]
        names = _common_names(models, tied_rows=_tied_rows(configs[0]))
        specs = {name: _merged_spec(name, models, target) for name in names}

        def merged(name: str) -> Tensor:
            return _weighted_sum(name, specs[name].code, models, weights)

        out.mkdir(parents=True, exist_ok=True)
        _write_model(out, specs, merged, max_shard_bytes)
    copy_companions(sources[0], out)
    floats = {spec.code for spec in specs.values() if spec.code in FLOATS}
    if len(floats) == 1:  # the configuration must not promise another type than the file holds
        configs[0].pop("torch_dtype", None)
        configs[0]["dtype"] = next(name for name, code in DTYPES.items() if code in floats)
    write_json(out / "config.json", configs[0])


def _weighted_sum(name: str, code: str, models: Sequence[Weights], weights: Sequence[float]) -> Tensor:
    if code in COUNTS:
        return models[0].tensor(name)
    wide = any(model.code(name) == "F64" for model in models)
    total = torch.zeros(models[0].shape(name), dtype=torch.float64 if wide else torch.float32)
    for model, weight in zip(models, weights, strict=True):
        total.add_(model.tensor(name).to(total.dtype), alpha=float(weight))
    total = total.to(FLOATS[code])
    check_finite(name, total, [model.source for model in models])
    return total


def _write_model(out: Path, specs: Mapping[str, TensorSpec], tensor: Callable[[str], Tensor], max_bytes: int) -> None:
    shards: list[dict[str, TensorSpec]] = [{}]
    size = 0
    for name, spec in specs.items():
        if shards[-1] and size + spec.n_bytes > max_bytes:
            shards.append({})
            size = 0
        shards[-1][name] = spec
        size += spec.n_bytes
    if len(shards) == 1:
        write_safetensors(out / "model.safetensors", shards[0], tensor)
        return
    where: dict[str, str] = {}
    for number, shard in enumerate(shards, start=1):
        file = f"model-{number:05d}-of-{len(shards):05d}.safetensors"
        write_safetensors(out / file, shard, tensor)
        where |= dict.fromkeys(shard, file)
    total = sum(spec.n_bytes for spec in specs.values())
    write_json(out / "model.safetensors.index.json", {"metadata": {"total_size": total}, "weight_map": where})


def _read_model_config(source: Path) -> dict[str, Any]:
    path = source / "config.json"
    if not path.is_file():
        hint = ", only a LoRA adapter" if (source / "adapter_config.json").is_file() else ""
        raise SettingError(f"merge: {source} holds no config.json{hint}, expected the directory of a whole model")
    config = read_json(path)
    if config.get("quantization_config"):
        raise SettingError(f"merge: {source} is quantized; merge the models it was made from, then quantize the result")
    return config


# Checks, all before the first write


def check_weights(n_sources: int, weights: Sequence[float]) -> None:
    """Refuse weights that are not finite or not one per source."""
    if n_sources == 0:
        raise SettingError("merge: no sources given, expected at least one")
    if len(weights) != n_sources:
        raise SettingError(f"merge: weights has {len(weights)} entries, expected one for each of {n_sources} sources")
    for index, weight in enumerate(weights):
        if not math.isfinite(weight):
            raise SettingError(f"merge: weights[{index}] is {weight}, expected a finite number")


def dtype_code(dtype: str | None) -> str | None:
    """Return the safetensors code of a dtype name, None for None."""
    if dtype is None:
        return None
    if dtype not in DTYPES:
        raise SettingError(f"merge: dtype '{dtype}' is not known{nearest(dtype, DTYPES)}")
    return DTYPES[dtype]


def check_out(sources: Iterable[Path], out: Path) -> None:
    """Refuse an output directory that is one of the sources."""
    if any(out.resolve() == source.resolve() for source in sources):
        raise SettingError(f"merge: out is {out}, which is one of the sources; expected another directory")


def _check_same_config(first: Path, expected: dict[str, Any], other: Path, got: dict[str, Any]) -> None:
    for key in sorted(expected.keys() & got.keys() - _HARMLESS):
        if got[key] != expected[key] and not key.endswith(("dropout", "pdrop")):
            raise SettingError(
                f"merge: {key} is {got[key]!r} in {other / 'config.json'}, expected {expected[key]!r} as in {first}"
            )


def _check_same_vocabulary(first: Path, other: Path) -> None:
    paths = [source / "tokenizer.json" for source in (first, other)]
    if not all(path.is_file() for path in paths) or paths[0].read_bytes() == paths[1].read_bytes():
        return
    expected, got = (_vocabulary(read_json(path)) for path in paths)
    if got != expected:
        raise SettingError(f"merge: the tokenizer of {other} gives tokens other ids than that of {first}")


def _vocabulary(tokenizer: dict[str, Any]) -> tuple[Any, Any]:
    added = {entry["content"]: entry["id"] for entry in tokenizer.get("added_tokens", ())}
    return tokenizer.get("model", {}).get("vocab"), added


def _tied_rows(config: dict[str, Any]) -> int | None:
    """Rows of the embedding that input and output share, `None` when they do not share one."""
    text = config.get("text_config") or config
    return text.get("vocab_size") if config.get("tie_word_embeddings", text.get("tie_word_embeddings")) else None


def _common_names(models: Sequence[Weights], *, tied_rows: int | None) -> list[str]:
    """Names that every model holds; a tied embedding that only some of them store twice is left out."""
    everywhere = set.intersection(*(model.names for model in models))
    for model in models:
        for name in sorted(model.names - everywhere):
            if model.shape(name)[:1] == (tied_rows,) and _is_second_copy(model, name, everywhere):
                continue
            lacking = next(other.source for other in models if name not in other.names)
            raise SettingError(f"merge: tensor '{name}' is missing in {lacking}, expected as in {model.source}")
    return sorted(everywhere)


def _is_second_copy(model: Weights, name: str, among: set[str]) -> bool:
    twins = (other for other in sorted(among) if model.shape(other) == model.shape(name))
    return any(torch.equal(model.tensor(name), model.tensor(twin)) for twin in twins)


def _merged_spec(name: str, models: Sequence[Weights], target: str | None) -> TensorSpec:
    shape, codes = models[0].shape(name), [model.code(name) for model in models]
    for model, code in zip(models, codes, strict=True):
        if model.shape(name) != shape:
            raise SettingError(
                f"merge: tensor '{name}' has shape {list(model.shape(name))} in {model.source}, "
                f"expected {list(shape)} as in {models[0].source}"
            )
        if code not in FLOATS and code not in COUNTS:
            raise SettingError(f"merge: tensor '{name}' of {model.source} has type {code}, expected plain weights")
    if all(code in FLOATS for code in codes):
        widest = FLOATS[codes[0]]
        for code in codes[1:]:
            widest = torch.promote_types(widest, FLOATS[code])
        return TensorSpec(target or CODES[widest], shape)
    for model in models[1:]:
        if model.code(name) != codes[0] or not torch.equal(model.tensor(name), models[0].tensor(name)):
            raise SettingError(
                f"merge: tensor '{name}' holds {codes[0]} numbers, which cannot be averaged, "
                f"and differs between {model.source} and {models[0].source}"
            )
    return TensorSpec(codes[0], shape)


def check_finite(name: str, tensor: Tensor, sources: Sequence[Path]) -> None:
    """Refuse a merged tensor that holds nan or inf, naming the sources."""
    if not torch.isfinite(tensor).all():
        among = ", ".join(map(str, sources))
        raise DataError(f"merge: tensor '{name}' of the result holds values that are not finite (sources: {among})")
