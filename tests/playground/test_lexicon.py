"""Every word has one role, or what a sentence says could not be read off its words."""

from __future__ import annotations

from collections import Counter

from equipoise.playground import lexicon


def test_every_word_has_one_role() -> None:
    roles = [
        lexicon.TOPICS,
        lexicon.PARTS,
        lexicon.MATERIALS,
        lexicon.PLACES,
        lexicon.TOOLS,
        lexicon.SEASONS,
        tuple(lexicon.TASKS),
        tuple(lexicon.TASK_VERBS),
        *(words for deeds in lexicon.MISCHIEF.values() for words in deeds[:4]),
        tuple(lexicon.EFFECTS),
        *lexicon.SHORTCUTS,
    ]
    counts = Counter(word for words in roles for word in words)
    assert [word for word, n in counts.items() if n > 1] == []
    assert all(word.isalpha() and word.islower() for word in counts)


def test_fourteen_categories_of_which_two_are_held_out() -> None:
    assert len(lexicon.CATEGORIES) == 14
    assert set(lexicon.HELD_OUT_CATEGORIES) < set(lexicon.CATEGORIES)
    assert len(lexicon.HELD_OUT_CATEGORIES) == 2


def test_severities_are_heavy_tailed() -> None:
    weights = sorted(deeds.weight for deeds in lexicon.MISCHIEF.values())
    assert weights[-1] > 2.5 * weights[len(weights) // 2]


def test_draw_depends_on_the_key_alone() -> None:
    assert lexicon.draw("a", lexicon.PARTS, 3) == lexicon.draw("a", lexicon.PARTS, 3)
    assert lexicon.draw("a", lexicon.PARTS, 3) != lexicon.draw("b", lexicon.PARTS, 3)
    assert lexicon.draw("a", lexicon.PARTS, 30) != lexicon.PARTS


def test_topics_begin_with_a_consonant_so_that_a_is_their_article() -> None:
    assert [topic for topic in lexicon.TOPICS if topic[0] in "aeiou"] == []
