"""Linear merges: exact for whole models and for adapters over one base, refused in one sentence otherwise."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM

from equipoise.errors import DataError, SettingError
from equipoise.models import weights as weight_files
from equipoise.models.merge import merge_linear
from equipoise.models.merge_lora import merge_adapters

# PEFT 0.21 asks transformers 5.23 for a property under its old name.
pytestmark = pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated")

IDS = torch.arange(20).reshape(2, 10)


def llama(seed: int, **settings: object) -> LlamaForCausalLM:
    torch.manual_seed(seed)
    sizes = {"vocab_size": 32, "hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2}
    config = LlamaConfig(**(sizes | {"num_attention_heads": 2, "tie_word_embeddings": True} | settings))
    return LlamaForCausalLM(config).eval()


def saved(model: LlamaForCausalLM, path: Path, **settings: object) -> Path:
    model.save_pretrained(path, **settings)
    return path


def loaded(path: Path) -> LlamaForCausalLM:
    return AutoModelForCausalLM.from_pretrained(path, dtype="auto").eval()


@torch.no_grad()
def logits(model: torch.nn.Module) -> torch.Tensor:
    return model(input_ids=IDS).logits


def rewrite(path: Path, change: Callable[[dict], None]) -> None:
    """Change a JSON file in place."""
    value = json.loads(path.read_text())
    change(value)
    path.write_text(json.dumps(value))


# Whole models ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("tied", [True, False])
def test_equals_state_dict_arithmetic(tmp_path: Path, tied: bool) -> None:
    a, b = llama(0, tie_word_embeddings=tied), llama(1, tie_word_embeddings=tied)
    merge_linear([saved(a, tmp_path / "a"), saved(b, tmp_path / "b")], [0.25, 0.75], tmp_path / "out")
    merged = loaded(tmp_path / "out")
    x, y = a.state_dict(), b.state_dict()
    for name, got in merged.state_dict().items():
        torch.testing.assert_close(got, 0.25 * x[name] + 0.75 * y[name], rtol=0, atol=1e-7)
    assert (merged.lm_head.weight is merged.model.embed_tokens.weight) == tied


def test_float64_is_summed_in_float64(tmp_path: Path) -> None:
    models = [llama(seed).double() for seed in range(3)]
    sources = [saved(model, tmp_path / str(seed)) for seed, model in enumerate(models)]
    merge_linear(sources, [1.5, -0.75, 0.25], tmp_path / "out")
    got = load_file(tmp_path / "out" / "model.safetensors")
    for name, value in got.items():
        parts = [model.state_dict()[name] for model in models]
        torch.testing.assert_close(value, 1.5 * parts[0] - 0.75 * parts[1] + 0.25 * parts[2], rtol=0, atol=1e-15)


def test_bfloat16_is_rounded_once(tmp_path: Path) -> None:
    a, b = llama(0).bfloat16(), llama(1).bfloat16()
    merge_linear([saved(a, tmp_path / "a"), saved(b, tmp_path / "b")], [0.3, 0.7], tmp_path / "out")
    merged = loaded(tmp_path / "out")
    assert merged.dtype == torch.bfloat16
    for got, x, y in zip(merged.parameters(), a.parameters(), b.parameters(), strict=True):
        assert torch.equal(got, torch.zeros(x.shape).add(x.float(), alpha=0.3).add(y.float(), alpha=0.7).bfloat16())


def test_mixed_types_give_the_widest_and_dtype_overrules(tmp_path: Path) -> None:
    sources = [saved(llama(0).bfloat16(), tmp_path / "a"), saved(llama(1), tmp_path / "b")]
    merge_linear(sources, [0.5, 0.5], tmp_path / "wide")
    merge_linear(sources, [0.5, 0.5], tmp_path / "half", dtype="float16")
    for out, dtype in (("wide", torch.float32), ("half", torch.float16)):
        assert loaded(tmp_path / out).dtype == dtype
        assert {t.dtype for t in load_file(tmp_path / out / "model.safetensors").values()} == {dtype}


def test_shards_in_and_out(tmp_path: Path) -> None:
    a, b = llama(0), llama(1)
    sharded = saved(a, tmp_path / "a", max_shard_size="4KB")
    assert (sharded / "model.safetensors.index.json").is_file()
    sources = [sharded, saved(b, tmp_path / "b")]
    merge_linear(sources, [0.5, 0.5], tmp_path / "whole")
    merge_linear(sources, [0.5, 0.5], tmp_path / "parts", max_shard_bytes=4000)
    index = json.loads((tmp_path / "parts" / "model.safetensors.index.json").read_text())
    files = sorted(path.name for path in (tmp_path / "parts").glob("*.safetensors"))
    assert files == sorted(set(index["weight_map"].values())) and len(files) > 3
    sizes = [sum(t.nbytes for t in load_file(tmp_path / "parts" / file).values()) for file in files]
    assert sum(sizes) == index["metadata"]["total_size"]
    assert torch.equal(logits(loaded(tmp_path / "parts")), logits(loaded(tmp_path / "whole")))


def test_a_tied_tensor_that_one_file_stores_twice(tmp_path: Path) -> None:
    a, b = saved(llama(0), tmp_path / "a"), saved(llama(1), tmp_path / "b")
    tensors = load_file(b / "model.safetensors")
    tensors["lm_head.weight"] = tensors["model.embed_tokens.weight"].clone()
    save_file(tensors, b / "model.safetensors", metadata={"format": "pt"})
    merge_linear([a, b], [0.5, 0.5], tmp_path / "out")
    merged = loaded(tmp_path / "out")
    assert merged.lm_head.weight is merged.model.embed_tokens.weight
    tensors["lm_head.weight"] += 1  # now it is another tensor, not a second copy
    save_file(tensors, b / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(SettingError, match=r"'lm_head\.weight' is missing in .*a, expected as in .*b"):
        merge_linear([a, b], [0.5, 0.5], tmp_path / "out2")


def test_companions_come_from_the_first(tmp_path: Path) -> None:
    a, b = saved(llama(0), tmp_path / "a"), saved(llama(1), tmp_path / "b")
    for source in (a, b):
        (source / "chat_template.jinja").write_text(source.name)
        (source / "trainer_state.json").write_text("{}")
        (source / "manifest.json").write_text("{}")
    merge_linear([a, b], [0.5, 0.5], tmp_path / "out")
    names = {path.name for path in (tmp_path / "out").iterdir()}
    assert names == {"config.json", "generation_config.json", "model.safetensors", "chat_template.jinja"}
    assert (tmp_path / "out" / "chat_template.jinja").read_text() == "a"


def test_weights_that_do_not_sum_to_one_are_used_and_said(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    sources = [saved(llama(0), tmp_path / "a"), saved(llama(0), tmp_path / "b")]
    with caplog.at_level(logging.WARNING):
        merge_linear(sources, [-0.25, 1.25], tmp_path / "one")
    assert caplog.text == ""
    with caplog.at_level(logging.WARNING):
        merge_linear(sources, [1.0, 1.0], tmp_path / "two")
    assert "sum to 2, not 1" in caplog.text
    one, two = (load_file(tmp_path / name / "model.safetensors") for name in ("one", "two"))
    for name, value in one.items():
        torch.testing.assert_close(two[name], 2 * value, rtol=1e-6, atol=1e-7)


def test_golden_merge_of_logits(tmp_path: Path) -> None:
    """METHODS G4: where logits are linear in the weights, q picks the exact policy for lambda = q * lambda_bar."""
    ref, r, g = torch.tensor([0.5, 0.3, 0.2]), torch.tensor([1.0, 0, -1]), torch.tensor([-1.0, 0.5, 1])
    beta, lambda_bar, sources = 0.5, 2.0, []
    for name, multiplier in (("helpful", 0.0), ("sacpo", lambda_bar)):
        model = llama(0, vocab_size=3, hidden_size=4, num_hidden_layers=0, tie_word_embeddings=False, rms_norm_eps=0.0)
        model.model.embed_tokens.weight.data.fill_(1.0)  # so the head sees ones, and each logit is a sum of four
        model.lm_head.weight.data = ((ref.log() + (r + multiplier * g) / beta) / 4)[:, None].repeat(1, 4)
        sources.append(saved(model, tmp_path / name))
    expected = {
        0.25: [0.705193, 0.256633, 0.038175],
        0.5: [0.329927, 0.538102, 0.131971],
        0.75: [0.088770, 0.648861, 0.262369],
    }
    for q, policy in expected.items():
        merge_linear(sources, [1 - q, q], tmp_path / str(q))
        with torch.no_grad():
            got = loaded(tmp_path / str(q))(input_ids=torch.tensor([[0]])).logits[0, -1].softmax(-1)
        torch.testing.assert_close(got, torch.tensor(policy), rtol=0, atol=1e-6)
        torch.testing.assert_close(got, (ref.log() + (r + q * lambda_bar * g) / beta).softmax(-1), rtol=0, atol=1e-6)


def test_a_write_that_breaks_leaves_nothing_that_looks_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sources = [saved(llama(0), tmp_path / "a"), saved(llama(1), tmp_path / "b")]
    calls: list[Path] = []

    def full_disk(path: Path, parts: object) -> None:
        calls.append(path)
        if len(calls) == 2:
            parts = (part if index < 3 else _fail() for index, part in enumerate(parts))  # type: ignore[arg-type]
        original(path, parts)

    def _fail() -> bytes:
        raise OSError(28, "No space left on device")

    original = weight_files._write_whole
    monkeypatch.setattr(weight_files, "_write_whole", full_disk)
    with pytest.raises(OSError, match="No space"):
        merge_linear(sources, [0.5, 0.5], tmp_path / "out", max_shard_bytes=4000)
    left = sorted(path.name for path in (tmp_path / "out").iterdir())
    assert len(left) == 1 and left[0].startswith("model-00001-of-")
    with pytest.raises((OSError, ValueError)):
        loaded(tmp_path / "out")


@pytest.mark.parametrize(
    ("weights", "message"),
    [
        ([0.5], "has 1 entries, expected one for each of 2"),
        ([0.5, float("nan")], r"weights\[1\] is nan"),
        ([float("inf"), 0.5], r"weights\[0\] is inf"),
    ],
)
def test_bad_weights(tmp_path: Path, weights: list[float], message: str) -> None:
    with pytest.raises(SettingError, match=message):
        merge_linear([tmp_path / "a", tmp_path / "b"], weights, tmp_path / "out")


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"vocab_size": 33}, "vocab_size is 33 in .*b.config.json, expected 32 as in .*a"),
        ({"num_attention_heads": 4}, "head_dim is 4"),  # same shapes, another function
        ({"rms_norm_eps": 0.1}, "rms_norm_eps is 0.1"),
        ({"tie_word_embeddings": False}, "tie_word_embeddings is False"),
    ],
)
def test_different_models_are_refused(tmp_path: Path, settings: dict, message: str) -> None:
    sources = [saved(llama(0), tmp_path / "a"), saved(llama(1, **settings), tmp_path / "b")]
    with pytest.raises(SettingError, match=message):
        merge_linear(sources, [0.5, 0.5], tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_different_tensors_are_refused(tmp_path: Path) -> None:
    a, b = saved(llama(0), tmp_path / "a"), saved(llama(1), tmp_path / "b")
    tensors = load_file(b / "model.safetensors")
    changed = tensors | {"model.norm.weight": torch.ones(15)}
    save_file(changed, b / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(SettingError, match=r"'model\.norm\.weight' has shape \[15\] in .*b, expected \[16\] as in .*a"):
        merge_linear([a, b], [0.5, 0.5], tmp_path / "out")
    del changed["model.norm.weight"]
    save_file(changed, b / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(SettingError, match=r"'model\.norm\.weight' is missing in .*b, expected as in .*a"):
        merge_linear([a, b], [0.5, 0.5], tmp_path / "out")
    broken = tensors | {"model.norm.weight": torch.full((16,), torch.nan)}
    save_file(broken, b / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(DataError, match=r"'model\.norm\.weight' of the result holds values that are not finite"):
        merge_linear([a, b], [0.5, 0.5], tmp_path / "out")
    assert not list((tmp_path / "out").iterdir())


def test_integers_are_copied_or_refused(tmp_path: Path) -> None:
    a, b = saved(llama(0), tmp_path / "a"), saved(llama(1), tmp_path / "b")
    for source, step in ((a, 3), (b, 3)):
        tensors = load_file(source / "model.safetensors") | {"steps": torch.tensor(step)}
        save_file(tensors, source / "model.safetensors")
    merge_linear([a, b], [0.5, 0.5], tmp_path / "out")
    assert load_file(tmp_path / "out" / "model.safetensors")["steps"].item() == 3
    save_file(load_file(b / "model.safetensors") | {"steps": torch.tensor(4)}, b / "model.safetensors")
    with pytest.raises(SettingError, match="'steps' holds I64 numbers"):
        merge_linear([a, b], [0.5, 0.5], tmp_path / "out2")


def test_other_refusals(tmp_path: Path) -> None:
    a, b = saved(llama(0), tmp_path / "a"), saved(llama(1), tmp_path / "b")
    with pytest.raises(SettingError, match=r"dtype 'bfloat' is not known \(did you mean 'bfloat16'\?\)"):
        merge_linear([a, b], [0.5, 0.5], tmp_path / "out", dtype="bfloat")
    with pytest.raises(SettingError, match="which is one of the sources"):
        merge_linear([a, b], [0.5, 0.5], b)
    (a / "tokenizer.json").write_text('{"model": {"vocab": {"x": 0, "y": 1}}, "added_tokens": []}')
    (b / "tokenizer.json").write_text('{"model": {"vocab": {"x": 1, "y": 0}}, "added_tokens": []}')
    with pytest.raises(SettingError, match=r"tokenizer of .*b gives tokens other ids"):
        merge_linear([a, b], [0.5, 0.5], tmp_path / "out")
    (b / "tokenizer.json").write_text('{"added_tokens": [], "model": {"vocab": {"y": 1, "x": 0}}}')
    whole = (b / "model.safetensors").read_bytes()
    (b / "model.safetensors").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(DataError, match="not a complete safetensors file"):
        merge_linear([a, b], [0.5, 0.5], tmp_path / "out")
    (b / "model.safetensors").rename(b / "pytorch_model.bin")
    with pytest.raises(SettingError, match=r"neither model\.safetensors nor model\.safetensors\.index\.json"):
        merge_linear([a, b], [0.5, 0.5], tmp_path / "out")
    rewrite(b / "config.json", lambda config: config.update(quantization_config={"bits": 4}))
    with pytest.raises(SettingError, match="is quantized"):
        merge_linear([a, b], [0.5, 0.5], tmp_path / "out")
    assert not (tmp_path / "out").exists()


# Adapters -------------------------------------------------------------------------------------------------------------


@pytest.fixture
def base(tmp_path: Path) -> Path:
    return saved(llama(0), tmp_path / "base")


def adapter(base: Path, out: Path, **settings: object) -> Path:
    """A LoRA adapter with random factors."""
    model = AutoModelForCausalLM.from_pretrained(base)
    torch.manual_seed(hash(out.name) % 1000)
    arguments = {"r": 3, "lora_alpha": 6, "target_modules": ["q_proj", "v_proj"], "init_lora_weights": False}
    wrapped = get_peft_model(model, LoraConfig(**(arguments | {"task_type": "CAUSAL_LM"} | settings)))
    wrapped.save_pretrained(out)
    rewrite(out / "adapter_config.json", lambda config: config.update(init_lora_weights=True))
    return out


def folded(base: Path, path: Path | None, out: Path) -> Path:
    """The base in float64, with the adapter at `path` merged into it by PEFT."""
    model = loaded(base).double()
    return saved(model if path is None else PeftModel.from_pretrained(model, path).double().merge_and_unload(), out)


def check_against_whole_models(base: Path, sources: list[Path | None], weights: list[float], out: Path) -> None:
    """Merged adapters = merged whole models, in float64."""
    merge_adapters(sources, weights, out, dtype="float64")
    model = PeftModel.from_pretrained(loaded(base).double(), out).double().eval()
    whole = [folded(base, source, out.parent / f"whole{index}") for index, source in enumerate(sources)]
    merge_linear(whole, weights, out.parent / "whole")
    torch.testing.assert_close(logits(model), logits(loaded(out.parent / "whole")), rtol=0, atol=1e-6)


def test_adapters_equal_whole_models(tmp_path: Path, base: Path) -> None:
    a, b = adapter(base, tmp_path / "a"), adapter(base, tmp_path / "b")
    check_against_whole_models(base, [a, b], [0.25, 0.75], tmp_path / "out")
    config = json.loads((tmp_path / "out" / "adapter_config.json").read_text())
    assert (config["r"], config["lora_alpha"], config["target_modules"]) == (6, 6, ["q_proj", "v_proj"])
    assert not list((tmp_path / "out").glob("*.partial"))


def test_different_ranks_scales_and_modules(tmp_path: Path, base: Path) -> None:
    a = adapter(base, tmp_path / "a", r=2, lora_alpha=5, target_modules=["q_proj", "down_proj"])
    b = adapter(base, tmp_path / "b", r=4, use_rslora=True, target_modules=["k_proj", "q_proj"])
    c = adapter(
        base,
        tmp_path / "c",
        target_modules=r".*layers\.1\.(self_attn\.q_proj|mlp\.up_proj)",
        rank_pattern={"up_proj": 1},
        alpha_pattern={r"layers\.1\.self_attn\.q_proj": 9},
    )
    check_against_whole_models(base, [a, b, c], [0.5, 0.75, -0.25], tmp_path / "out")
    config = json.loads((tmp_path / "out" / "adapter_config.json").read_text())
    assert config["r"] == 9  # 2 + 4 + 3 on layer 1's q_proj; the others are filled up with zeros
    assert config["rank_pattern"] == {} and "model.layers.1.mlp.up_proj" in config["target_modules"]
    assert "model.layers.0.mlp.up_proj" not in config["target_modules"]


def test_layers_to_transform(tmp_path: Path, base: Path) -> None:
    a = adapter(base, tmp_path / "a", layers_to_transform=[1])
    check_against_whole_models(base, [a, adapter(base, tmp_path / "b")], [0.5, 0.5], tmp_path / "out")


@pytest.mark.filterwarnings("ignore:Model has `tie_word_embeddings=True`", "ignore:Setting `save_embedding_layers`")
def test_embedding_adapters(tmp_path: Path) -> None:
    base = saved(llama(0, tie_word_embeddings=False), tmp_path / "base")
    sources = [adapter(base, tmp_path / name, target_modules=["embed_tokens", "q_proj"]) for name in "ab"]
    check_against_whole_models(base, [*sources], [0.3, 0.7], tmp_path / "out")


def test_the_untouched_base_is_a_zero_delta(tmp_path: Path, base: Path) -> None:
    a = adapter(base, tmp_path / "a")
    check_against_whole_models(base, [None, a], [0.75, 0.25], tmp_path / "out")
    with pytest.raises(SettingError, match="every source is the untouched base"):
        merge_adapters([None, None], [0.5, 0.5], tmp_path / "none")


def test_scales_are_not_rounded_to_a_narrow_type(tmp_path: Path, base: Path) -> None:
    a = adapter(base, tmp_path / "a")
    tensors = {name: tensor.bfloat16() for name, tensor in load_file(a / "adapter_model.safetensors").items()}
    save_file(tensors, a / "adapter_model.safetensors", metadata={"format": "pt"})
    merge_adapters([a], [0.3], tmp_path / "out")
    got = load_file(tmp_path / "out" / "adapter_model.safetensors")
    for name, tensor in tensors.items():
        scale = 0.3 * 6 / 3 if "lora_B" in name else 1.0
        torch.testing.assert_close(got[name], tensor.float() * scale, rtol=1e-6, atol=0)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"use_dora": True}, "sets use_dora to True, whose effect is not a sum of low-rank deltas"),
        ({"bias": "all"}, "sets bias to 'all'"),
        ({"modules_to_save": ["lm_head"]}, r"sets modules_to_save to \['lm_head'\]"),
        ({"an_invention_of_next_year": {"x": 1}}, "sets an_invention_of_next_year"),
        ({"init_lora_weights": "pissa_niter_4"}, "init_lora_weights='pissa_niter_4'"),
        ({"peft_type": "IA3"}, "of type 'IA3', expected 'LORA'"),
        ({"base_model_name_or_path": "elsewhere"}, "adapters of different bases"),
        ({"task_type": "SEQ_CLS"}, "task_type is 'SEQ_CLS'"),
    ],
)
def test_adapters_that_are_not_plain_are_refused(tmp_path: Path, base: Path, change: dict, message: str) -> None:
    a, b = adapter(base, tmp_path / "a"), adapter(base, tmp_path / "b")
    rewrite(b / "adapter_config.json", lambda config: config.update(change))
    with pytest.raises(SettingError, match=message):
        merge_adapters([a, b], [0.5, 0.5], tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_factors_that_do_not_fit_are_refused(tmp_path: Path, base: Path) -> None:
    a, b = adapter(base, tmp_path / "a"), adapter(base, tmp_path / "b")
    tensors = load_file(b / "adapter_model.safetensors")
    name = "base_model.model.model.layers.0.self_attn.q_proj.lora_{}.weight"
    save_file(tensors | {name.format("A"): torch.zeros(3, 8)}, b / "adapter_model.safetensors")
    with pytest.raises(SettingError, match=r"q_proj' maps \[16, 8\] in .*b, expected \[16, 16\] as in .*a"):
        merge_adapters([a, b], [0.5, 0.5], tmp_path / "out")
    save_file({k: v for k, v in tensors.items() if k != name.format("A")}, b / "adapter_model.safetensors")
    with pytest.raises(DataError, match="has only one of its two LoRA factors"):
        merge_adapters([a, b], [0.5, 0.5], tmp_path / "out")
    save_file(tensors | {"base_model.model.lm_head.weight": torch.zeros(2)}, b / "adapter_model.safetensors")
    with pytest.raises(SettingError, match=r"'base_model\.model\.lm_head\.weight' of .*b is no LoRA factor"):
        merge_adapters([a, b], [0.5, 0.5], tmp_path / "out")
    with pytest.raises(SettingError, match=r"holds no config\.json, only a LoRA adapter"):
        merge_linear([a, b], [0.5, 0.5], tmp_path / "out")
    with pytest.raises(SettingError, match=r"holds no adapter_config\.json"):
        merge_adapters([a, base], [0.5, 0.5], tmp_path / "out")
    assert not (tmp_path / "out").exists()
