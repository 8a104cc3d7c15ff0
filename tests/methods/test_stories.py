"""A pretrained model that the project did not make goes through one SACPO step, read from its GGUF file."""

import json

import pytest

from equipoise.config import TrainConfig
from equipoise.data.sources import DataEntry
from equipoise.methods.align import DataUse, Step, use
from equipoise.methods.sacpo import sacpo
from equipoise.store import FileInput, Store, using_store

pytest.importorskip("gguf", reason="reading GGUF files needs equipoise[gguf]")


def test_one_sacpo_step_on_stories260k(shared_data, tmp_path):
    from equipoise.models.gguf import import_gguf

    base = import_gguf(shared_data / "stories260K" / "stories260K.gguf", tmp_path / "base", chat_template="plain")
    entry = DataEntry(path=str(shared_data / "hh_rlhf_harmless_test" / "test.jsonl.gz"), axis="safer", limit=60)
    train = TrainConfig(
        learning_rate=1e-3, global_batch_size=8, max_steps=6, logging_steps=1, max_length=400, truncation="keep_end",
        max_dropped=0.9,
    )  # fmt: skip
    step = Step(DataUse("safe", (entry,)), use("dpo", beta=0.1), train, prefer="safer")
    with using_store(Store(tmp_path / "store")):
        made = sacpo(FileInput(base), [step]).steps[0]
    losses = [json.loads(line) for line in (made.path / "metrics.jsonl").read_text().splitlines()]
    losses = [entry["loss"] for entry in losses if "loss" in entry]
    assert losses[0] == pytest.approx(0.693147, abs=1e-3)
    assert losses[-1] != losses[0] and all(loss < 5 for loss in losses)
    from transformers import AutoModelForCausalLM

    again = AutoModelForCausalLM.from_pretrained(made.path / "model")
    assert sum(p.numel() for p in again.parameters()) < 300_000
