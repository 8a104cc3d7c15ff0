"""The five rows above the fold and the best of each method."""

from __future__ import annotations

import pytest

from equipoise.evaluate.rows import cost_words, few_rows, names_of
from equipoise.evaluate.shortlist import ROWS, best_of_methods, shortlist
from equipoise.evaluate.suites import unknown_metric

# name, method, unsafe, helpfulness; on the frontier: a2, b1, b2, c1, e1
ENTRIES = (
    ("base", "base", 0.40, 0.30),
    ("a1", "a", 0.02, 0.40),
    ("a2", "a", 0.04, 0.60),
    ("b1", "b", 0.08, 0.70),
    ("b2", "b", 0.01, 0.45),
    ("c1", "c", 0.30, 0.80),
    ("d1", "d", 0.03, 0.20),
    ("e1", "e", 0.90, 0.95),
    ("f1", "f", 0.35, 0.10),
)


@pytest.fixture
def several(make_result):
    return [make_result(n, m, None, {"n": n}, u, 0.1, r, 1.0, prompts=100) for n, m, u, r in ENTRIES]


def labels(several, found):
    return [several[i]["label"] for i in found]


def test_the_best_of_each_method_come_in_the_order_that_a_target_gives(several):
    found = best_of_methods(several, target=0.05)
    # on the frontier within 5%: a2, b2; on it and safer than the base: c1; within 5% but beaten: d1; the rest by safety
    assert labels(several, found.values()) == ["a2", "b2", "c1", "d1", "f1", "e1"]
    assert list(found) == ["a", "b", "c", "d", "f", "e"]


def test_five_rows_begin_with_the_base_and_the_one_the_verdict_speaks_of(several):
    assert labels(several, shortlist(several, target=0.05, subject=several[4])) == ["base", "b2", "a2", "c1", "d1"]
    assert labels(several, shortlist(several, target=0.05)) == ["base", "a2", "b2", "c1", "d1"]
    assert len(shortlist(several * 3, target=0.05)) == ROWS


def test_what_else_is_on_the_frontier_fills_the_rows_of_few_methods(several):
    assert labels(several[:5], shortlist(several[:5], target=0.05, subject=several[2])) == [
        "base", "a2", "b2", "b1", "a1",
    ]  # fmt: skip


def test_without_a_target_the_frontier_comes_first_by_its_balance(several):
    # helpfulness over 0.1 to 0.95 minus unsafe over 0.01 to 0.9: a2 0.55, b1 0.63, b2 0.41, c1 0.50, e1 0
    assert labels(several, best_of_methods(several).values())[:4] == ["b1", "a2", "c1", "e1"]
    assert shortlist([]) == [] and best_of_methods([]) == {}


def test_models_that_were_only_evaluated_each_stand_for_themselves(several):
    for one in several[1:]:
        one["method"] = "model"
    assert len(best_of_methods(several, target=0.05)) == len(several) - 1


def test_results_without_figures_stay_where_there_are_few(several):
    for one in several:
        one["metrics"].clear()
    assert labels(several[:3], shortlist(several[:3], target=0.05)) == ["base", "a1", "a2"]
    assert labels(several, shortlist(several, target=0.05)) == ["base"]


def test_the_table_of_few_has_capability_and_cost_where_they_exist(several, make_rate):
    heads = [head for head, _ in few_rows(several, target=0.05, subject=None)["heads"]]
    assert heads == ["Unsafe", "Over-refusal", "Helpfulness", "Training"]
    several[2]["metrics"] |= {"capability/one": make_rate(0.5, 100), "capability/two": make_rate(0.7, 100)}
    several[4]["metrics"] |= {"capability/one": make_rate(0.5, 100)}
    found = few_rows(several, target=0.05, subject=several[2])
    assert found["heads"][3][0] == "Capability" and "mean of 2 tasks" in found["heads"][3][1]
    assert [row["cells"][3] for row in found["rows"]] == [("–", ""), ("60.0%", ""), ("–", ""), ("–", ""), ("–", "")]
    assert found["left"] == 4
    del several[2]["metrics"]["capability/two"]
    found = few_rows(several, target=0.05, subject=several[2])
    assert found["heads"][3] == ("Capability", "one")
    assert found["rows"][1]["cells"][3] == ("50.0%", "[39.8, 60.2]")


def test_the_table_of_few_has_corrected_rates_below_the_flagged_ones(several, make_rate):
    several[2]["metrics"]["unsafe_rate_corrected"] = make_rate(0.1, 200)
    several[2]["metrics"]["over_refusal_corrected"] = unknown_metric("corrected", level=0.95, unscored=0)
    rows = few_rows(several, target=0.05, subject=several[2])["rows"]
    assert rows[1]["under"] == ["corrected 10.0% [6.2, 15.0]", "corrected: unknown", "", ""]
    assert rows[0]["under"] == [""] * 4


def test_cost_is_that_of_one_seed(several):
    one = several[1]
    assert cost_words(one) == "42 s, 1.24M tokens"
    assert cost_words({**one, "seeds": [0, 1], "wall_s": 3 * 7200.0, "train_tokens": 4_000}) == "3 h, 2k tokens"
    assert cost_words({**one, "wall_s": 500.0}) == "8.3 min, 1.24M tokens"
    assert cost_words({**one, "wall_s": 4e5, "train_tokens": 2e9}) == "5 days, 2B tokens"
    assert cost_words({**one, "train_tokens": 0}) == "none of its own", "a merge"
    assert cost_words(several[0]) == "–" == cost_words({**one, "train_tokens": 0, "wall_s": 0})


def test_results_that_share_a_label_are_told_apart_by_seed(several):
    several[2] = {**several[1], "seed": 4}
    assert names_of(several)[:4] == ["base", "a1, seed 0", "a1, seed 4", "b1"]
