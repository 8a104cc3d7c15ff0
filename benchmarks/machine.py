"""The machine: what it is, how much memory a run took, and which part of its arithmetic a step used."""

from __future__ import annotations

import os
import platform
import re
import resource
import time
from pathlib import Path
from typing import Any

from workload import HIDDEN, INTERMEDIATE, LAYERS, VOCABULARY


def needed_flops(table: Any, rows: Any, parameters: int) -> float:
    """Forward and backward of the tokens that are needed: prompts once, the head where an answer is predicted."""
    shared = table.shared_lengths[rows].astype(float)
    answers = (table.lengths[rows] - shared)[:, None]
    chosen = (table.trained[rows, :1]).astype(float)  # branches have no untrained lead where the prompt is shared
    branches = [chosen, answers - chosen]
    seen = shared * (shared + 1) / 2 + sum((b * shared[:, None] + b * (b + 1) / 2).sum(1) for b in branches)
    return float(
        6 * parameters * table.lengths[rows].sum()
        + 6 * HIDDEN * VOCABULARY * table.trained[rows].sum()
        + 12 * HIDDEN * LAYERS * seen.sum()  # scores and values, 2 FLOPs each, times 3 for the backward pass
    )


def reachable_gflops(dtype_name: str, threads: int) -> float:
    """GFLOP/s of the model's own matrix products (forward and both backward forms), at the best of three heights."""
    import torch

    torch.set_num_threads(threads)
    dtype = torch.bfloat16 if dtype_name == "bf16" else torch.float32
    # (inputs, outputs, how many per layer), and the head on a fifth of the positions
    shapes = [(HIDDEN, HIDDEN, 4.0), (HIDDEN, INTERMEDIATE, 2.0), (INTERMEDIATE, HIDDEN, 1.0)]
    shapes.append((HIDDEN, VOCABULARY, 0.2 / LAYERS))
    best = 0.0
    for height in (512, 2048, 8192):
        seconds = flops = 0.0
        for inputs, outputs, share in shapes:
            x, w = torch.randn(height, inputs, dtype=dtype), torch.randn(outputs, inputs, dtype=dtype)
            y = torch.randn(height, outputs, dtype=dtype)
            repeats = max(1, round(2e10 / (6 * height * inputs * outputs)))
            for left, right in ((x, w.t()), (y, w), (y.t(), x)):
                out = left @ right
                start = time.perf_counter()
                for _ in range(repeats):
                    torch.mm(left, right, out=out)
                seconds += (time.perf_counter() - start) / repeats * share
                flops += 2 * height * inputs * outputs * share
        best = max(best, flops / seconds / 1e9)
    return best


def description() -> dict[str, Any]:
    """Processor, cores and system."""
    model = (
        re.search(r"model name\s*:\s*(.+)", Path("/proc/cpuinfo").read_text()) if platform.system() == "Linux" else None
    )
    return {"cpu": model[1] if model else platform.processor(), "cores": os.cpu_count(), "system": platform.platform()}


def peak_rss_mib() -> float:
    """Peak resident memory of this process; Linux's ru_maxrss may be inherited from the parent, VmHWM is not."""
    status = Path("/proc/self/status")
    if status.exists() and (found := re.search(r"VmHWM:\s+(\d+) kB", status.read_text())):
        return int(found[1]) / 1024
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / (2**20 if platform.system() == "Darwin" else 2**10)
