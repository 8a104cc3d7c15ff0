"""One process of a small training run, alone or under torchrun; writes gradients and weights for comparison.

python run_worker.py DIR OBJECTIVE BUDGET [--world-of-one] [--rows short|long|few] [--shard]
"""

from __future__ import annotations

import argparse
import itertools
import os
import warnings
from pathlib import Path

warnings.filterwarnings("ignore")
os.environ.setdefault("HF_HUB_OFFLINE", "1")

import numpy as np  # noqa: E402
import torch  # noqa: E402
from transformers import TrainerCallback  # noqa: E402

import pico  # noqa: E402
from equipoise.config import TrainConfig  # noqa: E402
from equipoise.data.plan import Plan  # noqa: E402
from equipoise.data.tokens import Encoded, with_mismatched  # noqa: E402
from equipoise.models.scored import choose_layout, give_entry  # noqa: E402
from equipoise.objectives import OBJECTIVES, bind  # noqa: E402
from equipoise.train.offline import OfflineTrainer, Rows, training_arguments  # noqa: E402


class Keep(TrainerCallback):
    """Keeps the gradient of every step, before clipping and the update."""

    def __init__(self) -> None:
        self.gradients: list[torch.Tensor] = []

    def on_pre_optimizer_step(self, args, state, control, model=None, **kwargs):
        self.gradients.append(torch.cat([p.grad.detach().flatten().clone() for p in model.parameters()]))


class UnevenPlan(Plan):
    """Gives all the long rows to the last process, which no real plan would do."""

    def step(self, step):
        from equipoise.data.plan import Micro, group_by_tokens

        rows = self.batch(step)
        rows = rows[np.lexsort((rows, self.lengths[rows]))].tolist()
        cuts = [0, 2, len(rows)] if self.world_size == 2 else [0, len(rows)]
        ranks = [
            group_by_tokens(rows[a:b], self.lengths, self.tokens_per_micro_batch) for a, b in itertools.pairwise(cuts)
        ]
        most = max(map(len, ranks))
        return [r + [Micro((rows[0],), 0.0)] * (most - len(r)) for r in ranks]


def run(folder: Path, name: str, budget: int, *, batch: int = 8, steps: int = 3, uneven: bool = False, double=False):
    """Train a pico Llama for some steps; returns gradients per step, final weights and logs."""
    rows = pico.pair_rows()
    columns = {}
    if OBJECTIVES[name].layout != "pair":
        rows = [Encoded(r.shared, (r.branches[0],)) for r in rows]
        columns = {"label": np.arange(len(rows)) % 3 == 0}
        if name == "kto":
            rows = with_mismatched(rows, 0)
    rank = int(os.environ.get("RANK", 0))
    table = pico.table(folder / f"table{rank}", rows, columns)
    model = give_entry(pico.llama(dtype=torch.float64 if double else torch.float32))
    reference = np.random.default_rng(0).normal(-60, 5, (len(rows), table.n_branches)).astype(np.float32)
    config = TrainConfig(
        learning_rate=0.05,
        lr_scheduler_type="constant",
        max_grad_norm=0,
        global_batch_size=batch,
        max_steps=steps,
        logging_steps=1,
    )
    arguments = training_arguments(folder / "checkpoints", config, bf16=False, n_steps=steps)
    arguments.optim, arguments.save_strategy = "sgd", "no"  # Adam would hide a wrong factor
    kind = UnevenPlan if uneven else Plan
    plan = kind(table.lengths, 0, batch, 1, budget, world_size=arguments.world_size, max_steps=steps)
    keep = Keep()
    trainer = OfflineTrainer(
        model, args=arguments, plan=plan, rows=Rows(table, reference, choose_layout(model)), chosen=OBJECTIVES[name],
        settings=bind(OBJECTIVES[name], {}), row_ids=[str(i) for i in range(len(rows))], callbacks=[keep],
    )  # fmt: skip
    trainer.train()
    weights = torch.cat([p.detach().flatten() for p in trainer.accelerator.unwrap_model(trainer.model).parameters()])
    losses = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
    return torch.stack(keep.gradients), weights, torch.tensor(losses)


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("folder", type=Path)
    parser.add_argument("objective")
    parser.add_argument("budget", type=int)
    parser.add_argument("--uneven", action="store_true")
    parser.add_argument("--batch", type=int, default=8)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    out = run(arguments.folder, arguments.objective, arguments.budget, uneven=arguments.uneven, batch=arguments.batch)
    torch.save(out, arguments.folder / f"rank{os.environ.get('RANK', 0)}.pt")
