"""Directories of safetensors weights, read tensor by tensor and written whole or not at all."""

from __future__ import annotations

import json
import math
import os
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from equipoise.errors import DataError, SettingError

FLOATS = {"F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}
COUNTS = {
    "I64": torch.int64,
    "I32": torch.int32,
    "I16": torch.int16,
    "I8": torch.int8,
    "U8": torch.uint8,
    "BOOL": torch.bool,
}
CODES = {dtype: code for code, dtype in (FLOATS | COUNTS).items()}
DTYPES = {"float64": "F64", "float32": "F32", "float16": "F16", "bfloat16": "BF16"}

# What makes a directory of weights a model; an explicit list, because a source may also hold optimizers or manifests.
_COMPANIONS = (
    "generation_config.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "tokenizer.model",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "vocab.txt",
    "merges.txt",
    "spiece.model",
    "chat_template.jinja",
    "chat_template.json",
    "additional_chat_templates",
    "processor_config.json",
    "preprocessor_config.json",
)


@dataclass(frozen=True, slots=True)
class TensorSpec:
    """What a file says of a tensor before it is read."""

    code: str  # safetensors' name of the type
    shape: tuple[int, ...]

    @property
    def dtype(self) -> torch.dtype:
        return (FLOATS | COUNTS)[self.code]

    @property
    def n_bytes(self) -> int:
        return math.prod(self.shape) * self.dtype.itemsize


@dataclass(frozen=True, slots=True)
class Weights:
    """The tensors of one directory, each read when it is asked for."""

    source: Path
    files: Mapping[str, Any]  # tensor name -> open safetensors file

    @classmethod
    def open(cls, source: Path, stem: str, stack: ExitStack) -> Weights:
        index = source / f"{stem}.safetensors.index.json"
        single = source / f"{stem}.safetensors"
        if single.is_file():
            handle = _open(single, stack)
            return cls(source, dict.fromkeys(handle.keys(), handle))
        if not index.is_file():
            hint = (
                " (a LoRA adapter: merge adapters with adapters)" if (source / "adapter_config.json").is_file() else ""
            )
            raise SettingError(f"merge: {source} holds neither {single.name} nor {index.name}{hint}")
        where = read_json(index).get("weight_map", {})
        handles = {file: _open(source / file, stack) for file in sorted(set(where.values()))}
        for name, file in where.items():
            if name not in handles[file].keys():  # noqa: SIM118 - safe_open is no mapping
                raise DataError(f"{index}: tensor '{name}' is said to be in {file} but is not there")
        return cls(source, {name: handles[file] for name, file in where.items()})

    @property
    def names(self) -> set[str]:
        return set(self.files)

    def code(self, name: str) -> str:
        return self.files[name].get_slice(name).get_dtype()

    def shape(self, name: str) -> tuple[int, ...]:
        return tuple(self.files[name].get_slice(name).get_shape())

    def tensor(self, name: str) -> Tensor:
        return self.files[name].get_tensor(name)


def _open(path: Path, stack: ExitStack) -> Any:
    try:
        return stack.enter_context(safe_open(path, framework="pt"))
    except FileNotFoundError:
        raise DataError(f"{path} is named in the index of its model but does not exist") from None
    except SafetensorError as error:
        raise DataError(f"{path} is not a complete safetensors file ({error})") from error


def read_json(path: Path) -> dict[str, Any]:
    """Read a JSON object; a file that holds none is refused in one sentence."""
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise DataError(f"{path} is not valid JSON ({error})") from error
    if not isinstance(value, dict):
        raise DataError(f"{path} holds a {type(value).__name__}, expected an object")
    return value


def write_safetensors(path: Path, specs: Mapping[str, TensorSpec], tensor: Callable[[str], Tensor]) -> None:
    """Write the safetensors layout by hand: the library wants all tensors of a file in memory at once."""
    names = sorted(specs, key=lambda name: (-specs[name].dtype.itemsize, name))  # keeps every tensor aligned
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    start = 0
    for name in names:
        end = start + specs[name].n_bytes
        header[name] = {"dtype": specs[name].code, "shape": list(specs[name].shape), "data_offsets": [start, end]}
        start = end
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    parts = (tensor(name).contiguous().reshape(-1).view(torch.uint8).numpy().data for name in names)
    _write_whole(path, (part for group in ((len(text).to_bytes(8, "little"), text), parts) for part in group))


def _write_whole(path: Path, parts: Iterator[bytes | memoryview]) -> None:
    """Give the file its name only once all of it is on the disk, so that a kill leaves nothing that looks whole."""
    partial = path.with_name(path.name + ".partial")
    try:
        with partial.open("wb") as file:
            for part in parts:
                file.write(part)
            file.flush()
            os.fsync(file.fileno())
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


def write_json(path: Path, value: Mapping[str, Any]) -> None:
    """Write a JSON object whole or not at all."""
    _write_whole(path, iter([(json.dumps(value, indent=2, ensure_ascii=False) + "\n").encode()]))


def copy_companions(source: Path, out: Path) -> None:
    """Copy what stands beside the weights: tokenizer, chat template, generation config."""
    for path in [source / name for name in _COMPANIONS] + sorted(source.glob("*.py")):
        if path.is_dir():
            shutil.copytree(path, out / path.name, dirs_exist_ok=True)
        elif path.is_file():
            shutil.copyfile(path, out / path.name)
