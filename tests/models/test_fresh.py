"""A model and a tokenizer made from nothing but text."""

from __future__ import annotations

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from equipoise.data.tokens import spans
from equipoise.errors import DataError, SettingError
from equipoise.generate import Sampling, generate, prompt_ids
from equipoise.models.fresh import fresh_model

TEXTS = ["The heron waits in the reeds.", "The reeds wait for the wind.", "", "Wind and heron, heron and wind."] * 8
SMALL = {"texts": TEXTS, "vocab_size": 300, "hidden_size": 32, "layers": 2, "heads": 4, "max_length": 64}


@pytest.fixture(scope="module")
def directory(tmp_path_factory):
    return fresh_model(tmp_path_factory.mktemp("fresh") / "model", **SMALL)


@pytest.fixture(scope="module")
def tokenizer(directory):
    return AutoTokenizer.from_pretrained(directory)


@pytest.fixture(scope="module")
def model(directory):
    return AutoModelForCausalLM.from_pretrained(directory)


def test_sizes(model, tokenizer):
    vocabulary = len(tokenizer)
    assert 263 < vocabulary <= 300
    # embeddings once, per layer four square matrices, three of the MLP (ceil(32 * 8 / 3 / 64) * 64 = 128), two norms
    assert model.num_parameters() == vocabulary * 32 + 2 * (4 * 32**2 + 3 * 32 * 128 + 2 * 32) + 32
    assert model.config.max_position_embeddings == tokenizer.model_max_length == 64


def test_default_size_is_about_ten_million():
    from transformers import LlamaConfig, LlamaForCausalLM

    with torch.device("meta"):
        config = LlamaConfig(
            vocab_size=8192,
            hidden_size=320,
            intermediate_size=896,
            num_hidden_layers=6,
            num_attention_heads=5,
            tie_word_embeddings=True,
        )
        assert LlamaForCausalLM(config).num_parameters() == pytest.approx(10e6, rel=0.05)


@pytest.mark.parametrize("text", ["The heron", "  two  spaces \n\ttab\n", "naïve 🐦\u2028café", "\x00\x7f"])
def test_any_text_survives(tokenizer, text):
    assert tokenizer.decode(tokenizer(text)["input_ids"]) == text
    assert tokenizer.unk_token_id not in tokenizer(text)["input_ids"]


def test_special_tokens_are_distinct(model, tokenizer):
    names = ["<|pad|>", "<|bos|>", "<|eos|>", "<|unk|>", "<|system|>", "<|user|>", "<|assistant|>"]
    assert tokenizer.convert_tokens_to_ids(names) == list(range(7))
    assert (tokenizer.pad_token_id, tokenizer.bos_token_id, tokenizer.eos_token_id, tokenizer.unk_token_id) == (
        0,
        1,
        2,
        3,
    )
    assert model.generation_config.eos_token_id == 2
    assert model.generation_config.pad_token_id == 0
    assert tokenizer.decode(range(7), skip_special_tokens=True) == ""


def test_template_is_a_prefix_and_trains_the_end(tokenizer):
    prompt = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Who waits?"}]
    answer = [{"role": "assistant", "content": "The heron."}]
    ids = prompt_ids(tokenizer, prompt)
    assert tokenizer.decode(ids) == "<|bos|><|system|>Be brief.<|user|>Who waits?<|assistant|>"
    (span,) = spans(tokenizer, [prompt], [answer])
    assert tuple(span.ids[: span.first]) == ids
    assert tokenizer.decode(span.ids[span.first :]) == "The heron.<|eos|>"


def test_equal_arguments_give_equal_files(directory, tmp_path):
    state = torch.get_rng_state()
    again = fresh_model(tmp_path / "again", **SMALL)
    assert torch.equal(torch.get_rng_state(), state)
    for name in ("model.safetensors", "tokenizer.json", "config.json", "generation_config.json"):
        assert (again / name).read_bytes() == (directory / name).read_bytes()
    other = fresh_model(tmp_path / "other", **SMALL, seed=1)
    assert (other / "model.safetensors").read_bytes() != (directory / "model.safetensors").read_bytes()
    assert (other / "tokenizer.json").read_bytes() == (directory / "tokenizer.json").read_bytes()


def test_it_can_be_sampled_from(model, tokenizer):
    prompt = {"id": "a", "prompt": [{"role": "user", "content": "Who waits?"}]}
    (row,) = generate(model, tokenizer, [prompt], Sampling(max_new_tokens=8))
    assert 1 <= row["n_tokens"] <= 8


def test_named_template(tmp_path):
    out = fresh_model(tmp_path, **SMALL, chat_template="plain")
    tokenizer = AutoTokenizer.from_pretrained(out)
    assert tokenizer.decode(prompt_ids(tokenizer, [{"role": "user", "content": "Hi"}])) == "<|bos|>User: Hi\nAssistant:"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"vocab_size": 200}, "vocab_size is 200, but the bytes and special tokens alone are 263"),
        ({"heads": 5}, "does not divide into 5 heads"),
        ({"hidden_size": 12, "heads": 4}, "even width"),
        ({"layers": 0}, "layers is 0"),
        ({"chat_template": "chatmll"}, "did you mean 'chatml'"),
    ],
)
def test_sizes_that_do_not_fit_are_refused(tmp_path, change, message):
    with pytest.raises(SettingError, match=message):
        fresh_model(tmp_path / "out", **(SMALL | change))
    assert not (tmp_path / "out").exists()


def test_no_text_is_refused(tmp_path):
    with pytest.raises(DataError, match="no text"):
        fresh_model(tmp_path / "out", **(SMALL | {"texts": ["", "  "]}))
