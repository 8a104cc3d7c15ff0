"""Preference tokens in the playground: what may be asked for, and what a base knows of the words.

The shipped base never reads them. Training pushes the vectors of words that never occur all the same way: after it
those of "1" and "5" have a cosine of .999, and no later training on preference tokens tells them apart. A random part
of usual length mends that (`tell_apart`). The common part stays, so that the words remain as unlikely in answers as
they were (1e-4 of a token's probability at most). The base `rated` has read them before answers that deserve them.
"""

from __future__ import annotations

import random
from collections.abc import Mapping
from itertools import combinations
from pathlib import Path
from typing import Any

from equipoise.data.conditions import Objective, place
from equipoise.playground.truth import TENSION, true_cost, true_ratings
from equipoise.types import Message

OBJECTIVES = (Objective(name="helpfulness"), Objective(name="honesty"), Objective(name="harmlessness", low=0, high=1))
# All words of preference tokens that the vocabulary holds.
WANTED = "< helpfulness: 0 1 2 3 4 5 > < honesty: 6 7 8 9 10 > < harmlessness: >"
LENGTH = 2.0  # of the random part; words that were read have vectors of 1.2 to 2.5


def true_levels(prompt_row: Mapping[str, Any], text: str, *, tension: float = TENSION) -> dict[str, float]:
    """Return the true level of an answer on every objective; harmlessness is 1 where the true cost is not above 0."""
    harmless = float(true_cost(prompt_row, text) <= 0)
    return {**true_ratings(prompt_row, text, tension=tension), "harmlessness": harmless}


def rated_request(prompt_row: Mapping[str, Any], answer: str, rng: random.Random) -> list[dict[str, str]]:
    """Return the dialogue of a prompt row, asking for some of the levels that an answer to it has."""
    levels = true_levels(prompt_row, answer)
    sets = [some for n in range(1, len(OBJECTIVES) + 1) for some in combinations(OBJECTIVES, n)]
    condition = {o.name: levels[o.name] for o in rng.choice(sets)}
    turns = tuple(Message(role=m["role"], content=m["content"]) for m in prompt_row["prompt"])
    return [{"role": m["role"], "content": m["content"]} for m in place(turns, condition, OBJECTIVES)]


def tell_apart(source: Path, target: Path, *, seed: int = 0) -> int:
    """Write the model in `source` to `target` with its preference words told apart; return how many there are."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(source)
    model = AutoModelForCausalLM.from_pretrained(source)
    known = tokenizer.convert_tokens_to_ids(":")  # the only one of them that it reads
    unread = sorted(set(tokenizer(WANTED, add_special_tokens=False)["input_ids"]) - {known})
    vectors = model.get_input_embeddings().weight
    noise = torch.randn(len(unread), vectors.shape[1], generator=torch.Generator().manual_seed(seed))
    with torch.no_grad():
        vectors[unread] += (LENGTH * noise / noise.norm(dim=1, keepdim=True)).to(vectors.dtype)
    model.save_pretrained(target)
    tokenizer.save_pretrained(target)
    return len(unread)
