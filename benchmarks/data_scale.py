"""Does the amount of data slow training down or fill the memory? The first 50 steps on 1k, 10k and 100k rows.

    python benchmarks/data_scale.py --json

Each run is a fresh process with a token table of that many random pairs; runs of the three sizes alternate. Reported:
median tokens per second over the steps after the fifth, resident memory at step 5 and at step 50, as medians over runs.
"""

from __future__ import annotations

import argparse
import datetime
import json
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from machine import description

SIZES = (1_000, 10_000, 100_000)
STEPS, WARM_UP, BATCH = 50, 5, 16


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true", help="print only the last line")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--child", type=int, help=argparse.SUPPRESS)
    parser.add_argument("--write", type=int, help=argparse.SUPPRESS)
    parser.add_argument("--work", type=Path, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.write:
        write_table(args.write, args.work)
        return
    if args.child:
        (args.work / "result.json").write_text(json.dumps(run(args.child, args.work, args.threads)), encoding="utf-8")
        return
    runs: dict[int, list[dict[str, float]]] = {size: [] for size in SIZES}
    with tempfile.TemporaryDirectory() as root:
        for size in SIZES:  # in processes of their own, so that a run's memory is that of training alone
            Path(root, str(size)).mkdir()
            subprocess.run([sys.executable, __file__, "--write", str(size), "--work", f"{root}/{size}"], check=True)
        for size in [s for r in range(args.repeats) for s in (SIZES if r % 2 == 0 else SIZES[::-1])]:
            folder = f"{root}/{size}"
            command = [
                sys.executable,
                __file__,
                "--child",
                str(size),
                "--work",
                folder,
                "--threads",
                str(args.threads),
            ]
            subprocess.run(command, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
            runs[size].append(json.loads(Path(folder, "result.json").read_text(encoding="utf-8")))
    medians: dict[str, Any] = {
        str(size): {key: round(statistics.median(r[key] for r in found), 1) for key in found[0]}
        for size, found in runs.items()
    }
    speeds = [m["tokens_per_s"] for m in medians.values()]
    if not args.json:
        for size, found in medians.items():
            print(f"{size:>8} rows: {found}")
    print(
        json.dumps(
            {
                "sizes": medians,
                "slowest_over_fastest": round(min(speeds) / max(speeds), 3),
                "largest_growth_mib": round(max(m["rss_growth_mib"] for m in medians.values()), 1),
                "steps": STEPS,
                "repeats": args.repeats,
                "machine": description(),
                "date": datetime.date.today().isoformat(),
            }
        )
    )


def write_table(size: int, work: Path) -> None:
    """Random pairs with shared prompts as a token table."""
    import numpy as np

    from equipoise.data.tokens import Branch, Encoded, TokenTable

    rng = np.random.default_rng(0)

    def some(low: int, high: int) -> list[int]:
        return rng.integers(3, 1000, int(rng.integers(low, high))).tolist()

    TokenTable.write(
        work, [Encoded(some(40, 120), (Branch(some(20, 80), 0), Branch(some(20, 80), 0))) for _ in range(size)], {}
    )


def run(size: int, work: Path, threads: int) -> dict[str, float]:
    """Train the first steps on `size` rows."""
    import logging

    import numpy as np
    import psutil
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM, TrainerCallback

    from equipoise.config import TrainConfig
    from equipoise.data.plan import Plan
    from equipoise.data.tokens import TokenTable
    from equipoise.models.scored import choose_layout, give_entry
    from equipoise.objectives import OBJECTIVES, bind
    from equipoise.train.offline import OfflineTrainer, Rows, training_arguments

    logging.disable(logging.WARNING)
    torch.set_num_threads(threads)
    table = TokenTable(work)
    torch.manual_seed(0)
    sizes = {"hidden_size": 128, "intermediate_size": 344, "num_hidden_layers": 4, "num_attention_heads": 4}
    model = give_entry(LlamaForCausalLM(LlamaConfig(vocab_size=1000, tie_word_embeddings=True, **sizes)))
    config = TrainConfig(global_batch_size=BATCH, max_steps=STEPS, logging_steps=1000, learning_rate=1e-4)
    plan = Plan(table.lengths, 0, BATCH, 1, config.tokens_per_micro_batch, max_steps=STEPS)
    process = psutil.Process()
    times, memory = [time.perf_counter()], []

    class Clock(TrainerCallback):
        def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            times.append(time.perf_counter())
            memory.append(process.memory_info().rss / 2**20)

    arguments = training_arguments(work / "checkpoints", config, bf16=False, n_steps=STEPS)
    arguments.save_strategy = "no"
    OfflineTrainer(
        model, args=arguments, plan=plan, rows=Rows(table, np.zeros((size, 2), np.float32), choose_layout(model)),
        chosen=OBJECTIVES["dpo"], settings=bind(OBJECTIVES["dpo"], {}), row_ids=[""] * size, callbacks=[Clock()],
    ).train()  # fmt: skip
    tokens = [int(table.lengths[plan.batch(step)].sum()) for step in range(STEPS)]
    speed = [n / (b - a) for n, a, b in zip(tokens, times, times[1:], strict=False)][WARM_UP:]
    return {
        "tokens_per_s": statistics.median(speed),
        "rss_mib_step_5": memory[WARM_UP],
        "rss_mib_step_50": memory[-1],
        "rss_growth_mib": memory[-1] - memory[WARM_UP],
    }


if __name__ == "__main__":
    main()
