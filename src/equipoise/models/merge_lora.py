"""Exact merges of LoRA adapters over one base, by concatenating their factors (P-SACPO, task arithmetic)."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from equipoise.errors import DataError, SettingError
from equipoise.models.merge import (
    check_finite,
    check_out,
    check_weights,
    dtype_code,
)
from equipoise.models.weights import (
    CODES,
    FLOATS,
    TensorSpec,
    Weights,
    copy_companions,
    read_json,
    write_json,
    write_safetensors,
)

# PEFT (0.21) keys that are either understood below or do not enter the delta. Anything else that is set is refused,
# so a variant of LoRA that a later PEFT adds is not merged as if it were plain.
_LORA_KEYS = {
    "alpha_pattern",
    "auto_mapping",
    "base_model_name_or_path",
    "ensure_weight_tying",
    "eva_config",
    "exclude_modules",
    "fan_in_fan_out",
    "inference_mode",
    "init_lora_weights",
    "layers_pattern",
    "layers_to_transform",
    "lora_alpha",
    "lora_dropout",
    "megatron_core",
    "peft_type",
    "peft_version",
    "qalora_group_size",
    "r",
    "rank_pattern",
    "revision",
    "target_modules",
    "task_type",
    "use_rslora",
}
# Initializations that leave the base model as it was; PiSSA, OLoRA and the like change it.
_PLAIN_INITS = (None, True, False, "gaussian", "eva", "orthogonal")
_FACTOR = re.compile(
    r"base_model\.model\.(?P<module>.+)\.(?P<factor>lora_A|lora_B|lora_embedding_A|lora_embedding_B)(\.weight)?"
)
_BASE_COPY = ".base_layer.weight"  # PEFT saves adapted embeddings beside their factors


def merge_adapters(
    sources: Sequence[Path | None],
    weights: Sequence[float],
    out: Path,
    *,
    dtype: str | None = None,
) -> None:
    """Write one LoRA adapter whose delta is exactly sum_i weights[i] * scale_i * B_i A_i, at the summed rank.

    P-SACPO (arXiv:2404.11049) for adapters over one base; `None` stands for the untouched base. The base itself is
    never scaled, so with weights that sum to 1 this equals `merge_linear` of the merged-in models, and any other sum
    is task arithmetic. Ranks, alphas, rslora and target modules may differ: each scale is folded into its B, modules
    adapted by fewer sources are padded with zeros to one rank (servers want one), and alpha equals the rank.
    Factors are float32 (float64 where a source is float64) unless `dtype` says otherwise, because a narrower type
    would round the scaled B. DoRA, biases, `modules_to_save` and initializations that change the base are refused.
    """
    check_weights(len(sources), weights)
    target = dtype_code(dtype)
    paths = [Path(source) for source in sources if source is not None]
    if not paths:
        raise SettingError("merge: every source is the untouched base, expected at least one LoRA adapter")
    check_out(paths, out)
    with ExitStack() as stack:
        adapters = [_Adapter.open(path, stack) for path in paths]
        for other in adapters[1:]:
            _check_same_base(adapters[0], other)
        used = [w for source, w in zip(sources, weights, strict=True) if source is not None]
        tensors, rank = _concatenated(adapters, used)
        wide = any(adapter.weights.code(n) == "F64" for adapter in adapters for n in adapter.weights.names)
        code = target or ("F64" if wide else "F32")
        tensors = {name: tensor.to(FLOATS[code]) for name, tensor in tensors.items()}
        for adapter in adapters:
            tensors |= {name: adapter.weights.tensor(name) for name in adapter.base_copies}
    for name, tensor in tensors.items():
        check_finite(name, tensor, [*paths])
    out.mkdir(parents=True, exist_ok=True)
    specs = {name: TensorSpec(CODES[tensor.dtype], tuple(tensor.shape)) for name, tensor in tensors.items()}
    write_safetensors(out / "adapter_model.safetensors", specs, tensors.__getitem__)
    copy_companions(paths[0], out)
    config = adapters[0].config | {
        "r": rank,
        "lora_alpha": rank,
        "use_rslora": False,
        "rank_pattern": {},
        "alpha_pattern": {},
        "target_modules": _target_modules(adapters),
        "exclude_modules": None,
        "layers_to_transform": None,
        "layers_pattern": None,
        "init_lora_weights": True,
        "eva_config": None,
        "inference_mode": True,
    }
    write_json(out / "adapter_config.json", config)


@dataclass(frozen=True, slots=True)
class _Adapter:
    """A plain LoRA adapter: for every module the names of its two factors."""

    source: Path
    config: dict[str, Any]
    weights: Weights
    factors: Mapping[str, tuple[str, str]]  # module -> names of (A, B), A (r, in), B (out, r)
    base_copies: tuple[str, ...]

    @classmethod
    def open(cls, source: Path, stack: ExitStack) -> _Adapter:
        if not (source / "adapter_config.json").is_file():
            raise SettingError(f"merge: {source} holds no adapter_config.json, expected a LoRA adapter saved by PEFT")
        config = read_json(source / "adapter_config.json")
        _check_plain_lora(source, config)
        weights = Weights.open(source, "adapter_model", stack)
        found: dict[str, dict[str, str]] = {}
        copies = tuple(sorted(name for name in weights.names if name.endswith(_BASE_COPY)))
        for name in sorted(weights.names - set(copies)):
            match = _FACTOR.fullmatch(name)
            if match is None:
                raise SettingError(f"merge: tensor '{name}' of {source} is no LoRA factor, so it has no linear delta")
            found.setdefault(match["module"], {})[match["factor"][-1]] = name
        for module, pair in found.items():
            if len(pair) != 2:
                raise DataError(f"{source}: module '{module}' has only one of its two LoRA factors")
        return cls(source, config, weights, {m: (pair["A"], pair["B"]) for m, pair in found.items()}, copies)

    def scale(self, module: str) -> float:
        """PEFT's alpha / r, or alpha / sqrt(r) under rslora, with the module's own rank and alpha."""
        rank = self.rank(module)
        alpha = _by_pattern(self.config.get("alpha_pattern"), module, self.config["lora_alpha"])
        return alpha / (math.sqrt(rank) if self.config.get("use_rslora") else rank)

    def rank(self, module: str) -> int:
        return self.weights.shape(self.factors[module][0])[0]


def _by_pattern(patterns: Mapping[str, float] | None, module: str, default: float) -> float:
    return next((v for key, v in (patterns or {}).items() if re.match(rf"(.*\.)?({key})$", module)), default)


def _check_plain_lora(source: Path, config: dict[str, Any]) -> None:
    if config.get("peft_type") != "LORA":
        raise SettingError(f"merge: {source} is an adapter of type {config.get('peft_type')!r}, expected 'LORA'")
    for key, value in sorted(config.items()):
        if key not in _LORA_KEYS and value and (key, value) != ("bias", "none"):
            raise SettingError(
                f"merge: {source} sets {key} to {value!r}, whose effect is not a sum of low-rank deltas; "
                f"merge it into its base and merge whole models"
            )
    if config.get("init_lora_weights") not in _PLAIN_INITS:
        raise SettingError(
            f"merge: {source} was started with init_lora_weights={config['init_lora_weights']!r}, which may change the "
            f"base model; convert it to a plain LoRA adapter first"
        )


def _check_same_base(first: _Adapter, other: _Adapter) -> None:
    for key in ("base_model_name_or_path", "revision", "task_type", "fan_in_fan_out"):
        got, expected = other.config.get(key), first.config.get(key)
        if got != expected and not (key == "base_model_name_or_path" and _same_directory(got, expected)):
            raise SettingError(
                f"merge: {key} is {got!r} in {other.source}, expected {expected!r} as in {first.source}: "
                f"adapters of different bases cannot be merged"
            )
    for module in sorted(first.factors.keys() & other.factors.keys()):
        shapes = [
            (a.weights.shape(a.factors[module][1])[0], *a.weights.shape(a.factors[module][0])[1:])
            for a in (other, first)
        ]
        if shapes[0] != shapes[1]:
            raise SettingError(
                f"merge: module '{module}' maps {list(shapes[0])} in {other.source}, expected {list(shapes[1])} as in "
                f"{first.source}: adapters of different bases cannot be merged"
            )
    for name in sorted(set(first.base_copies) & set(other.base_copies)):
        if not torch.equal(first.weights.tensor(name), other.weights.tensor(name)):
            raise SettingError(f"merge: base tensor '{name}' differs between {other.source} and {first.source}")


def _same_directory(a: object, b: object) -> bool:
    return isinstance(a, str) and isinstance(b, str) and Path(a).is_dir() and Path(a).resolve() == Path(b).resolve()


def _concatenated(adapters: Sequence[_Adapter], weights: Sequence[float]) -> tuple[dict[str, Tensor], int]:
    """Factors of the sum, each module's ranks side by side and filled with zeros to the largest rank."""
    modules = sorted(set().union(*(adapter.factors for adapter in adapters)))
    holders = {m: [(a, w) for a, w in zip(adapters, weights, strict=True) if m in a.factors] for m in modules}
    ranks = {module: sum(adapter.rank(module) for adapter, _ in pairs) for module, pairs in holders.items()}
    rank = max(ranks.values())
    merged: dict[str, Tensor] = {}
    for module, pairs in holders.items():
        lefts, rights = [], []
        for adapter, weight in pairs:
            a, b = (_upcast(adapter.weights.tensor(name)) for name in adapter.factors[module])
            lefts.append(a)
            rights.append(b * (weight * adapter.scale(module)))
        if missing := rank - ranks[module]:
            lefts.append(lefts[0].new_zeros(missing, *lefts[0].shape[1:]))
            rights.append(rights[0].new_zeros(rights[0].shape[0], missing, *rights[0].shape[2:]))
        name_a, name_b = pairs[0][0].factors[module]
        merged[name_a] = torch.cat(lefts, dim=0)  # (rank, in)
        merged[name_b] = torch.cat(rights, dim=1)  # (out, rank)
    return merged, rank


def _upcast(tensor: Tensor) -> Tensor:
    return tensor if tensor.dtype == torch.float64 else tensor.float()


def _target_modules(adapters: Sequence[_Adapter]) -> list[str]:
    """The union: of short names where these say it exactly, else of the full names of the adapted modules."""
    narrowing = ("exclude_modules", "layers_to_transform", "layers_pattern")
    targets = [adapter.config.get("target_modules") for adapter in adapters]
    if any(adapter.config.get(key) for adapter in adapters for key in narrowing) or not all(
        isinstance(target, list) for target in targets
    ):
        return sorted(set().union(*(adapter.factors for adapter in adapters)))
    return sorted(set().union(*targets))
