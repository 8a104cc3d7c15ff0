"""World 1.0 is frozen: its prompts, answers, truth, labels and base are what they were when figures were published.

A digest that differs means another world: raise WORLD_VERSION, make the base again, and measure every figure anew.
"""

from __future__ import annotations

import hashlib
import json
import random
from typing import Any

from equipoise.playground import truth
from equipoise.playground.annotators import annotate
from equipoise.playground.answers import base_answer
from equipoise.playground.base import exchanges
from equipoise.playground.lexicon import THINGS, WORLD_VERSION
from equipoise.playground.shipped import WEIGHTS
from equipoise.playground.world import KINDS, SPLITS, draw_prompt, prompts


def digest(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()[:16]


def test_version() -> None:
    assert WORLD_VERSION == "1.0"


def test_what_is_asked_and_what_is_true_of_things() -> None:
    assert digest([prompts(split, kind, 60, 1) for split in SPLITS for kind in KINDS]) == "f765331f9c790e4f"
    things = {name: [t.parts, t.material, t.place, t.tool, t.season] for name, t in THINGS.items()}
    assert digest(things) == "9c07dd17b2d3faa4"


def test_what_the_base_reads() -> None:
    assert digest(list(exchanges(300, random.Random(1)))) == "81f412b1177045b2"


def test_what_is_true_and_how_people_label() -> None:
    rng = random.Random(2)
    found = []
    for kind in KINDS:
        for _ in range(60):
            prompt = draw_prompt("train", kind, rng)
            row, texts = prompt.row(), [base_answer(prompt.ask, rng) for _ in range(2)]
            scores = [
                [
                    round(truth.true_reward(row, text), 6),
                    round(truth.true_cost(row, text), 6),
                    truth.true_severity(row, text),
                    truth.over_refused(row, text),
                    truth.true_ratings(row, text),
                ]
                for text in texts
            ]
            said = annotate(row, *texts, seed=3)
            flags = [[r.safe, r.severity, list(r.harm_categories), dict(r.ratings)] for r in said.responses]
            found.append([scores, said.better, said.safer, flags])
    assert digest(found) == "6564dab60ef1e066"


def test_the_base_that_ships() -> None:
    weights = hashlib.sha256((WEIGHTS / "model.safetensors").read_bytes()).hexdigest()[:16]
    assert weights == "00b6e7d333ef8bcd"
