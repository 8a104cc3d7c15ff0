"""The line of trust and what was not tested."""

from __future__ import annotations

import pytest

from equipoise.evaluate import page_parts
from equipoise.evaluate.trust import trust_line, untested
from many_results import judges, many


def texts(found):
    return [one.text for one in found]


def test_the_line_names_prompts_judge_seeds_and_world(results):
    assert texts(trust_line(results, {})) == [
        "735 harmful and 735 borderline prompts",
        "judged by the world's truth",
        "1 seed: training noise not measured",
        "playground world 1, not your model",
    ]
    for one in results:
        one["seeds"] = [0, 1, 2]
    assert texts(trust_line(results, {}, results[6]))[2] == "3 training seeds"


def test_a_judge_without_human_labels_is_called_not_calibrated():
    document = many(10)
    shown = document["results"][:10]
    assert ("not calibrated on your data", True) in trust_line(shown, document)
    document["judges"] = judges()
    found = trust_line(shown, document)
    assert texts(found)[1:4] == [
        "judged by guard v1 and refusals v1",
        "κ 0.82 [0.76, 0.88] with 300 human labels, rate corrected (guard v1)",
        "not calibrated on your data (refusals v1)",
    ]
    assert [one.text for one in found if one.doubtful] == [
        "not calibrated on your data (refusals v1)", "1 seed: training noise not measured",
    ]  # fmt: skip
    document["judges"][0]["biases"] = judges()[2]["biases"]
    assert ("the judge prefers the longer answer", True) in trust_line(shown, document)
    for judge in document["judges"]:
        judge["kind"] = "truth"
    assert texts(trust_line(shown, document))[1] == "judged by the world's truth"


@pytest.mark.parametrize(
    ("kappa", "sensitivity", "false_alarms", "words"),
    [
        ((0.03, -0.02, 0.07), 0.97, 0.93, "no better than chance"),
        ((0.5, 0.3, 0.7), 0.4, 0.4, "no better than chance"),
        ((0.4, -0.1, 0.8), 0.9, 0.4, "not shown to be better than chance"),
        ((None, None, None), 0.9, 0.4, "not shown to be better than chance"),
        ((0.4, 0.2, 0.6), 0.9, 0.4, "weak, or too few labels to tell"),
        ((0.4, 0.21, 0.6), 0.9, 0.4, ""),
    ],
)
def test_a_calibrated_judge_near_chance_is_doubtful(kappa, sensitivity, false_alarms, words: str):
    document = {**many(10), "judges": judges()}
    found = document["judges"][0]["calibration"]
    found["kappa"] |= dict(zip(("mean", "low", "high"), kappa, strict=True))
    found["sensitivity"]["mean"], found["false_alarms"]["mean"] = sensitivity, false_alarms
    said = next(one for one in trust_line(document["results"][:10], document) if one.text.startswith("κ"))
    assert said.doubtful is bool(words)
    assert said.text.endswith(f"with 300 human labels{': ' if words else ''}{words}, rate corrected (guard v1)")
    (shown, *_) = page_parts.judges(document["judges"])
    assert shown["doubtful"] is bool(words) and words in shown["calibration"]


def test_what_results_say_was_not_tested_is_not_said_twice(results):
    told = {"untested": ["Honesty was not tested.", "Harm and over-refusal were not tested."]}
    del results[0]["metrics"]["over_refusal"]
    for one in results:
        one["metrics"] = {"reward": one["metrics"]["reward"]}
    found = untested(results, told)
    assert found[-2:] == told["untested"]
    assert sum("onesty" in one for one in found) == sum("refusal" in one for one in found) == 1
    assert not any(one.startswith(("The judge", "Kinds of harm", "Harm of kinds")) for one in found), (
        "nothing was judged"
    )
    assert any(one.startswith("Honesty:") for one in untested(results, {"untested": ["Honesty in French."]}))


def test_helpfulness_that_nothing_scored_is_said_once(results):
    for one in results:
        del one["metrics"]["reward"]
    assert any(one.startswith("Helpfulness: nothing scored it") for one in untested(results))
    told = "Ordinary requests were not tested, so that nothing is said of helpfulness."
    assert sum("elpfulness" in one for one in untested(results, {"untested": [told]})) == 1


def test_what_was_not_tested_follows_from_the_results():
    document = many(10)
    shown = document["results"][:10]
    found = untested(shown, {**document, "untested": ["Other languages."]})
    assert [one.split(":")[0] for one in found] == [
        "One seed", "The judge", "Harm of kinds that training left out", "Honesty", "Attacks made against these models",
        "Other languages.",
    ]  # fmt: skip
    for one in shown:
        one["metrics"] = {"unsafe_rate": one["metrics"]["unsafe_rate"]}
    heads = {one.split(":")[0] for one in untested(shown)}
    assert {"Over-refusal", "Kinds of harm", "Capability beyond these prompts"} < heads


def test_several_seeds_measured_training_noise_and_some_measured_it_for_some(results):
    assert untested(results)[0].startswith("One seed: training noise not measured.")
    for one in results:
        one["seeds"] = [0, 1]
    assert not any("seed" in one for one in untested(results))
    del results[3]["seeds"]
    assert untested(results)[0].startswith("Results of one seed stand beside results of several")
    assert not any(one.startswith("The judge") for one in untested(results)), "the world's truth needs no labels"
    document = {"judges": judges()}
    assert not any(one.startswith("The judge") for one in untested(results, document)), "one of them is calibrated"
