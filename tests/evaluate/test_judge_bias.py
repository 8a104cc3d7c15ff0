"""Biases of judges of pairs: hand-made verdicts, names, sentences."""

from __future__ import annotations

import pytest

from contests import judged
from equipoise.evaluate.judge_bias import Contest, against_labels, bias_sentences, biases, consistency, headline

FOUR = [
    Contest("p1", (30, 10), 1.0, 1.0),  # right in both orders, the right one longer
    Contest("p2", (10, 30), 1.0, 0.0),  # whichever is shown first
    Contest("p3", (10, 30), 0.0, 0.0),  # the longer one, wrongly
    Contest("p4", (10, 10), 0.5, 1.0),
    Contest("p5", (30, 10), None, 1.0),
]


def found_in(contests: list[Contest], *, labelled: bool = True) -> list[str]:
    return [one["name"] for one in biases(contests, labelled=labelled) if one["found"]]


def test_accuracy_and_consistency_by_hand():
    found = against_labels(FOUR, source="by hand")
    assert found["accuracy"]["mean"] == pytest.approx((1 + 0.5 + 0 + 0.75) / 4)
    assert (found["accuracy"]["unscored"], found["n"]) == (1, 5)
    assert found["longer_wins"]["mean"] == pytest.approx((1 + 0 + 0 + 0.5) / 4)
    assert found["chose_longer"]["mean"] == pytest.approx((1 + 0.5 + 1) / 3)
    assert found["right_where_longer"]["mean"] == 1.0
    assert found["right_where_shorter"]["mean"] == pytest.approx(0.25)
    assert consistency(FOUR)["mean"] == pytest.approx(2 / 4)


def test_the_share_of_the_first_place_by_hand():
    place, longer = biases(FOUR, labelled=True)
    assert place["estimate"]["mean"] == pytest.approx((0.5 + 1 + 0.5 + 0.25) / 4)
    assert (place["found"], place["fair"]) == (False, 0.5)
    assert longer["estimate"]["mean"] is None
    assert "cannot be told" in longer["sentence"]


def test_each_planted_bias_is_found_by_its_name_and_no_other():
    assert found_in(judged(300, first=0.4, longer=0)) == ["prefers the first answer"]
    assert found_in(judged(300, first=0, longer=0.4)) == ["prefers the longer answer"]
    assert found_in(judged(300, first=0.3, longer=0.3)) == ["prefers the first answer", "prefers the longer answer"]
    assert found_in(judged(300, first=0, longer=0)) == []


def test_estimates_say_how_many_verdicts_go_by_it():
    place, longer = biases(judged(4000, first=0.3, longer=0.2), labelled=True)
    assert 2 * place["estimate"]["mean"] - 1 == pytest.approx(0.3, abs=0.03)
    assert 2 * longer["estimate"]["mean"] - 1 == pytest.approx(0.2, abs=0.04)
    assert "its verdicts went by length alone" in longer["sentence"]


def test_opposite_biases_have_names_of_their_own():
    turned = [c._replace(before=c.after, after=c.before) for c in judged(300, first=0.4, longer=0)]
    assert found_in(turned) == ["prefers the second answer"]
    shorter = [c._replace(lengths=c.lengths[::-1]) for c in judged(300, first=0, longer=0.4)]
    assert found_in(shorter) == ["prefers the shorter answer"]


def test_without_labels_a_preference_for_length_is_a_suspicion():
    contests = [c._replace(model="new") for c in judged(300, first=0, longer=0.5)]
    place, longer = biases(contests, labelled=False)
    assert (longer["found"], longer["suspicion"]) == (True, True)
    assert longer["name"] == "may prefer the longer answer"
    assert "only a suspicion" in longer["sentence"]
    assert not place["found"]


def test_a_model_that_is_better_is_no_bias_for_length():
    better = [Contest(f"p{i}", (20, 10) if i % 4 else (10, 20), 1.0, float(i % 5 > 0), "new") for i in range(200)]
    assert not biases(better, labelled=False)[1]["found"]


def test_refusals_are_looked_at_where_the_right_answer_is_known():
    contests = [
        Contest(f"p{i}", (10, 10), float(i % 2), float(i % 2), refuses=(i % 2 == 1, i % 2 == 0)) for i in range(40)
    ]
    named = {one["name"]: one["found"] for one in biases(contests, labelled=True)}
    assert named["prefers refusals"]  # wins where it is right and where it is wrong
    assert all("refusals" not in one["name"] for one in biases(contests, labelled=False))


def test_a_family_of_two_tests_is_stricter_than_either():
    one = biases(judged(300, first=0.1, longer=0.1), labelled=True)
    assert all("Holm over 2 tests" in bias["sentence"] for bias in one)
    assert max(bias["p"] for bias in one) <= 1


def test_words_name_what_was_found_first():
    section = {"name": "judge better v1", "biases": biases(judged(300, first=0, longer=0.4), labelled=True)}
    assert headline(section) == "judge better v1 prefers the longer answer."
    assert bias_sentences(section)[0].startswith("It prefers the longer answer: the longer answer wins")
    fair = {"name": "judge", "biases": biases(judged(300, first=0, longer=0), labelled=True)}
    assert headline(fair) == (
        "judge: neither a preference for the first answer nor a preference for the longer answer was found."
    )
    none = {"name": "judge", "biases": biases([], labelled=True)}
    assert "cannot be told from so few pairs" in headline(none)
