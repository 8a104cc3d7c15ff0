"""The words of preference tokens: the base never reads them, and can tell them apart all the same."""

from __future__ import annotations

import random
from itertools import combinations
from pathlib import Path

import pytest
import torch

from equipoise.playground.base import exchanges
from equipoise.playground.shipped import unpack_base
from equipoise.playground.wanted import WANTED, tell_apart

WORDS = ("0", "1", "2", "3", "4", "5", "helpfulness", "honesty", "harmlessness")


@pytest.fixture(scope="module")
def both(tmp_path_factory: pytest.TempPathFactory):
    from transformers import AutoModelForCausalLM, AutoTokenizer

    root: Path = tmp_path_factory.mktemp("wanted")
    unpack_base(root / "base")
    assert tell_apart(root / "base", root / "apart") == 16
    models = [AutoModelForCausalLM.from_pretrained(root / name).float() for name in ("base", "apart")]
    return AutoTokenizer.from_pretrained(root / "apart"), *models


def vectors(model, tokenizer):
    ids = [tokenizer(word, add_special_tokens=False)["input_ids"] for word in WORDS]
    assert all(len(one) == 1 for one in ids)
    return model.get_input_embeddings().weight.detach()[[one[0] for one in ids]]


def test_nothing_the_base_reads_holds_these_words():
    unread = set(WANTED.replace(":", "").split())
    for messages, answer in exchanges(500, random.Random(0)):
        text = " ".join([*(message["content"] for message in messages), answer])
        assert not unread & set(text.lower().replace(":", " ").split())


def test_they_are_one_word_before_and_several_after(both):
    tokenizer, base, apart = both
    for model, check in ((base, lambda cosine: cosine > 0.99), (apart, lambda cosine: cosine < 0.95)):
        rows = torch.nn.functional.normalize(vectors(model, tokenizer), dim=1)
        cosines = rows @ rows.T
        assert all(check(cosines[a, b].item()) for a, b in combinations(range(len(WORDS)), 2))


def test_answers_stay_as_likely_as_they_were(both):
    tokenizer, base, apart = both
    for messages, answer in exchanges(20, random.Random(1)):
        text = tokenizer.apply_chat_template([*messages, {"role": "assistant", "content": answer}], tokenize=False)
        ids = tokenizer(text, add_special_tokens=False, return_tensors="pt")["input_ids"]
        with torch.no_grad():
            before, after = (model(ids).logits.log_softmax(-1)[0, :-1] for model in (base, apart))
        picked = ids[0, 1:, None]
        gap = (before.gather(1, picked) - after.gather(1, picked)).abs().max()
        assert gap < 0.02, "nats a token"
