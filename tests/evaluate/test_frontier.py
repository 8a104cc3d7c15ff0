"""Dominance, choosing on select and reporting on verdict."""

from __future__ import annotations

import pytest

from equipoise.errors import DataError
from equipoise.evaluate.frontier import choose, non_dominated, require_verdict, verdict_results


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
