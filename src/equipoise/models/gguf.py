"""Small GGUF models become plain Hugging Face directories."""

from __future__ import annotations

import logging
import shutil
import tempfile
from pathlib import Path

from equipoise.data.templates import resolve_template
from equipoise.errors import DataError, SettingError

logger = logging.getLogger(__name__)

_MAGIC = b"GGUF"


def import_gguf(src: Path, out: Path, *, chat_template: str) -> Path:
    """Write the Llama of the GGUF file `src` to the directory `out` in float32, as if it had been trained here.

    `chat_template` is a named template or a .jinja file (GGUF files of base models bring none). Tensors that are
    quantized in the file come out dequantized. Raises DataError for a file that is not a GGUF Llama with its tokenizer
    inside, SettingError where the gguf package is missing.
    """
    template = resolve_template(chat_template)
    if not src.is_file():
        raise DataError(f"{src} is not a file, expected a GGUF model")
    with src.open("rb") as file:
        if file.read(len(_MAGIC)) != _MAGIC:
            raise DataError(f"{src} is not a GGUF file: it does not begin with {_MAGIC.decode()}")
    out.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=out) as work:
        copy = Path(shutil.copy(src, Path(work) / "model.gguf"))
        _mend_special_ids(copy, src)
        _convert(copy, out, template)
    logger.info("imported %s to %s", src, out)
    return out


def _mend_special_ids(copy: Path, src: Path) -> None:
    """Point special ids outside the vocabulary to the end token.

    llama.cpp writes 4294967295 (-1 as unsigned) for "there is none", and transformers takes that for an embedding row.
    """
    try:
        from gguf import GGUFReader
    except ModuleNotFoundError as error:
        raise SettingError("reading GGUF files needs the gguf package: pip install 'equipoise[gguf]'") from error
    reader = GGUFReader(copy, "r+")
    architecture = reader.get_field("general.architecture")
    if architecture is None or architecture.contents() != "llama":
        got = "none" if architecture is None else architecture.contents()
        raise DataError(f"{src} holds a model of architecture {got}, expected llama")
    tokens = reader.get_field("tokenizer.ggml.tokens")
    end = reader.get_field("tokenizer.ggml.eos_token_id")
    if tokens is None or end is None:
        raise DataError(f"{src} holds no tokenizer with an end token, so it cannot be used by itself")
    for name, field in reader.fields.items():
        if name.startswith("tokenizer.ggml.") and name.endswith("_token_id") and field.contents() >= len(tokens.data):
            logger.info(
                "%s is %d in %s, outside the vocabulary; the end token takes its place", name, field.contents(), src
            )
            field.parts[field.data[0]][0] = end.contents()
    reader.data.flush()


def _convert(copy: Path, out: Path, template: str) -> None:
    import torch
    from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM

    loaded = LlamaForCausalLM.from_pretrained(copy.parent, gguf_file=copy.name, dtype=torch.float32)
    tokenizer = AutoTokenizer.from_pretrained(copy.parent, gguf_file=copy.name)
    # The loaded model calls itself quantized, which forbids training; a fresh one with the same weights does not.
    settings = loaded.config.to_dict()
    del settings["quantization_config"]
    fresh = LlamaForCausalLM(LlamaConfig(**settings))
    fresh.load_state_dict(loaded.state_dict())
    fresh.generation_config = loaded.generation_config
    fresh.save_pretrained(out)
    tokenizer.chat_template = template
    tokenizer.model_max_length = fresh.config.max_position_embeddings
    tokenizer.save_pretrained(out)
