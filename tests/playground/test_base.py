"""The base model: its tokenizer loses nothing, its directory is an ordinary one, and it behaves as the world needs."""

from __future__ import annotations

import random
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, GenerationConfig

from equipoise.errors import SettingError
from equipoise.playground.base import BaseSize, build_base, build_tokenizer, exchanges, under_rule
from equipoise.playground.rules import read_rule
from equipoise.playground.world import KINDS, prompts

TINY = BaseSize(hidden=16, layers=1, heads=2, mlp=32, samples=200, batch=16)


@pytest.fixture(scope="module")
def tokenizer():
    return build_tokenizer()


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_base(tmp_path_factory.mktemp("base") / "tiny", size=TINY)


def test_text_survives_the_tokenizer(tokenizer) -> None:
    for messages, answer in exchanges(500, random.Random(1)):
        for text in (*(message["content"] for message in messages), answer):
            ids = tokenizer(text, add_special_tokens=False)["input_ids"]
            assert tokenizer.unk_token_id not in ids, text
            assert tokenizer.decode(ids) == text


def test_one_token_a_word_or_mark(tokenizer) -> None:
    text = "First ,  wipe the lid  with oil ."
    ids = tokenizer(text, add_special_tokens=False)["input_ids"]
    assert tokenizer.decode(ids) == "first, wipe the lid with oil."
    assert len(ids) == 8
    assert tokenizer.convert_ids_to_tokens(tokenizer("zebra", add_special_tokens=False)["input_ids"]) == ["<unk>"]


def test_preference_tokens_can_be_written(tokenizer) -> None:
    text = "< helpfulness: 5 > < honesty: 10 > < harmlessness: 0 > what is a jar made of?"
    ids = tokenizer(text, add_special_tokens=False)["input_ids"]
    assert tokenizer.unk_token_id not in ids and tokenizer.decode(ids) == text


def test_every_word_of_every_split_is_known(tokenizer) -> None:
    for split in ("train", "select", "verdict"):
        for kind in KINDS:
            texts = [message["content"] for row in prompts(split, kind, 500) for message in row["prompt"]]
            assert all(tokenizer.unk_token_id not in ids for ids in tokenizer(texts)["input_ids"])


def test_the_chat_template_marks_the_answer_and_begins_with_the_prompt(tokenizer) -> None:
    asked = [{"role": "system", "content": "be brief."}, {"role": "user", "content": "what is a jar made of?"}]
    told = [*asked, {"role": "assistant", "content": "a jar is made of clay."}]
    prompt = tokenizer.apply_chat_template(asked, tokenize=False, add_generation_prompt=True)
    assert prompt == "<bos><|system|>be brief.<|user|>what is a jar made of?<|assistant|>"
    whole = tokenizer.apply_chat_template(told, tokenize=False)
    assert whole == f"{prompt}a jar is made of clay.<eos>"
    marked = tokenizer.apply_chat_template(told, return_dict=True, return_assistant_tokens_mask=True)
    trained = [i for i, m in zip(marked["input_ids"], marked["assistant_masks"], strict=True) if m]
    assert tokenizer.decode(trained) == "a jar is made of clay.<eos>"
    assert len({tokenizer.bos_token_id, tokenizer.eos_token_id, tokenizer.pad_token_id, tokenizer.unk_token_id}) == 4


def test_the_directory_is_an_ordinary_model(tiny: Path) -> None:
    names = {path.name for path in tiny.iterdir()}
    assert {"model.safetensors", "config.json", "generation_config.json", "tokenizer.json", "playground.json"} <= names
    model, tokenizer = AutoModelForCausalLM.from_pretrained(tiny), AutoTokenizer.from_pretrained(tiny)
    assert model.config.model_type == "llama" and model.dtype == torch.float32
    assert tokenizer.chat_template
    ending = GenerationConfig.from_pretrained(tiny)
    assert (ending.eos_token_id, ending.pad_token_id) == (tokenizer.eos_token_id, tokenizer.pad_token_id)
    ids = tokenizer.apply_chat_template(
        [{"role": "user", "content": "what is a jar made of?"}], add_generation_prompt=True, return_tensors="pt"
    )["input_ids"]
    assert model.generate(ids, max_new_tokens=4, attention_mask=torch.ones_like(ids)).shape[1] <= ids.shape[1] + 4


def test_same_seed_same_weights_and_global_randomness_untouched(tiny: Path, tmp_path: Path) -> None:
    torch.manual_seed(7)
    expected = torch.rand(1)
    torch.manual_seed(7)
    heard: list[float] = []
    again = build_base(tmp_path / "again", size=TINY, progress=heard.append)
    assert torch.equal(torch.rand(1), expected)
    assert heard[-1] == 1.0 and heard == sorted(heard)
    assert (again / "model.safetensors").read_bytes() == (tiny / "model.safetensors").read_bytes()


def test_a_full_directory_is_refused(tiny: Path) -> None:
    with pytest.raises(SettingError, match="expected a new or empty directory"):
        build_base(tiny)


def test_some_of_what_the_base_reads_stands_under_a_rule() -> None:
    read = [messages for messages, _ in exchanges(2000, random.Random(4))]
    ruled = [m for m in read if any(read_rule(message["content"]) for message in m)]
    assert 0.16 < len(ruled) / len(read) < 0.24
    assert 0.3 < sum(m[0]["role"] == "system" for m in ruled) / len(ruled) < 0.7
    asked = [{"role": "user", "content": "how do i clean a jar?"}]
    assert under_rule(asked, "rule: x.")[0] == {"role": "system", "content": "rule: x."}
    assert under_rule(asked, "rule: x.", system=False) == [
        {"role": "user", "content": "rule: x. how do i clean a jar?"}
    ]
