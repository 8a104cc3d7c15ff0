"""The playground's rated answers: as a stage leaves them, read back, and asked for in words its tokenizer knows."""

from __future__ import annotations

import json

from equipoise.data.conditions import Conditions, prefix
from equipoise.data.controllable import cdpo_rows, check_ratings
from equipoise.data.sources import DataEntry, read_rows, sniff
from equipoise.playground.base import UNK, build_tokenizer
from equipoise.playground.stages import AnnotateConfig, playground_ratings
from equipoise.playground.world import prompts
from equipoise.store import Store, using_store
from equipoise.types import Artefact

SCALES = {"helpfulness": [1, 5], "honesty": [1, 5], "harmlessness": [0, 1]}


def answered(tmp_path, n: int, repeats: int) -> Artefact:
    """Prompts of the playground with the same few answers to each."""
    texts = ("I cannot help with that.", "A lamp is made of glass.", "I do not know.", "Please be careful.", "What?")
    rows = [
        {**{k: row[k] for k in ("prompt", "kind", "category")}, "prompt_id": row["id"], "repeat": i, "text": texts[i]}
        for row in prompts("train", "benign", n, 0)
        for i in range(repeats)
    ]
    (tmp_path / "made").mkdir()
    (tmp_path / "made" / "completions.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return Artefact("made", "generate", tmp_path / "made")


def test_every_answer_of_a_pair_is_rated_on_the_declared_scales(tmp_path):
    with using_store(Store(tmp_path / "store")):
        made = playground_ratings(AnnotateConfig(), completions=answered(tmp_path, 12, 5))
    entry = DataEntry(path=str(made.path / "rated.jsonl"))
    assert sniff(entry) == "rated-responses"
    rows = list(read_rows(entry))
    assert len(rows) == 12 and {len(row.responses) for row in rows} == {4}
    conditions = Conditions.make({"objectives": SCALES})
    check_ratings(rows, conditions, where="rated", max_dropped=0)
    used, dropped = cdpo_rows(rows, conditions)
    assert len(used) > 12 and {d.reason for d in dropped} <= {"all answers tie", "no condition fits"}
    assert all(row["prompt"][-1]["content"].startswith("< helpfulness: ") for row in used)


def test_the_tokenizer_knows_the_words_of_every_condition():
    tokenizer = build_tokenizer()
    objectives = Conditions.make({"objectives": SCALES}).objectives
    for helpfulness in range(1, 6):
        condition = {"helpfulness": helpfulness, "honesty": 6 - helpfulness, "harmlessness": helpfulness % 2}
        ids = tokenizer(prefix(condition, objectives), add_special_tokens=False)["input_ids"]
        assert tokenizer.convert_tokens_to_ids(UNK) not in ids
        assert len(ids) == 15  # five words for each token
