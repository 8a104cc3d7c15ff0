"""Preference training against TRL: the same model, rows, order and arithmetic; speed, memory and distance to the limit.

    python benchmarks/preference_training.py --json

Every run is a fresh process (so its peak memory is its own) and runs of both sides alternate. TRL is measured at
per-device batches 1, 2, 4 and 8, accumulating to the same global batch, and its fastest is the peer. The README beside
this file says what each figure means.
"""

from __future__ import annotations

import argparse
import datetime
import json
import os
import random
import statistics
import subprocess
import sys
import tempfile
import time
from importlib.metadata import version
from pathlib import Path
from typing import Any

from machine import description, needed_flops, peak_rss_mib, reachable_gflops
from workload import (
    HIDDEN,
    MAX_LENGTH,
    VOCABULARY,
    long_pairs,
    read_pairs,
    save_model,
    train_tokenizer,
    unpaired,
)

HERE = Path(__file__).resolve()
WARM_UP = 1  # optimizer steps before the clock starts
LEARNING_RATE, BETA = 5e-5, 0.1
PEER_BATCHES = {"dpo": (1, 2, 4, 8), "ipo": (1, 2, 4, 8), "kto": (2, 4, 8)}  # TRL's KTO refuses 1
STAND_IN = {"bfpo": "ipo", "modpo": "dpo", "safedpo": "dpo"}  # what TRL lacks is measured against its nearest loss
PEER_BATCHES |= {name: PEER_BATCHES[peer] for name, peer in STAND_IN.items()}
CLOSE = 1.15  # peers this near to the fastest after the first round are measured again


def main() -> None:
    args = parse()
    if args.child:
        result = {"prepare": prepare, "probe": run_probe, "trl": run_trl, "equipoise": run_equipoise}[args.child](args)
        result["rss_mib"] = round(peak_rss_mib(), 1)
        (args.work / "result.json").write_text(json.dumps(result), encoding="utf-8")
        return
    with tempfile.TemporaryDirectory(prefix="preference-training-") as folder:
        args.work = Path(folder)
        report = measure(args)
    if not args.json:
        for name, value in report["figures"].items():
            print(f"{name:24} {value}")
    print(json.dumps(report["figures"] | {key: value for key, value in report.items() if key != "figures"}))


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true", help="print the JSON line only")
    parser.add_argument("--objective", choices=sorted(PEER_BATCHES), default="dpo")
    parser.add_argument("--dtype", choices=("fp32", "bf16"), default="fp32", help="arithmetic of both sides")
    parser.add_argument("--long", action="store_true", help="multi-turn prompts of 500-1500 tokens, answers of 50-200")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--steps", type=int, default=3, help="timed optimizer steps")
    parser.add_argument("--global-batch-size", type=int, default=64)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--peer-batches", type=int, nargs="+", help="per-device batches of TRL (default 1 2 4 8)")
    parser.add_argument("--tokens-per-micro-batch", type=int, default=2048, help="ours; changes speed and memory only")
    parser.add_argument("--child", choices=("prepare", "probe", "trl", "equipoise"), help=argparse.SUPPRESS)
    parser.add_argument("--work", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--batch", type=int, help=argparse.SUPPRESS)
    return parser.parse_args()


# The parent: starts children, holds no model -------------------------------------------------------------------------


def measure(args: argparse.Namespace) -> dict[str, Any]:
    """Alternate both sides and the probe of the machine's limit; medians and raw runs."""
    started = datetime.datetime.now(datetime.UTC)
    load_before = os.getloadavg()[0]
    data = child(args, "prepare")
    peers = tuple(args.peer_batches or PEER_BATCHES[args.objective])
    probes: list[dict[str, Any]] = []
    ours: list[dict[str, Any]] = []
    theirs: dict[int, list[dict[str, Any]]] = {batch: [] for batch in peers}
    for repeat in range(args.repeats):
        probes.append(child(args, "probe"))
        ours.append(child(args, "equipoise"))
        probes.append(child(args, "probe"))
        best = max((_median(runs, "train_rows_per_s") for runs in theirs.values() if runs), default=0.0)
        for batch, runs in theirs.items():
            if repeat == 0 or _median(runs, "train_rows_per_s") * CLOSE >= best:
                runs.append(child(args, "trl", batch=batch))
    found = figures(ours, theirs, probes, data["rows_per_epoch"])
    if args.objective in STAND_IN:
        found["loss_difference"] = None  # of different losses
    return {
        "figures": found,
        "setting": {key: value for key, value in vars(args).items() if key not in ("json", "child", "work", "batch")},
        "data": data,
        "ours": ours,
        "trl": {str(batch): runs for batch, runs in theirs.items()},
        "probes": probes,
        "machine": description() | {"load_before": round(load_before, 2)},
        "versions": {name: version(name) for name in ("torch", "transformers", "trl", "accelerate", "tokenizers")},
        "date": started.isoformat(timespec="seconds"),
    }


def figures(
    ours: list[dict[str, Any]], theirs: dict[int, list[dict[str, Any]]], probes: list[dict[str, Any]], epoch_rows: int
) -> dict[str, Any]:
    """The bars: ratios of medians. TRL's reference batch is free of its training batch, so it gets the best of each."""
    train = {batch: _median(runs, "train_rows_per_s") for batch, runs in theirs.items()}
    reference = {batch: _median(runs, "reference_rows_per_s") for batch, runs in theirs.items()}
    fastest = max(train, key=lambda batch: train[batch])
    best_reference = max(reference, key=lambda batch: reference[batch])
    our_train, our_reference = _median(ours, "train_rows_per_s"), _median(ours, "reference_rows_per_s")
    limit = statistics.median(probe["gflops"] for probe in probes)
    total = epoch_rows / our_train + epoch_rows / our_reference
    peer_total = epoch_rows / train[fastest] + epoch_rows / reference[best_reference]
    return {
        "speedup_train": round(our_train / train[fastest], 3),
        "speedup_total": round(peer_total / total, 3),
        "speedup_train_batch8": round(our_train / train[8], 3) if 8 in train else None,
        "rss_ratio": round(_median(ours, "rss_mib") / _median(theirs[fastest], "rss_mib"), 3),
        "fraction_of_limit": round(_median(ours, "needed_gflops") / limit, 3) if "needed_gflops" in ours[0] else None,
        "train_rows_per_s": round(our_train, 3),
        "reference_rows_per_s": round(our_reference, 3),
        "trl_fastest_batch": fastest,
        "trl_train_rows_per_s": {str(batch): round(rate, 3) for batch, rate in train.items()},
        "trl_reference_rows_per_s": {str(batch): round(rate, 3) for batch, rate in reference.items()},
        "epoch_s": round(total, 1),
        "trl_epoch_s": round(peer_total, 1),
        "limit_gflops": round(limit, 1),
        "loss_difference": round(abs(ours[0]["loss"] - theirs[fastest][0]["loss"]), 6),
        "token_difference": ours[0]["tokens"] - theirs[fastest][0]["tokens"],
    }


def _median(runs: list[dict[str, Any]], key: str) -> float:
    return statistics.median(run[key] for run in runs)


def child(args: argparse.Namespace, role: str, batch: int = 0) -> dict[str, Any]:
    """Run one measurement in a process of its own and read what it wrote."""
    command = [
        sys.executable,
        str(HERE),
        *sys.argv[1:],
        "--child",
        role,
        "--work",
        str(args.work),
        "--batch",
        str(batch),
    ]
    environment = os.environ | {
        "OMP_NUM_THREADS": str(args.threads),
        "PYTHONPATH": os.pathsep.join(filter(None, [str(HERE.parents[1] / "src"), os.environ.get("PYTHONPATH")])),
        "HF_HUB_OFFLINE": "1",
        "HF_DATASETS_CACHE": tempfile.mkdtemp(dir=args.work),  # or TRL would find the reference of an earlier run
        "TOKENIZERS_PARALLELISM": "false",
        "TQDM_DISABLE": "1",
    }
    start = time.perf_counter()
    run = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    if run.returncode:
        sys.exit(f"{role} failed:\n{run.stdout[-2000:]}\n{run.stderr[-4000:]}")
    result = json.loads((args.work / "result.json").read_text(encoding="utf-8"))
    shown = {key: value for key, value in result.items() if isinstance(value, (int, float))}
    print(
        f"{role:10} {f'batch {batch}' if batch else '':8} {time.perf_counter() - start:6.1f} s  {shown}",
        file=sys.stderr,
    )
    return result


# Children: data and model --------------------------------------------------------------------------------------------


def prepare(args: argparse.Namespace) -> dict[str, Any]:
    """Write tokenizer, random model and rows (in TRL's conversational layout) to the working directory."""
    pairs = list(read_pairs())
    tokenizer = train_tokenizer(pairs)
    tokenizer.save_pretrained(args.work / "model")
    n_parameters = save_model(args.work / "model", tokenizer, args.seed)
    random.Random(args.seed).shuffle(pairs)
    if args.long:
        pairs = long_pairs(pairs, tokenizer, random.Random(args.seed + 1))
    rows = unpaired(pairs) if args.objective == "kto" else pairs
    needed = (WARM_UP + args.steps) * args.global_batch_size
    if len(rows) < needed:
        sys.exit(f"--steps {args.steps} needs {needed} rows, but there are only {len(rows)}")
    with (args.work / "rows.jsonl").open("w", encoding="utf-8") as file:
        for index, row in enumerate(rows[:needed]):
            file.write(json.dumps({"id": str(index), **row}) + "\n")
    return {"rows_per_epoch": len(rows), "rows_measured": needed, "parameters": n_parameters}


def read_rows(work: Path) -> list[dict[str, Any]]:
    with (work / "rows.jsonl").open(encoding="utf-8") as file:
        return [json.loads(line) for line in file]


def shuffled(n: int, args: argparse.Namespace) -> Any:
    """The plan that both sides follow: equipoise runs it, TRL is handed its rows in this order."""
    import numpy as np

    from equipoise.data.plan import Plan

    return Plan(np.ones(n, dtype=np.int64), args.seed, args.global_batch_size, 1, n)


# Our side ------------------------------------------------------------------------------------------------------------


def run_equipoise(args: argparse.Namespace) -> dict[str, Any]:
    """Reference pass and training through equipoise's own trainer."""
    import numpy as np
    import torch

    from equipoise.config import TrainConfig
    from equipoise.data.plan import Plan, group_by_tokens
    from equipoise.data.tokens import TokenTable, encode_rows, with_mismatched
    from equipoise.models.load import load_model, load_tokenizer, this_process
    from equipoise.models.scored import choose_layout
    from equipoise.objectives import bind, objective
    from equipoise.train.offline import OfflineTrainer, Rows, training_arguments
    from equipoise.types import Dropped

    torch.set_num_threads(args.threads)
    this_process()  # as every stage does first
    rows = read_rows(args.work)
    tokenizer = load_tokenizer(str(args.work / "model"))
    encoded = [row for _, row in encode_rows(tokenizer, rows, max_length=MAX_LENGTH, truncation="drop")]
    if any(isinstance(row, Dropped) for row in encoded):
        sys.exit("a row was dropped: the two sides would not train on the same rows")
    columns = {}
    if args.objective == "kto":
        columns["label"] = np.array([row["label"] for row in rows])
    chosen = objective(args.objective)
    rng = np.random.default_rng(args.seed)
    for side in ("chosen", "rejected"):  # values do not matter for time
        if "safe" in chosen.columns:
            columns[f"{side}_safe"] = rng.random(len(rows)) < 0.5
        if chosen.needs_margin:
            columns[f"{side}_margin"] = rng.standard_normal(len(rows)).astype(np.float32)
    folder = Path(tempfile.mkdtemp(dir=args.work))
    tokens = sum(len(row.shared) * len(row.branches) + sum(len(b.ids) for b in row.branches) for row in encoded)
    TokenTable.write(folder, with_mismatched(encoded, args.seed) if args.objective == "kto" else encoded, columns)
    table = TokenTable(folder)
    model = load_model(str(args.work / "model"))
    layout = choose_layout(model)
    if not layout.shared:
        sys.exit(f"the prompt is not computed once: {layout.why}")
    bf16 = args.dtype == "bf16"

    start = time.perf_counter()
    reference = np.zeros((len(table), table.n_branches), dtype=np.float32)
    with_rows = Rows(table, None, layout)
    budget = args.tokens_per_micro_batch
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16, enabled=bf16):
        for micro in group_by_tokens(np.argsort(table.lengths).tolist(), table.lengths, budget):
            reference[list(micro.rows)] = model(packed=with_rows.pack(micro.rows, None, torch.device("cpu"))).numpy()
    reference_s = time.perf_counter() - start

    plan = Plan(table.lengths, args.seed, args.global_batch_size, 1, budget)
    config = TrainConfig(
        learning_rate=LEARNING_RATE,
        lr_scheduler_type="constant",
        tokens_per_micro_batch=budget,
        logging_steps=10**6,
        save_steps=10**6,
        seed=args.seed,
    )
    clock = step_clock()
    trainer = OfflineTrainer(
        model,
        args=training_arguments(folder, config, bf16=bf16, n_steps=plan.n_steps),
        plan=plan,
        rows=Rows(table, reference, layout),
        chosen=chosen,
        settings=bind(chosen, {"tau" if "tau" in chosen.hyperparameters else "beta": BETA}),
        row_ids=[row["id"] for row in rows],
        callbacks=[clock],
    )
    loss = trainer.train().training_loss
    result = timing(args, clock.ends, reference_s, len(rows)) | {"loss": loss, "tokens": tokens}
    if args.objective != "kto":  # the formula knows pairs only
        timed = np.concatenate([plan.batch(step) for step in range(WARM_UP, plan.n_steps)])
        parameters = sum(p.numel() for p in model.parameters()) - HIDDEN * VOCABULARY
        needed = needed_flops(table, timed, parameters)
        result["needed_gflops"] = needed / (clock.ends[-1] - clock.ends[WARM_UP - 1]) / 1e9
    return result


# TRL's side ----------------------------------------------------------------------------------------------------------


def run_trl(args: argparse.Namespace) -> dict[str, Any]:
    """TRL with the same rows in the same order; what is not fixed by the comparison is left at its own default."""
    import datasets
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer, logging
    from trl import DPOConfig, DPOTrainer, KTOConfig, KTOTrainer

    torch.set_num_threads(args.threads)
    logging.set_verbosity_error()
    rows = read_rows(args.work)
    plan = shuffled(len(rows), args)
    rows = [rows[index] for step in range(plan.n_steps) for index in plan.batch(step)]
    shared = {
        "output_dir": tempfile.mkdtemp(dir=args.work),
        "per_device_train_batch_size": args.batch,
        "gradient_accumulation_steps": args.global_batch_size // args.batch,
        "max_steps": plan.n_steps,
        "train_sampling_strategy": "sequential",
        "learning_rate": LEARNING_RATE,
        "lr_scheduler_type": "constant",
        "beta": BETA,
        "max_length": MAX_LENGTH,
        "precompute_ref_log_probs": True,
        "gradient_checkpointing": False,
        "bf16": args.dtype == "bf16",
        "use_cpu": True,
        "dataloader_pin_memory": False,
        "logging_strategy": "no",
        "save_strategy": "no",
        "report_to": "none",
        "disable_tqdm": True,
        "seed": args.seed,
    }
    if args.objective == "kto":
        trainer_class, config = KTOTrainer, KTOConfig(**shared)
    else:
        trainer_class, config = (
            DPOTrainer,
            DPOConfig(
                loss_type={"dpo": "sigmoid", "ipo": "ipo"}[STAND_IN.get(args.objective, args.objective)], **shared
            ),
        )

    class Timed(trainer_class):  # type: ignore[valid-type, misc]
        """Reads the clock around the reference pass, which runs inside the constructor."""

        reference_s = 0.0

        def _precompute_ref_logps(self, *inner: Any, **keys: Any) -> Any:
            start = time.perf_counter()
            result = super()._precompute_ref_logps(*inner, **keys)
            self.reference_s = time.perf_counter() - start
            return result

    clock = step_clock()
    trainer = Timed(
        model=AutoModelForCausalLM.from_pretrained(args.work / "model", dtype=torch.float32),
        args=config,
        train_dataset=datasets.Dataset.from_list([{k: v for k, v in row.items() if k != "id"} for row in rows]),
        processing_class=AutoTokenizer.from_pretrained(args.work / "model"),
        callbacks=[clock],
    )
    sides = ("completion_ids",) if args.objective == "kto" else ("chosen_ids", "rejected_ids")
    tokens = sum(len(row["prompt_ids"]) + len(row[side]) for row in trainer.train_dataset for side in sides)
    loss = trainer.train().training_loss
    return timing(args, clock.ends, trainer.reference_s, len(rows)) | {"loss": loss, "tokens": tokens}


def run_probe(args: argparse.Namespace) -> dict[str, Any]:
    """The limit of this machine at this moment."""
    return {"gflops": reachable_gflops(args.dtype, args.threads)}


# Both sides ----------------------------------------------------------------------------------------------------------


def step_clock() -> Any:
    """A callback that notes when each optimizer step ended."""
    from transformers import TrainerCallback

    class Clock(TrainerCallback):
        def __init__(self) -> None:
            self.ends: list[float] = []

        def on_step_end(self, *inner: Any, **keys: Any) -> None:
            self.ends.append(time.perf_counter())

    return Clock()


def timing(args: argparse.Namespace, ends: list[float], reference_s: float, n_rows: int) -> dict[str, Any]:
    steps = [b - a for a, b in zip(ends[WARM_UP - 1 :], ends[WARM_UP:], strict=False)]
    return {
        "train_rows_per_s": args.global_batch_size * len(steps) / sum(steps),
        "reference_rows_per_s": n_rows / reference_s,
        "step_s": [round(step, 3) for step in steps],
    }


if __name__ == "__main__":
    main()
