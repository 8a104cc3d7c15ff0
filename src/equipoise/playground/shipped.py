"""The base that comes with the package: the small one of seed 0, stored in bf16, so that a first run is quick.

`python -m equipoise.playground.shipped DIR` makes it again from nothing; docs/playground.md says how alike it is.
"""

from __future__ import annotations

import json
import os
import shutil
import sys
from pathlib import Path

from equipoise.errors import SettingError
from equipoise.playground.base import BASES, build_base
from equipoise.playground.lexicon import WORLD_VERSION

SHIPPED = ("small", 0)
"""Name and seed of the shipped base."""

WEIGHTS = Path(__file__).parent / "weights"


def pack_base(base: str | os.PathLike[str], out_dir: str | os.PathLike[str]) -> Path:
    """Write a base as it ships: the same model directory with its weights rounded to bf16."""
    import torch
    from safetensors.torch import load_file, save_file

    source, out = Path(base), Path(out_dir)
    out.mkdir(parents=True, exist_ok=True)
    for path in source.iterdir():
        if path.suffix != ".safetensors":
            shutil.copyfile(path, out / path.name)
    weights = {name: w.to(torch.bfloat16) for name, w in load_file(source / "model.safetensors").items()}
    save_file(weights, out / "model.safetensors", metadata={"format": "pt"})
    return out


def unpack_base(out_dir: str | os.PathLike[str]) -> Path:
    """Write the shipped base to `out_dir` as an fp32 model; SettingError when it is of another world."""
    import torch
    from safetensors.torch import load_file, save_file

    made = json.loads((WEIGHTS / "playground.json").read_text(encoding="utf-8"))
    if made["world"] != WORLD_VERSION:
        raise SettingError(
            f"playground: the shipped base is of world {made['world']}, expected {WORLD_VERSION}; "
            "make it again with python -m equipoise.playground.shipped"
        )
    out = Path(out_dir)
    shutil.copytree(WEIGHTS, out)
    weights = {name: w.to(torch.float32) for name, w in load_file(out / "model.safetensors").items()}
    save_file(weights, out / "model.safetensors", metadata={"format": "pt"})
    return out


if __name__ == "__main__":
    import logging

    logging.basicConfig(level=logging.INFO)
    name, seed = SHIPPED
    built = build_base(Path(sys.argv[1]) / "fp32", seed=seed, size=BASES[name].size, mixture=BASES[name].mixture)
    pack_base(built, Path(sys.argv[1]) / "bf16")
