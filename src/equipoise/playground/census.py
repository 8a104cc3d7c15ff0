"""What the world and a base of it are like, in figures: the requirements of docs/playground.md, measured.

`python -m equipoise.playground.census [DIR]` prints them as JSON, for the shipped base unless told otherwise.
"""

from __future__ import annotations

import json
import os
import random
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize  # type: ignore[import-untyped]
from scipy.special import expit  # type: ignore[import-untyped]

from equipoise.playground.annotators import annotate
from equipoise.playground.answers import base_answer
from equipoise.playground.base import under_rule
from equipoise.playground.lexicon import CATEGORIES, HELD_OUT_CATEGORIES
from equipoise.playground.rules import write_rule
from equipoise.playground.shipped import unpack_base
from equipoise.playground.truth import over_refused, true_cost, true_reward, true_severity
from equipoise.playground.world import KINDS, ask_of, draw_prompt, pretext_of, prompts
from equipoise.statistics.optimum import Pool, best
from equipoise.types import SourceRow

Row = Mapping[str, Any]


class Said(NamedTuple):
    """Prompt rows and one answer to each."""

    rows: Sequence[Row]
    texts: Sequence[str]

    def unsafe(self) -> NDArray[np.bool_]:
        """Which answers are unsafe, (n,)."""
        return np.array([true_cost(row, text) > 0 for row, text in zip(self.rows, self.texts, strict=True)])

    def rewards(self) -> NDArray[np.float64]:
        """True rewards, (n,)."""
        return np.array([true_reward(row, text) for row, text in zip(self.rows, self.texts, strict=True)])


class Speaker:
    """A base that answers prompt rows at temperature 1; leaves torch's global random state as it was."""

    def __init__(self, path: str | os.PathLike[str]) -> None:
        import torch
        from transformers import AutoModelForCausalLM, AutoTokenizer

        self.model = AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32)
        self.tokenizer = AutoTokenizer.from_pretrained(path)

    def say(self, rows: Sequence[Row], *, seed: int = 0, batch: int = 256) -> Said:
        """Answer each row once."""
        import torch

        template = self.tokenizer.apply_chat_template
        texts = [template(row["prompt"], tokenize=False, add_generation_prompt=True) for row in rows]
        found: list[str] = []
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            for at in range(0, len(texts), batch):
                inputs = self.tokenizer(
                    texts[at : at + batch], add_special_tokens=False, return_tensors="pt", padding=True
                )
                ids, mask = inputs["input_ids"], inputs["attention_mask"]
                out = self.model.generate(input_ids=ids, attention_mask=mask, max_new_tokens=64)
                found += self.tokenizer.batch_decode(out[:, ids.shape[1] :], skip_special_tokens=True)
        return Said(rows, found)


def auc(scores: NDArray[np.float64], truth: NDArray[np.bool_]) -> float:
    """Probability that a true case scores higher than a false one, ties counting half."""
    yes, no = scores[truth], scores[~truth]
    return float((yes[:, None] > no).mean() + 0.5 * (yes[:, None] == no).mean())


def word_auc() -> float:
    """How well a bag of words fitted on `select` tells harmful from borderline prompts of `verdict`."""

    def bags(split: str) -> tuple[list[set[str]], NDArray[np.bool_]]:
        rows = [row for kind in ("borderline", "harmful") for row in prompts(split, kind, 1000)]
        words = [{w.strip(".,?") for turn in row["prompt"] for w in turn["content"].split()} for row in rows]
        return words, np.array([row["kind"] == "harmful" for row in rows])

    train, labels = bags("select")
    place = {word: i for i, word in enumerate(sorted(set().union(*train)))}

    def matrix(sets: Sequence[set[str]]) -> NDArray[np.float64]:
        found = np.zeros((len(sets), len(place)))
        for line, words in enumerate(sets):
            found[line, [place[word] for word in words if word in place]] = 1.0
        return found

    has = matrix(train)
    has -= has.mean(axis=0)

    def loss(weights: NDArray[np.float64]) -> tuple[float, NDArray[np.float64]]:
        odds = has @ weights
        value = np.logaddexp(0, odds).sum() - odds[labels].sum() + 0.5 * np.square(weights).sum()
        return float(value), has.T @ (expit(odds) - labels) + weights

    weights = minimize(loss, np.zeros(len(place)), jac=True, method="L-BFGS-B").x
    test, truth = bags("verdict")
    return auc(matrix(test) @ weights, truth)


def people(pairs: int = 6000) -> dict[str, float]:
    """How the annotators label pairs that the untrained assistant wrote."""
    rng = random.Random("census")
    drawn = [draw_prompt("train", kind, rng) for kind in rng.choices(KINDS, (0.3, 0.25, 0.45), k=pairs)]
    written = [(prompt.row(), base_answer(prompt.ask, rng), base_answer(prompt.ask, rng)) for prompt in drawn]
    written = [(row, one, two) for row, one, two in written if one != two]
    first, second = ([annotate(*pair, seed) for pair in written] for seed in (1, 2))
    lengths = np.array([[text.count(" ") for text in pair[1:]] for pair in written])
    apart = lengths[:, 0] != lengths[:, 1]
    longer = (lengths[:, 1] > lengths[:, 0]).astype(int)

    def chosen(rows: Sequence[SourceRow], axis: str) -> NDArray[np.int64]:
        return np.array([row.better if axis == "better" else row.safer for row in rows])

    found: dict[str, float] = {}
    for axis in ("better", "safer"):
        found[f"agreement_{axis}"] = float((chosen(first, axis) == chosen(second, axis)).mean())
        found[f"longer_{axis}"] = float((chosen(first, axis) == longer)[apart].mean())
    found["same_answer_better_and_safer"] = float((chosen(first, "better") == chosen(first, "safer")).mean())
    return found


def speech(base: Speaker, *, n: int = 1050) -> dict[str, Any]:
    """What a base says to verdict prompts."""
    said = {kind: base.say(prompts("verdict", kind, n)) for kind in KINDS}
    harmful = said["harmful"]
    unsafe = harmful.unsafe()
    first = np.array([text.split()[0] if text else "" for text in harmful.texts])
    half = len(first) // 2
    shares = {word: unsafe[:half][first[:half] == word].mean() for word in set(first[:half])}
    families = np.array([pretext_of(ask_of(row).wrapper) or "none" for row in harmful.rows])
    held = np.array([row["category"] in HELD_OUT_CATEGORIES for row in harmful.rows])
    turns = np.array([len(row["prompt"]) > 1 for row in harmful.rows])
    graded = np.bincount([true_severity(row, text) for row, text in zip(*harmful, strict=True)], minlength=4)
    refused = [over_refused(row, text) for row, text in zip(*said["borderline"], strict=True)]
    return {
        "unsafe_rate": float(unsafe.mean()),
        "unsafe_rate_held_out_categories": float(unsafe[held].mean()),
        "unsafe_rate_second_turns": float(unsafe[turns].mean()),
        "unsafe_rate_by_pretext": {name: float(unsafe[families == name].mean()) for name in sorted(set(families))},
        "harmful_answers_to_benign": float(said["benign"].unsafe().mean()),
        "over_refusal": float(np.mean(refused)),
        "reward": {kind: float(said[kind].rewards().mean()) for kind in KINDS},
        "severity_shares": [float(x) for x in graded[1:] / graded[1:].sum()],
        "first_word_auc": auc(np.array([shares.get(word, 0.5) for word in first[half:]]), unsafe[half:]),
        "words_an_answer": float(np.mean([text.count(" ") + 1 for one in said.values() for text in one.texts])),
    }


def obedience(base: Speaker, *, n: int = 600) -> dict[str, float]:
    """Unsafe rate on harmful prompts without a rule and under rules, one of them about another category."""
    rng = random.Random("rules")
    rows = [row for row in prompts("verdict", "harmful", n) if len(row["prompt"]) == 1]
    elsewhere = {name: CATEGORIES[place - 3] for place, name in enumerate(CATEGORIES)}

    def unsafe(rule: Callable[[Row], str]) -> float:
        ruled = [{**row, "prompt": under_rule(row["prompt"], rule(row))} for row in rows]
        return float(base.say(ruled, seed=2).unsafe().mean())

    return {
        "none": float(base.say(rows, seed=2).unsafe().mean()),
        "general": unsafe(lambda row: write_rule("general", None, rng).text),
        "narrow": unsafe(lambda row: write_rule("narrow", row["category"], rng).text),
        "broad": unsafe(lambda row: write_rule("broad", row["category"], rng).text),
        "narrow_about_another_category": unsafe(lambda row: write_rule("narrow", elsewhere[row["category"]], rng).text),
    }


def feasibility(base: Speaker, *, asked: int = 25, answers: int = 64, kl: float = 3.0) -> dict[str, float]:
    """What share of the reward beyond the base's an optimum within `kl` nats and 5 % unsafe keeps, cautiously.

    Reward 1 stands for the optimum without limits, which is beyond reach, and `low` is an interval's lower end.
    """
    rows = [row for kind in KINDS for row in prompts("verdict", kind, asked)]
    said = base.say([row for row in rows for _ in range(answers)], seed=4)
    pool = Pool(
        prompt=np.repeat(np.arange(len(rows)), answers),
        source=np.zeros(len(said.texts), dtype=np.int64),
        logps=np.zeros((len(said.texts), 1)),  # of one policy alone they do not matter
        reward=said.rewards(),
        cost=np.array([true_cost(row, text) for row, text in zip(*said, strict=True)]),
        kinds=tuple(row["kind"] for row in rows),
    )
    found = best(pool, kl=kl, unsafe_rate=0.05)
    start, low = float(said.rewards().mean()), found.reward.low
    assert low is not None
    return {
        "kl": found.tilt.kl.mean,
        "base": start,
        "optimum": found.reward.mean,
        "low": low,
        "share": (low - start) / (1 - start),
    }


def census(base: Speaker) -> dict[str, Any]:
    """Everything above."""
    return {
        "parameters": base.model.num_parameters(),
        "word_auc": word_auc(),
        "people": people(),
        "speech": speech(base),
        "rules": obedience(base),
        "feasibility": feasibility(base),
    }


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as scratch:
        where = sys.argv[1] if len(sys.argv) > 1 else unpack_base(f"{scratch}/model")
        sys.stdout.write(json.dumps(census(Speaker(where)), indent=1) + "\n")
