"""Our losses and gradients beside those of TRL's trainers, on the same token ids and the same reference."""

import inspect

import numpy as np
import pytest
import torch
from transformers import TrainerCallback

import pico
from equipoise.config import TrainConfig
from equipoise.data.collate import Layout, collate
from equipoise.data.plan import Plan
from equipoise.data.tokens import Branch, Encoded, with_mismatched
from equipoise.models.scored import give_entry
from equipoise.objectives import OBJECTIVES, bind
from equipoise.train.offline import OfflineTrainer, Rows, training_arguments

trl = pytest.importorskip("trl")
datasets = pytest.importorskip("datasets")
pytestmark = [pytest.mark.filterwarnings("ignore"), pytest.mark.usefixtures("one_thread")]

BETA, UNDESIRABLE = 0.1, 1.7


@pytest.fixture(scope="module")
def rows():
    """Pairs whose answers begin where their prompts end, as TRL's collators want them."""
    return [row for row in pico.pair_rows() if row.branches[0].lead == 0][:12]


def fresh():
    return pico.llama()


def reference_of(rows):
    """Log-probabilities under another model, (N, K); both sides get the same numbers."""
    with torch.no_grad():
        return give_entry(pico.llama(seed=3))(packed=collate(rows, shared=False)).numpy()


class Keep(TrainerCallback):
    """Keeps the gradient of the first step before the update."""

    def on_pre_optimizer_step(self, args, state, control, model=None, **kwargs):
        self.gradient = torch.cat([p.grad.detach().flatten().clone() for p in model.parameters()])


def ours(folder, name, rows, reference, columns, settings):
    """Loss and gradient of one step over all rows, in several micro-batches with shared prompts."""
    table = pico.table(folder / "table", rows, columns)
    config = TrainConfig(max_grad_norm=0, global_batch_size=len(rows), max_steps=1, logging_steps=1)
    arguments = training_arguments(folder / "out", config, bf16=False, n_steps=1)
    arguments.save_strategy = "no"
    plan = Plan(table.lengths, 0, len(rows), 1, 300, max_steps=1)
    keep = Keep()
    trainer = OfflineTrainer(
        give_entry(fresh()),
        args=arguments,
        plan=plan,
        rows=Rows(table, reference, Layout(True)),
        chosen=OBJECTIVES[name],
        settings=bind(OBJECTIVES[name], settings),
        row_ids=[str(i) for i in range(len(rows))],
        callbacks=[keep],
    )
    trainer.train()
    return trainer.state.log_history[0]["loss"], keep.gradient


def theirs(folder, kind, examples, **settings):
    """Loss and gradient of TRL's trainer on pre-tokenized examples, and its log-probabilities per token."""
    config, trainer_class = (trl.DPOConfig, trl.DPOTrainer) if kind == "pair" else (trl.KTOConfig, trl.KTOTrainer)
    paired, single = {"chosen": ["a b", "b"], "rejected": ["b a", "a"]}, {"completion": ["a b", "b"], "label": [1, 0]}
    words = datasets.Dataset.from_dict({"prompt": ["a", "b"], **(paired if kind == "pair" else single)})
    arguments = config(
        output_dir=str(folder / "trl"), beta=BETA, per_device_train_batch_size=2, use_cpu=True, report_to=[],
        bf16=False, disable_tqdm=True, max_length=None, precompute_ref_log_probs=True, **settings,
    )  # fmt: skip
    vocabulary = len(pico.tokenizer())
    stand_in = pico.llama(vocabulary=vocabulary)
    trainer = trainer_class(model=stand_in, args=arguments, train_dataset=words, processing_class=pico.tokenizer())
    if not {"model", "inputs"} <= set(inspect.signature(trainer.compute_loss).parameters):
        pytest.skip(f"trl {trl.__version__} computes its loss in another way")
    batch = trainer.data_collator(examples)
    # The trainer was set up around a model of the same class, whose forward it patched.
    stand_in.resize_token_embeddings(pico.VOCABULARY, mean_resizing=False)
    stand_in.load_state_dict(fresh().state_dict())
    stand_in.train()
    stand_in.zero_grad()
    loss = trainer.compute_loss(stand_in, batch)
    loss.backward()
    gradient = torch.cat([p.grad.detach().flatten() for p in stand_in.parameters()])
    labels = batch["input_ids"].masked_fill(batch["completion_mask"] == 0, -100)
    with torch.no_grad():
        tokens = stand_in(
            input_ids=batch["input_ids"], attention_mask=batch["attention_mask"], labels=labels, fused_lm_head=True
        ).log_probs
    return loss.item(), gradient, tokens[:, -(labels.shape[1] - 1) :], labels[:, 1:]


def relative(a, b):
    return ((a - b).norm() / b.norm()).item()


@pytest.mark.parametrize(("name", "loss_type"), [("dpo", "sigmoid"), ("ipo", "ipo")])
def test_pairs(tmp_path, rows, name, loss_type):
    reference = reference_of(rows)
    examples = [
        {
            "prompt_ids": row.shared,
            "chosen_ids": row.branches[0].ids,
            "rejected_ids": row.branches[1].ids,
            "ref_chosen_logps": float(values[0]),
            "ref_rejected_logps": float(values[1]),
        }
        for row, values in zip(rows, reference, strict=True)
    ]
    loss, gradient = ours(tmp_path, name, rows, reference, {}, {"beta": BETA})
    expected, their_gradient, _, _ = theirs(tmp_path, "pair", examples, loss_type=loss_type)
    assert loss == pytest.approx(expected, rel=1e-5)
    assert gradient.norm() > 0 and relative(gradient, their_gradient) < 1e-5


def test_unpaired(tmp_path, rows):
    single = with_mismatched([Encoded(row.shared, row.branches[:1]) for row in rows], 0)
    labels = np.arange(len(single)) % 3 > 0
    reference = reference_of(single)
    examples = [
        {
            "prompt_ids": row.shared,
            "completion_ids": row.branches[0].ids,
            "KL_completion_ids": row.branches[1].ids,
            "label": bool(label),
            "ref_logps": float(values[0]),
            "ref_KL_logps": float(values[1]),
        }
        for row, values, label in zip(single, reference, labels, strict=True)
    ]
    settings = {"beta": BETA, "undesirable_weight": UNDESIRABLE}
    loss, gradient = ours(tmp_path, "kto", single, reference, {"label": labels}, settings)
    expected, their_gradient, _, _ = theirs(tmp_path, "unpaired", examples, undesirable_weight=UNDESIRABLE)
    assert loss == pytest.approx(expected, rel=1e-5)
    assert gradient.norm() > 0 and relative(gradient, their_gradient) < 1e-5


def test_log_probabilities_of_single_tokens(tmp_path, rows):
    examples = [
        {
            "prompt_ids": row.shared,
            "chosen_ids": row.branches[0].ids,
            "rejected_ids": row.branches[1].ids,
            "ref_chosen_logps": 0.0,
            "ref_rejected_logps": 0.0,
        }
        for row in rows
    ]
    _, _, tokens, labels = theirs(tmp_path, "pair", examples, loss_type="sigmoid")
    their_tokens = tokens[labels != -100]
    sides = [Encoded(row.shared, (row.branches[side],)) for side in (0, 1) for row in rows]
    # One branch per token: everything before it is read, it alone is trained.
    single = [
        Encoded(row.shared, (Branch(row.branches[0].ids[: i + 1], i),))
        for row in sides
        for i in range(len(row.branches[0].ids))
    ]
    with torch.no_grad():
        got = give_entry(fresh())(packed=collate(single, shared=True))[:, 0]
    assert got.shape == their_tokens.shape and torch.allclose(got, their_tokens, atol=1e-5)
