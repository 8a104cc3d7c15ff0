"""Near-duplicates: similarities by hand, the block-wise search against comparing one by one, and real sets."""

from __future__ import annotations

import random
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest

from equipoise.data import duplicates
from equipoise.data.duplicates import Near, asked, exclude_near_duplicates, near_duplicates, similarity, words
from equipoise.data.relabel import split_by_prompt
from equipoise.data.sources import DataEntry, read_rows
from equipoise.errors import DataError, SettingError
from equipoise.playground.world import prompts
from equipoise.types import Message, SourceRow

TEN = "how long do i bake a loaf of rye bread"  # 10 words, 9 pairs


def row(name: str, *turns: str, system: str | None = None) -> dict[str, Any]:
    """A prompt row: user turns with an answer between them."""
    messages = [] if system is None else [{"role": "system", "content": system}]
    for number, turn in enumerate(turns):
        messages += [{"role": "assistant", "content": f"answer {number}"}] if number else []
        messages.append({"role": "user", "content": turn})
    return {"id": name, "prompt": messages}


def flagged(rows: Iterable[Any], against: Iterable[Any], **settings: float) -> int:
    return sum(near is not None for near in near_duplicates(list(rows), list(against), **settings))


# -- what is compared ------------------------------------------------------------------------------------------------


def test_case_punctuation_space_and_letter_variants_do_not_count():
    assert words("  What’s\tthe  “Ｂest” way—to store FLOUR?\n") == [
        "whats",
        "the",
        "best",
        "way",
        "to",
        "store",
        "flour",
    ]
    assert similarity("What's the best flour?", "whats THE best... flour") == 1.0
    assert words("面粉 怎么保存") == ["面", "粉", "怎", "么", "保", "存"]  # no spaces: each sign is a word
    assert words("?!") == []


def test_the_users_side_is_compared_and_nothing_else():
    dialogue = row("a", "first question", "second question", system="be brief")
    assert asked(dialogue["prompt"]) == "first question\nsecond question"
    (near,) = near_duplicates([row("b", TEN, system="be kind")], [row("a", TEN, system="be brief")])
    assert near == Near("a", 1.0)


# -- similarities by hand --------------------------------------------------------------------------------------------


def test_one_word_exchanged_in_the_middle_breaks_two_pairs_and_at_the_end_one():
    assert similarity(TEN, TEN.replace("loaf", "slice")) == 7 / 11  # 9 pairs each, 7 shared
    assert similarity(TEN, TEN.replace("bread", "rolls")) == 8 / 10
    assert similarity(TEN, "where may we park") == 0.0


def test_a_short_wrapper_around_the_same_prompt_is_the_same_prompt():
    assert similarity(TEN, f"my teacher asks. {TEN}") == 1.0
    assert similarity(f"{TEN}? please be quick.", TEN) == 1.0
    # 9 pairs and 9 + 4: one word exchanged as well leaves 7 shared, 7 / (2 x 9 - 7)
    assert similarity(TEN, "my good teacher asks " + TEN.replace("loaf", "slice")) == 7 / 11


def test_a_prompt_inside_a_much_longer_one_is_not_the_same_prompt():
    text = " ".join(f"word{i}" for i in range(9))  # 8 pairs more, and one where the two meet: 9 of 18 pairs
    assert similarity(TEN, f"{text} {TEN}") == 1.0
    assert similarity(TEN, f"one {text} {TEN}") == 9 / 19


def test_fragments_are_not_recognised_inside_longer_prompts():
    assert similarity("how do i bake", "how do i bake a loaf") == 3 / 5  # 3 pairs: too short to be forgiving
    assert similarity("bread", "bread") == 1.0
    assert similarity("bread", "rye bread") == 0.0
    assert similarity("", "") == similarity("?", "?") == 0.0


def test_of_dialogues_that_go_on_the_shorter_is_seen_in_the_longer():
    (near,) = near_duplicates([row("b", TEN, "and how long do rolls take")], [row("a", TEN)])
    assert near == Near("a", 1.0)


# -- the search ------------------------------------------------------------------------------------------------------


def test_the_nearest_is_named_and_ties_go_to_the_earlier_row():
    against = [row("far", "where may we park"), row("near", TEN.replace("bread", "rolls")), row("twin", TEN)]
    again = [*against, row("later twin", TEN.upper())]
    assert near_duplicates([row("a", TEN + "?")], again) == [Near("twin", 1.0)]
    assert near_duplicates([row("a", TEN), row("b", "?"), row("c", TEN)], against[:2]) == [
        *(Near("near", 0.8), None, Near("near", 0.8))
    ]
    assert near_duplicates([row("a", TEN)], against[:2], threshold=0.81) == [None]
    assert near_duplicates([row("a", TEN)], []) == [None]
    assert near_duplicates([], against) == []


@pytest.mark.parametrize("block", [1, 300, 10**9])
def test_blocks_find_what_comparing_one_by_one_finds(monkeypatch, block: int):
    monkeypatch.setattr(duplicates, "_BLOCK", block)
    rng = random.Random(5)
    texts = [" ".join(rng.choice("abc") for _ in range(rng.randrange(0, 12))) for _ in range(160)]
    rows = [row(str(i), text) for i, text in enumerate(texts)]
    mine, others = rows[:60], rows[60:]
    expected = []
    for one in mine:
        values = [similarity(one["prompt"][0]["content"], other["prompt"][0]["content"]) for other in others]
        best = max(values)
        expected.append(Near(others[values.index(best)]["id"], best) if best >= 0.6 else None)
    assert near_duplicates(mine, others, threshold=0.6) == expected
    assert 5 < sum(near is not None for near in expected) < 60


def test_excluded_rows_come_with_the_reason():
    source = SourceRow(id="s", prompt=(Message(role="user", content=TEN),))
    other = SourceRow(id="o", prompt=(Message(role="user", content="where may we park"),))
    kept, excluded = exclude_near_duplicates([source, other], [row("train-7", TEN.replace("bread", "rolls"))])
    assert kept == [other]
    assert [tuple(e) for e in excluded] == [
        ("s", "near-duplicate of a training prompt", "similarity 0.80 to training prompt train-7")
    ]
    assert exclude_near_duplicates([source, other], [row("a", TEN)], threshold=None) == ([source, other], [])
    assert exclude_near_duplicates(iter([source]), iter([row("a", TEN)]), threshold=1.0)[0] == []


def test_what_cannot_be_compared_is_refused():
    for threshold in (0, 1.5, float("nan")):
        with pytest.raises(SettingError, match="expected a similarity above 0 and up to 1, or off"):
            near_duplicates([row("a", TEN)], [], threshold=threshold)
    for prompt in ({}, {"prompt": "text"}):
        with pytest.raises(DataError, match="row 'x' has no list of messages under 'prompt'"):
            near_duplicates([{"id": "x", **prompt}], [])


# -- real and made-up sets -------------------------------------------------------------------------------------------


def read(folder: Path, name: str, axis: Any = None) -> list[SourceRow]:
    return list(read_rows(DataEntry(path=str(folder / name), axis=axis), dropped=[]))


def test_two_published_sets_share_prompts(shared_data: Path):
    concise = read(shared_data, "hummer_pref_test/conciseness_preference_test.jsonl", "better")
    tone = read(shared_data, "hummer_pref_test/tone_preference_test.jsonl", "better")
    found = near_duplicates(concise, tone)
    assert (len(found), sum(near is not None for near in found)) == (499, 80)
    assert sum(near is not None and near.similarity == 1 for near in found) == 44


def test_a_split_by_prompt_leaves_near_duplicates_on_both_sides(shared_data: Path):
    train, held = split_by_prompt(
        read(shared_data, "hh_rlhf_harmless_test/test.jsonl.gz", "safer"), test_fraction=0.25, seed=0
    )
    kept, excluded = exclude_near_duplicates(held, train)
    assert (len(held), len(kept), len(excluded)) == (587, 556, 31)
    assert flagged(kept, train) == 0


def test_lists_of_harmful_prompts_repeat_themselves(shared_data: Path):
    behaviours = read(shared_data, "advbench/harmful_behaviors.csv")
    assert flagged(behaviours[260:], behaviours[:260]) == 17
    catalogue, dangerous = (read(shared_data, f"red_instruct/{n}.json") for n in ("catqa_english", "dangerousqa"))
    assert flagged(dangerous, catalogue) == 0


def test_a_grammar_with_other_topics_needs_a_higher_threshold_and_still_shows_repeats():
    kinds = ("harmful", "borderline", "benign")
    train = [r for kind in kinds for r in prompts("train", kind, 1000)]
    verdict = [r for kind in kinds for r in prompts("verdict", kind, 300)]
    assert flagged(verdict, train, threshold=0.9) == 0, "sentences that differ in the topic alone"
    assert flagged(verdict, [*train, *verdict[::3]], threshold=0.9) >= 300
