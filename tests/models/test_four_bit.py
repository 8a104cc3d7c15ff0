"""Adapters over bases in 4 bits: bitsandbytes computes on CPUs too, by the same calls and with other kernels."""

import importlib.util

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

import pico
import small
from equipoise.config import TrainConfig
from equipoise.errors import SettingError
from equipoise.methods.align import align, logps, prepared
from equipoise.models import four_bit
from equipoise.models.four_bit import check_4bit, quantization
from equipoise.models.load import load_model
from equipoise.store import manifest

pytestmark = pytest.mark.usefixtures("one_thread")
LORA = {"use_peft": True, "lora_r": 4, "lora_alpha": 8, "max_steps": 2}
needs_bitsandbytes = pytest.mark.skipif(
    importlib.util.find_spec("bitsandbytes") is None, reason="bitsandbytes is not installed (equipoise[4bit])"
)


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    folder = tmp_path_factory.mktemp("four_bit")
    made = pico.tokenizer()
    shape = {"num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2, "initializer_range": 0.2}
    torch.manual_seed(0)
    wide = LlamaForCausalLM(LlamaConfig(vocab_size=len(made), hidden_size=64, intermediate_size=128, **shape))
    wide.save_pretrained(folder / "base")
    made.save_pretrained(folder / "base")
    pico.directory(folder / "narrow")
    small.jsonl(folder / "pku.jsonl", small.pku_rows(24))
    return folder


def test_it_is_no_part_of_other_addresses_and_needs_an_adapter():
    assert "load_in_4bit" not in TrainConfig().canonical()
    assert TrainConfig(use_peft=True, load_in_4bit=True).canonical()["load_in_4bit"] is True
    with pytest.raises(SettingError, match="quantizes a base that stays frozen, so it needs use_peft: true"):
        TrainConfig.make({"load_in_4bit": True})


def test_without_bitsandbytes_it_is_refused(monkeypatch):
    monkeypatch.setattr(four_bit.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(SettingError, match=r"needs bitsandbytes: pip install 'equipoise\[4bit\]'"):
        check_4bit(torch.device("cpu"))


@needs_bitsandbytes
def test_the_settings_of_qlora():
    asked = quantization(torch.bfloat16)
    assert (asked.load_in_4bit, asked.bnb_4bit_quant_type, asked.bnb_4bit_use_double_quant) == (True, "nf4", True)
    assert asked.bnb_4bit_compute_dtype == torch.bfloat16
    check_4bit(torch.device("cpu"))
    with pytest.raises(SettingError, match="does not compute on meta"):
        check_4bit(torch.device("meta"))


@needs_bitsandbytes
def test_a_base_in_4_bits_is_frozen_and_near_to_the_plain_one(world):
    from bitsandbytes.functional import dequantize_4bit

    quantized, plain = (load_model(str(world / "base"), load_in_4bit=q) for q in (True, False))
    assert not any(p.requires_grad for p in quantized.parameters())
    kinds = {n: p.dtype for n, p in quantized.named_parameters()}
    assert kinds["model.layers.0.mlp.down_proj.weight"] == torch.uint8
    assert kinds["model.embed_tokens.weight"] == kinds["model.norm.weight"] == torch.float32
    ids = torch.tensor([[2, 30, 41, 52]])
    with torch.no_grad():
        a, b = (m(input_ids=ids).logits for m in (quantized, plain))
        assert torch.equal(a, quantized(input_ids=ids).logits), "nothing is repacked by a pass"
    assert not torch.equal(a, b)
    packed, exact = (m.get_submodule("model.layers.0.mlp.down_proj").weight for m in (quantized, plain))
    error = dequantize_4bit(packed.data, packed.quant_state) - exact
    # 16 levels at the quantiles of a normal distribution, scaled by the largest of 64: .092 of its width, FP4 .122.
    assert (error.pow(2).mean().sqrt() / exact.std()).item() == pytest.approx(0.092, abs=0.01)


@needs_bitsandbytes
def test_what_a_cpu_would_read_back_wrongly_is_refused(world):
    with pytest.raises(SettingError, match="unless a layer's inputs are a multiple of 64, got 32"):
        load_model(str(world / "narrow"), load_in_4bit=True)


@needs_bitsandbytes
def test_training_starts_at_equal_models_because_the_reference_is_quantized_too(world, base):
    plain, quantized = (
        small.step(world / "pku.jsonl", "better", train={**LORA, "load_in_4bit": on}) for on in (False, True)
    )
    data = prepared(base, plain)
    assert prepared(base, quantized) == data
    assert logps(base, data, plain).id != logps(base, data, quantized).id
    made = align(base, quantized)
    lines = small.metrics(made.path)
    assert lines[0]["loss"] == pytest.approx(0.693147, abs=1e-5) and lines[-1]["loss"] != lines[0]["loss"]
    assert manifest(made)["summary"]["base"] == "nf4, double quantization"
    assert "base" not in manifest(align(base, plain))["summary"]
    assert all("lora_" in name for name in small.weights(made))
    again = align(made, quantized, base=base)  # the adapter is continued, its base quantized again
    assert small.metrics(again.path)[0]["loss"] == pytest.approx(0.693147, abs=1e-5)
