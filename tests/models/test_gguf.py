"""A GGUF Llama comes out as a directory that everything else can load."""

from __future__ import annotations

import json

import pytest
import torch

from equipoise.errors import DataError, SettingError
from equipoise.generate import Sampling, generate
from equipoise.models.gguf import import_gguf

gguf = pytest.importorskip("gguf", reason="needs the gguf extra")


@pytest.fixture(scope="module")
def source(shared_data):
    path = shared_data / "stories260K" / "stories260K.gguf"
    if not path.is_file():
        pytest.skip(f"{path} is missing")
    return path


@pytest.fixture(scope="module")
def imported(source, tmp_path_factory):
    return import_gguf(source, tmp_path_factory.mktemp("gguf") / "model", chat_template="plain")


@pytest.fixture(scope="module")
def loaded(imported):
    from transformers import AutoModelForCausalLM, AutoTokenizer

    return AutoModelForCausalLM.from_pretrained(imported), AutoTokenizer.from_pretrained(imported)


def test_weights_are_those_of_the_file(source, loaded):
    model, tokenizer = loaded
    tensors = {tensor.name: tensor for tensor in gguf.GGUFReader(source).tensors}
    embeddings = torch.tensor(tensors["token_embd.weight"].data.copy())
    assert torch.equal(model.model.embed_tokens.weight, embeddings)
    assert torch.equal(model.lm_head.weight, torch.tensor(tensors["output.weight"].data.copy()))
    assert sum(tensor.data.size for tensor in tensors.values()) == sum(p.numel() for p in model.parameters())
    assert len(tokenizer) == model.config.vocab_size == 512


def test_directory_is_plain(imported, loaded):
    model, tokenizer = loaded
    config = json.loads((imported / "config.json").read_text())
    assert "quantization_config" not in config
    assert config["pad_token_id"] == 2  # 4294967295 in the file
    assert not list(imported.glob("*.gguf"))
    assert {path.suffix for path in imported.iterdir()} <= {".json", ".jinja", ".safetensors"}
    assert (tokenizer.bos_token_id, tokenizer.eos_token_id, tokenizer.pad_token_id) == (1, 2, 2)
    assert model.generation_config.eos_token_id == 2


def test_it_reads_stories(loaded, shared_data):
    """About 1.3 nats a token on stories it was trained for; a wrong tokenizer or a permuted head gives 6."""
    model, tokenizer = loaded
    text = (shared_data / "tinystories" / "tinystories_10k.txt").read_text(encoding="utf-8")[:1500]
    ids = torch.tensor([tokenizer(text)["input_ids"][:500]])
    with torch.no_grad():
        assert model(input_ids=ids, labels=ids).loss.item() < 2.0


def test_it_answers_through_its_template(loaded):
    model, tokenizer = loaded
    prompt = {"id": "a", "prompt": [{"role": "user", "content": "Once upon a time"}]}
    (row,) = generate(model, tokenizer, [prompt], Sampling(temperature=0, max_new_tokens=40))
    assert row["n_tokens"] > 5
    assert sum(word.isalpha() for word in row["text"].split()) >= 5


def test_wrong_files_are_refused(tmp_path, source):
    text = tmp_path / "model.gguf"
    text.write_text("not a model")
    with pytest.raises(DataError, match="not a GGUF file"):
        import_gguf(text, tmp_path / "out", chat_template="plain")
    with pytest.raises(DataError, match="is not a file"):
        import_gguf(tmp_path / "missing.gguf", tmp_path / "out", chat_template="plain")
    with pytest.raises(SettingError, match="did you mean 'plain'"):
        import_gguf(source, tmp_path / "out", chat_template="plane")
    assert not (tmp_path / "out").exists()


def test_other_architectures_are_refused(tmp_path):
    writer = gguf.GGUFWriter(tmp_path / "other.gguf", "mamba")
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    with pytest.raises(DataError, match="architecture mamba, expected llama"):
        import_gguf(tmp_path / "other.gguf", tmp_path / "out", chat_template="plain")
