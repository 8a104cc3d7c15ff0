"""SACPO through the real stages: what each step starts from, what it refers to, and what the merges are."""

import json
import math

import numpy as np
import pytest
import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM, AutoTokenizer

import pico
import small
from equipoise.data.collate import collate
from equipoise.data.tokens import TokenTable
from equipoise.errors import SettingError
from equipoise.methods.align import align, logps, prepared
from equipoise.methods.sacpo import naive_merge, sacpo
from equipoise.models.load import load_model
from equipoise.stages import TrainStageConfig, model_input, train
from equipoise.store import Store, manifest, using_store
from small import trained_on, weights

LN2 = math.log(2)
LORA = {"use_peft": True, "lora_r": 3, "lora_alpha": 6}


pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """A base model and two data sets; what tests have in common is computed once, by the store itself."""
    folder = tmp_path_factory.mktemp("sacpo")
    pico.directory(folder / "base")
    small.jsonl(folder / "pku.jsonl", small.pku_rows(24))
    small.jsonl(folder / "other.jsonl", small.pku_rows(20, seed=1))
    return folder


def first_loss(artefact):
    entry = small.metrics(artefact.path)[0]
    assert entry["step"] == 1
    return entry["loss"]


def recomputed(model_name, data):
    """Log-probabilities of prepared rows under a model, in the plain layout, row by row."""
    model, table = load_model(str(model_name)), TokenTable(data.path)
    with torch.no_grad():
        return np.stack([model(packed=collate([table[i]], shared=False))[0].numpy() for i in range(len(table))])


def prompt_logits(model):
    ids = torch.tensor([[2, 30, 41, 52, 63, 4, 70, 71]])
    with torch.no_grad():
        return model(input_ids=ids).logits


def test_two_steps_and_a_merge_leave_these_artefacts(world, tmp_path):
    path = world / "pku.jsonl"
    steps = [small.step(path, "better", beta=0.1), small.step(path, "safer", beta=0.02)]
    events = []
    store = Store(tmp_path, on_event=lambda kind, stage, artefact: events.append((kind, stage)))
    with using_store(store):
        made = sacpo(model_input(str(world / "base")), steps, mix=(0.5,))
        kinds = sorted(folder.name.rpartition("-")[0] for folder in tmp_path.iterdir())
        assert kinds == ["merge", "prepare", "prepare", "reference", "reference", "train", "train"]
        assert [kind for kind, _ in events].count("finished") == 7
        events.clear()
        again = sacpo(model_input(str(world / "base")), steps, mix=(0.5,))
    assert again == made
    assert {kind for kind, _ in events} == {"reused"} and len(events) == 7, "running again computes nothing"


def test_each_step_starts_at_the_loss_of_equal_models_and_refers_to_the_step_before(world, base):
    path = world / "pku.jsonl"
    steps = [small.step(path, "better", beta=0.1), small.step(path, "safer", beta=0.02)]
    one, two = sacpo(base, steps).steps
    assert first_loss(one) == pytest.approx(LN2, abs=1e-3) and first_loss(two) == pytest.approx(LN2, abs=1e-3)
    assert small.metrics(two.path)[-1]["loss"] != pytest.approx(LN2, abs=1e-3), "something was learnt"
    assert trained_on(two)["model"] == one.id
    reference = world / "store" / trained_on(two)["reference"] / "logps.npy"
    data = prepared(base, steps[1])
    assert trained_on(two)["data"] == data.id
    of_step_1, of_base = recomputed(one.path / "model", data), recomputed(world / "base", data)
    assert np.allclose(np.load(reference), of_step_1, atol=1e-3)
    assert not np.allclose(of_step_1, of_base, atol=0.1), "the two references would be told apart"


def test_the_chosen_answer_follows_the_axis_of_the_step(world, base):
    path = world / "pku.jsonl"
    helpful, safe = (prepared(base, small.step(path, prefer)) for prefer in ("better", "safer"))
    source = [json.loads(line) for line in path.read_text().splitlines()]
    for data, column in ((helpful, "better_response_id"), (safe, "safer_response_id")):
        wanted = {row["prompt"]: row[f"response_{row[column]}"] for row in source}
        found = [json.loads(line) for line in (data.path / "rows.jsonl").read_text().splitlines()]
        assert len(found) == len(source)
        for row in found:
            assert row["chosen"][-1]["content"] == wanted[row["prompt"][0]["content"]]


def test_the_order_can_be_reversed(world, base):
    path = world / "pku.jsonl"
    helpful, safe = small.step(path, "better", beta=0.1), small.step(path, "safer", beta=0.02)
    forward, backward = sacpo(base, [helpful, safe]).steps, sacpo(base, [safe, helpful]).steps
    assert trained_on(backward[0])["model"] == base.id and trained_on(backward[1])["model"] == backward[0].id
    assert [first_loss(model) for model in backward] == [pytest.approx(LN2, abs=1e-3)] * 2
    assert any(
        not torch.equal(a, b) for a, b in zip(*(weights(m[-1]).values() for m in (forward, backward)), strict=True)
    )


@pytest.mark.parametrize("position", [0, 1])
@pytest.mark.parametrize(("name", "start"), [("ipo", (1 / 0.04) ** 2), ("kto", 0.5)])
def test_other_objectives_in_either_step(world, base, name, start, position):
    path = world / "pku.jsonl"
    names = ["dpo", "dpo"]
    names[position] = name
    steps = [small.step(path, prefer, n, beta=0.02) for prefer, n in zip(("better", "safer"), names, strict=True)]
    made = sacpo(base, steps).steps
    expected = [LN2, LN2]
    expected[position] = start
    assert [first_loss(model) for model in made] == [pytest.approx(e, rel=1e-4, abs=1e-4) for e in expected]
    assert manifest(made[1])["summary"]["steps"] == 3


def test_kto_takes_each_answers_own_flag_in_the_safety_step(world, base):
    data = prepared(base, small.step(world / "pku.jsonl", "safer", "kto"))
    labels = np.load(data.path / "columns.npz")["label"]
    source = [json.loads(line) for line in (world / "pku.jsonl").read_text().splitlines()]
    assert len(labels) == 2 * len(source)
    assert labels.sum() == sum(row[f"is_response_{i}_safe"] for row in source for i in (0, 1))


def test_more_than_two_steps_each_on_data_of_its_own(world, base):
    first, second = world / "pku.jsonl", world / "other.jsonl"
    steps = [
        small.step(first, "better", beta=0.1),
        small.step(second, "safer", beta=0.05),
        small.step(first, "safer", "ipo", beta=0.5, train={"learning_rate": 1e-3}),
    ]
    made = sacpo(base, steps, mix=(0.75,))
    assert [trained_on(model)["model"] for model in made.steps] == [base.id, *(m.id for m in made.steps[:2])]
    assert [first_loss(model) for model in made.steps] == [pytest.approx(e, abs=1e-3) for e in (LN2, LN2, 1.0)]
    rows = [manifest(model)["summary"]["rows"] for model in made.steps]
    assert rows == [24, 20, 24]
    last, start, merged = weights(made.steps[-1]), weights(made.steps[0]), weights(made.merged[0.75])
    assert all(torch.allclose(merged[k], 0.75 * last[k] + 0.25 * start[k], atol=1e-7) for k in merged)


@pytest.mark.parametrize("q", [0.25, 1.0])
def test_mix_is_linear_between_the_first_and_the_last_step(world, base, q):
    path = world / "pku.jsonl"
    steps = [small.step(path, "better", beta=0.1), small.step(path, "safer", beta=0.02)]
    made = sacpo(base, steps, mix=(q,))
    first, last, merged = weights(made.steps[0]), weights(made.steps[1]), weights(made.merged[q])
    assert merged.keys() == last.keys() == first.keys()
    for name in merged:
        expected = torch.zeros_like(merged[name]).add_(last[name], alpha=q).add_(first[name], alpha=1 - q)
        assert torch.equal(merged[name], expected), name
    model = AutoModelForCausalLM.from_pretrained(made.merged[q].path / "model")
    tokenizer = AutoTokenizer.from_pretrained(made.merged[q].path / "model")
    assert torch.isfinite(prompt_logits(model)).all() and tokenizer.chat_template == pico.TEMPLATE


def test_naive_merging_takes_two_models_trained_from_the_base(world, base):
    path = world / "pku.jsonl"
    helpful, safe = small.step(path, "better", beta=0.1), small.step(path, "safer", beta=0.02)
    (merged,) = naive_merge(base, helpful, safe, mix=(0.25,)).values()
    one, other = align(base, helpful), align(base, safe)
    assert trained_on(one)["model"] == trained_on(other)["model"] == base.id
    assert trained_on(merged)["models"] == [other.id, one.id]
    a, b, got = weights(other), weights(one), weights(merged)
    assert all(torch.allclose(got[k], 0.25 * a[k] + 0.75 * b[k], atol=1e-7) for k in got)
    in_sequence = sacpo(base, [helpful, safe], mix=(0.25,)).merged[0.25]
    assert any(not torch.equal(got[k], weights(in_sequence)[k]) for k in got)


@pytest.mark.parametrize(
    ("mix", "n_steps", "sentence"),
    [((1.5,), 2, "between 0 and 1"), ((0.5,), 1, "needs two steps"), ((), 0, "at least one step")],
)
def test_impossible_runs_are_refused_before_anything_is_computed(world, tmp_path, mix, n_steps, sentence):
    steps = [small.step(world / "pku.jsonl", "better")] * n_steps
    with using_store(Store(tmp_path / "store")), pytest.raises(SettingError, match=sentence):
        sacpo(model_input(str(world / "base")), steps, mix=mix)
    assert not (tmp_path / "store").exists()


# ---- adapters ------------------------------------------------------------------------------------------------------


@pytest.fixture
def adapters(world, base):
    path = world / "pku.jsonl"
    steps = [small.step(path, "better", beta=0.1, train=LORA), small.step(path, "safer", beta=0.02, train=LORA)]
    return sacpo(base, steps, mix=(0.25,)), steps


def test_step_2_continues_the_adapter_of_step_1(world, base, adapters):
    (one, two), steps = adapters[0].steps, adapters[1]
    assert [first_loss(model) for model in (one, two)] == [pytest.approx(LN2, abs=1e-3)] * 2
    first, second = weights(one), weights(two)
    assert first.keys() == second.keys() and all(first[k].shape == second[k].shape for k in first)
    assert all(3 in tensor.shape for tensor in second.values()), "the rank stays what it was"
    for model in (one, two):
        config = json.loads((model.path / "model" / "adapter_config.json").read_text())
        assert config["base_model_name_or_path"] == str(world / "base") and config["r"] == 3
    data = prepared(base, steps[1])
    reference = np.load(logps(one, data, steps[1]).path / "logps.npy")
    assert trained_on(two)["reference"] == logps(one, data, steps[1]).id
    assert np.allclose(reference, recomputed(one.path / "model", data), atol=1e-3)
    assert not np.allclose(reference, recomputed(world / "base", data), atol=1e-2), "step 1 is not the base"
    assert any(not torch.equal(first[k], second[k]) for k in first), "step 2 learnt"


def test_a_saved_adapter_loads_over_the_untouched_base(world, adapters):
    two = adapters[0].steps[1]
    plain = AutoModelForCausalLM.from_pretrained(world / "base")
    without = prompt_logits(plain)
    pristine = pico.llama(vocabulary=len(pico.tokenizer()))
    assert torch.equal(without, prompt_logits(pristine)), "the base on disk is what it was"
    wrapped = PeftModel.from_pretrained(plain, two.path / "model").eval()
    ours = load_model(str(two.path / "model"))
    assert torch.allclose(prompt_logits(wrapped), prompt_logits(ours), atol=1e-6)
    assert not torch.allclose(prompt_logits(wrapped), without, atol=1e-3)


def test_merged_adapters_have_the_summed_rank_and_equal_merged_models(world, adapters):
    made = adapters[0]
    merged = made.merged[0.25]
    config = json.loads((merged.path / "model" / "adapter_config.json").read_text())
    assert config["r"] == 6

    def full(artefact):
        model = AutoModelForCausalLM.from_pretrained(world / "base")
        return PeftModel.from_pretrained(model, artefact.path / "model").merge_and_unload().eval()

    last, first, got = (full(artefact) for artefact in (made.steps[1], made.steps[0], merged))
    with torch.no_grad():
        for a, b in zip(last.parameters(), first.parameters(), strict=True):
            a.mul_(0.25).add_(b, alpha=0.75)
    assert torch.allclose(prompt_logits(got), prompt_logits(last), atol=1e-4)


def test_an_adapter_is_not_continued_with_another_rank_or_without_peft(world, base, adapters):
    one = adapters[0].steps[0]
    path = world / "pku.jsonl"
    with pytest.raises(SettingError, match="lora_r"):
        align(one, small.step(path, "safer", train={**LORA, "lora_r": 4}), base=base)
    with pytest.raises(SettingError, match="lora_alpha"):
        align(one, small.step(path, "safer", train={**LORA, "lora_alpha": 3}), base=base)
    with pytest.raises(SettingError, match="use_peft"):
        align(one, small.step(path, "safer"), base=base)


# ---- a wrong reference ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("name", "beta"), [("dpo", 0.1), ("ipo", 0.02), ("kto", 0.1)])
def test_a_reference_that_is_not_the_start_is_refused(world, base, name, beta):
    steps = [small.step(world / "pku.jsonl", "better"), small.step(world / "pku.jsonl", "safer", name, beta=beta)]
    one = align(base, steps[0])
    data = prepared(base, steps[1])
    wrong = logps(base, data, steps[1])  # step 2 that refers to the base instead of step 1
    config = TrainStageConfig(objective=steps[1].objective, train=steps[1].train)
    with pytest.raises(SettingError, match="reference log-probabilities are not those of the model"):
        train(config, model=one, data=data, reference=wrong)
