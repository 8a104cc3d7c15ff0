"""Dominance, choosing on select and reporting on verdict."""

from __future__ import annotations

import pytest

from equipoise.errors import DataError
from equipoise.evaluate.chart import lay_out
from equipoise.evaluate.frontier import choose, non_dominated, require_choice, require_verdict, verdict_results
from equipoise.evaluate.picture import draw
from equipoise.evaluate.report import write_page
from equipoise.evaluate.words import price_words, table, verdict_line, verdict_words


@pytest.fixture
def at(make_result):
    """Builds a result at an unsafe rate and a reward."""

    def built(label: str, unsafe: float, reward: float, *, split: str = "select", prompts: int = 315):
        return make_result(
            label, "sacpo", None, {"name": label}, unsafe, 0.1, reward, 5.0, split=split, prompts=prompts
        )

    return built


def test_non_dominated_points_from_safest_on(at):
    results = [at("a", 0.5, 0.9), at("b", 0.1, 0.5), at("c", 0.2, 0.5), at("d", 0.1, 0.4), at("e", 0.02, 0.1)]
    assert [results[i]["label"] for i in non_dominated(results)] == ["e", "b", "a"]


def test_equal_points_do_not_beat_each_other(at):
    assert non_dominated([at("a", 0.1, 0.5), at("b", 0.1, 0.5)]) == [0, 1]


def test_points_without_both_figures_are_not_on_the_frontier(at):
    hole = at("hole", 0.0, 1.0)
    hole["metrics"]["reward"].update(mean=None, low=None, high=None)
    assert non_dominated([hole, at("a", 0.1, 0.5)]) == [1]


def test_the_most_helpful_setting_whose_bound_keeps_to_the_target_is_chosen(at):
    results = [at("safe", 0.01, 0.3), at("good", 0.02, 0.7), at("near", 0.048, 0.8), at("wild", 0.5, 0.9)]
    choice = choose(results, target=0.05)  # near: 15 of 315, upper bound 7.2 %
    assert results[choice.index]["label"] == "good"
    assert "95% bound" in choice.reason


def test_a_select_split_too_small_for_a_bound_falls_back_to_the_observed_rate(at):
    results = [at("safe", 0.0, 0.3, prompts=21), at("good", 0.05, 0.7, prompts=21), at("wild", 0.5, 0.9, prompts=21)]
    choice = choose(results, target=0.05)
    assert results[choice.index]["label"] == "good"
    assert "too few" in choice.reason


def test_when_nothing_keeps_to_the_target_the_safest_is_chosen(at):
    results = [at("bad", 0.3, 0.9), at("less bad", 0.2, 0.5), at("as bad", 0.2, 0.4)]
    choice = choose(results, target=0.05)
    assert results[choice.index]["label"] == "less bad"
    assert "safest" in choice.reason


def test_what_chose_a_setting_never_reports_it(at):
    names = (("a", 0.01, 0.4), ("b", 0.02, 0.8))
    select = [at(*entry) for entry in names]
    verdict = [at(name, unsafe + 0.1, reward, split="verdict") for name, unsafe, reward in names]
    shown, reason = verdict_results([*select, *verdict], target=0.05)
    assert [r["label"] for r in shown if r.get("chosen")] == ["b"]
    assert {r["split"] for r in shown} == {"verdict"}
    assert reason is not None
    assert "chosen" not in verdict[1]  # the results handed in are left as they were


def test_without_target_nothing_is_chosen(at):
    shown, reason = verdict_results([at("a", 0.1, 0.4), at("a", 0.1, 0.4, split="verdict")])
    assert (len(shown), reason) == (1, None)
    assert "chosen" not in shown[0]


def test_mixed_splits_are_refused(at):
    with pytest.raises(DataError, match="'a' comes from split 'select', expected 'verdict'"):
        require_verdict([at("a", 0.1, 0.4)])
    with pytest.raises(DataError, match="expected 'select'"):
        choose([at("a", 0.1, 0.4, split="verdict")], target=0.1)
    with pytest.raises(DataError, match="0 results on verdict"):
        verdict_results([at("a", 0.1, 0.4), at("b", 0.1, 0.4, split="verdict")], target=0.2)
    with pytest.raises(DataError, match="nothing to report"):
        verdict_results([at("a", 0.1, 0.4)])


# -- what chose a setting never reports it ---------------------------------------------------------------------------

SHOWN = {
    "chart": lambda results: lay_out(results, width=720, height=460),
    "picture": lambda results: draw(results, title="t", subtitle="s", target=None),
    "table": table,
    "line": lambda results: verdict_line(results, target=0.05),
    "line without target": lambda results: verdict_line(results, target=None),
    "words": lambda results: verdict_words(results, target=0.05),
    "price": lambda results: price_words(results, results[0]),
}
ONE, OTHER = {"n": 300, "digest": "0a"}, {"n": 700, "digest": "0b"}


@pytest.mark.parametrize("shown", SHOWN)
def test_no_figure_comes_from_select(at, shown: str):
    verdict = at("a", 0.1, 0.4, split="verdict")
    SHOWN[shown]([verdict])
    for results in ([at("s", 0.1, 0.4)], [verdict, at("s", 0.1, 0.4)]):
        with pytest.raises(DataError, match="result 's' comes from split 'select', expected 'verdict' here"):
            SHOWN[shown](results)


@pytest.mark.parametrize("shown", SHOWN)
def test_results_from_different_prompts_do_not_stand_side_by_side(at, shown: str):
    first, second = ({**at(name, 0.1, 0.4, split="verdict"), "prompts": ONE} for name in "ab")
    SHOWN[shown]([first, second])
    with pytest.raises(DataError, match=r"'a' \(300 prompts\) and 'b' \(700\) were measured on different verdict"):
        SHOWN[shown]([first, {**second, "prompts": OTHER}])
    # other seeds and suites have prompts of their own, and older results do not say which they had
    SHOWN[shown]([first, {**second, "prompts": OTHER, "seed": 1}, {**second, "prompts": OTHER, "suite": "own"}, second])
    del second["prompts"]
    SHOWN[shown]([first, second])


def test_settings_are_chosen_on_one_set_of_prompts(at):
    with pytest.raises(DataError, match="were measured on different select prompts of suite 'playground'"):
        choose([{**at("a", 0.1, 0.4), "prompts": ONE}, {**at("b", 0.1, 0.4), "prompts": OTHER}], target=0.1)


def test_verdict_prompts_that_chose_are_refused(at):
    select, verdict = ({**at("a", 0.1, 0.4, split=split), "prompts": ONE} for split in ("select", "verdict"))
    with pytest.raises(DataError, match="'a' on verdict was measured on the prompts that 'a' on select was chosen by"):
        verdict_results([select, verdict], target=0.2)
    shown, reason = verdict_results([select, {**verdict, "prompts": OTHER}], target=0.2)
    assert shown[0]["chosen"] and reason is not None


def test_a_mark_needs_a_result_on_select(at, tmp_path):
    marked = {**at("a", 0.1, 0.4, split="verdict"), "chosen": True, "prompts": ONE}
    behind = {**at("a", 0.1, 0.4), "prompts": OTHER}
    require_choice([marked, behind, at("b", 0.2, 0.4)])
    require_choice([at("b", 0.2, 0.4, split="verdict")])
    wrong = {
        "no result on select shows why": [marked, at("b", 0.1, 0.4)],
        "the mark belongs on verdict": [{**behind, "chosen": True}, at("a", 0.1, 0.4, split="verdict")],
        "what chose a setting cannot report it": [marked, {**behind, "prompts": ONE}],
    }
    for sentence, results in wrong.items():
        with pytest.raises(DataError, match=sentence):
            require_choice(results)
        document = {"schema": 1, "created": "2026-05-04", "versions": {}, "results": results}
        with pytest.raises(DataError, match=sentence):
            write_page(tmp_path, document, [], title="t", target=0.05)
    assert not list(tmp_path.iterdir())
