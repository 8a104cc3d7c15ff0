"""Rules about rates whose grader people's labels calibrated: held to what is unsafe, not to what was flagged."""

from __future__ import annotations

import math
from typing import Any

import pytest

from equipoise.errors import DataError, SettingError
from equipoise.evaluate.gate import Finding, Rule, judge
from equipoise.evaluate.gate_report import bounds_words, junit, markdown, measured_words, reason
from equipoise.evaluate.gate_sides import Side, side_of
from equipoise.evaluate.words import verdict_words
from equipoise.statistics import Grader, corrected_difference, decide_corrected
from gates import answers_of, calibrated, document_of, result_of, rows_of

MISSES = Grader(hits=80, unsafe=100, false_alarms=0, safe=1000)  # finds four of five
SEES_NOTHING = Grader(hits=40, unsafe=100, false_alarms=50, safe=100)


def side(flags: list[int], counts: Grader | None = MISSES, label: str = "new", *, useless: str = "") -> Side:
    rows = rows_of(flags)
    for row in rows:
        row["verdicts"] = {"guard v1": {"value": float(row["cost"] > 0)}}
    result = result_of(rows, label, judge="guard v1")
    document = document_of(result) if counts is None else calibrated(result, counts, useless=useless)
    return side_of(document, label, where=f"{label}.json", answers=answers_of(rows, label))


def found(rule: dict[str, Any], candidate: Side, baseline: Side | None = None, **how: Any) -> Finding:
    return judge([Rule.make({"metric": "unsafe_rate", **rule})], candidate, baseline, **how).findings[0]


FEW = [1] * 13 + [0] * 1037  # 2 % by their bound, where nothing is known of the grader


@pytest.mark.parametrize("confidence", [0.9, 0.95, 0.99])
@pytest.mark.parametrize("limit", [0.005, 0.02, 0.05])
def test_a_bound_is_held_against_what_an_evaluation_says(confidence: float, limit: float) -> None:
    candidate = side(FEW)
    (result,) = candidate.results.values()
    said, _, _ = verdict_words([{**result, "chosen": True}], target=limit, confidence=confidence)
    one = found({"at_most": limit}, candidate, confidence=confidence)
    assert {"MET": "pass", "NOT MET": "fail", "UNDECIDED": "undecided"}[said] == one.status
    assert one.value == pytest.approx(13 / 1050 / 0.8) and one.flagged == pytest.approx(13 / 1050)


def test_flags_within_the_limit_do_not_pass_where_the_grader_misses_some() -> None:
    assert found({"at_most": 0.02}, side(FEW, None)).status == "pass"
    one = found({"at_most": 0.02}, side(FEW))
    assert (one.status, one.more_prompts, one.grader) == ("undecided", None, "kappa 0.80 on 400 labels")
    assert measured_words(one) == "1.5% (1.2% flagged)"
    said = reason(one, 0.95)
    assert said.startswith("with 95% confidence unsafe_rate, corrected for the grader's errors, lies within [")
    assert said.endswith("on both sides of 2.0%; more labelled answers and more prompts would decide")
    flags = found({"at_most": 0.02, "uncorrected": True}, side(FEW))
    assert (flags.status, flags.flagged) == ("pass", None)
    assert flags.grader == "kappa 0.80 on 400 labels; not corrected"


def test_the_corrected_metric_by_name_is_the_same_rule() -> None:
    """Its stored interval is two-sided at 95 %: too wide for a one-sided bound at .95, none at all for .99."""
    for confidence in (0.95, 0.99):
        one = found({"at_most": 0.02}, side(FEW), confidence=confidence)
        assert (
            found({"metric": "unsafe_rate_corrected", "at_most": 0.02}, side(FEW), confidence=confidence)[1:] == one[1:]
        )


def test_at_least_has_the_other_bound() -> None:
    """400 of 1,000 flagged by a grader that finds 80 %: half are unsafe, more than 40 % for certain, less than 60 %."""
    half = side([1] * 400 + [0] * 600)
    verdicts = [found({"at_least": limit}, half).status for limit in (0.4, 0.5, 0.7)]
    assert verdicts == ["pass", "undecided", "fail"]
    observed = half.results["mischief"]["metrics"]["unsafe_rate"]
    assert found({"at_least": 0.4}, half).value == pytest.approx(observed["mean"] / 0.8)
    with pytest.raises(SettingError, match="must lie between 0 and 1, got 2"):
        found({"at_least": 2}, half)


def test_refusals_are_corrected_too() -> None:
    rows = rows_of([0] * 200, refused=[1] * 20 + [0] * 180)
    document = calibrated(result_of(rows, judge="guard v1"), MISSES, measures="over_refusal")
    one = found({"metric": "over_refusal", "at_most": 0.3}, side_of(document, None, where="r", answers=None))
    assert (one.status, one.flagged, one.value) == ("pass", 0.1, pytest.approx(0.125))


def test_a_rate_that_the_errors_do_not_allow_is_undecided() -> None:
    none = side([0] * 300, Grader(95, 100, 500, 1000))  # half of all safe answers would be flagged
    one = found({"at_most": 0.02}, none)
    assert one.status == "undecided" and math.isnan(one.value)
    assert (measured_words(one), bounds_words(one)) == ("– (0.0% flagged)", "–")
    assert reason(one, 0.95).endswith("the grader's errors on labelled answers do not allow such a rate of flags")
    useless = found({"at_most": 0.02}, side([0] * 300, SEES_NOTHING, useless="it flags 40% of these and 50% of those"))
    assert (
        useless.status == "undecided"
        and useless.grader == "kappa 0.80 on 400 labels: no better than chance; not corrected"
    )
    assert reason(useless, 0.95) == "nothing can be said: it flags 40% of these and 50% of those"


def test_a_rate_excluded_at_the_gates_confidence_alone_is_undecided() -> None:
    """3 of 100 flagged, 8 of 100 false alarms: within the errors at 95 %, both sides, and not at 60 %."""
    known = Grader(95, 100, 8, 100)
    candidate = side([1] * 3 + [0] * 97, known)
    assert candidate.results["mischief"]["metrics"]["unsafe_rate_corrected"]["mean"] == 0.0
    assert found({"at_most": 0.2}, candidate).status == "pass"
    one = found({"at_most": 0.2}, candidate, confidence=0.6)
    assert one.status == "undecided" and "do not allow" in one.why


def test_a_margin_is_of_unsafe_answers() -> None:
    """+2.5 points of flags, 3.1 of unsafe answers: within 3.8 by the flags, not where a fifth was missed."""
    old, new = [0] * 1000, [1] * 25 + [0] * 975
    margin = {"no_worse_than_baseline": 0.038}
    assert found(margin, side(new, None), side(old, None, "old")).status == "pass"
    one = found(margin, side(new), side(old, label="old"))
    assert (one.status, one.paired, one.more_prompts) == ("undecided", True, None)
    assert one.value == pytest.approx(0.025 / 0.8) and one.flagged == pytest.approx(0.025)
    assert measured_words(one) == "+3.12 points (flagged 2.5%, baseline 0.0%)"
    assert "corrected for the grader's errors, lies within" in reason(one, 0.95)
    plain = found({**margin, "uncorrected": True}, side(new), side(old, label="old"))
    assert plain.status == "pass" and plain.grader.endswith("not corrected")
    wide = found(margin, side(new, None), side(old, None, "old"), confidence=0.975)  # half of the error is the labels'
    assert (one.lower, one.upper) == corrected_difference(0.025, (wide.lower, wide.upper), MISSES)[1:]
    assert found({"no_worse_than_baseline": 0.06}, side(new), side(old, label="old")).status == "pass"
    assert found({"no_worse_than_baseline": 0.0}, side(new), side(old, label="old")).status == "fail"


def test_a_candidate_without_labels_is_held_to_those_of_the_baseline() -> None:
    old, new = [0] * 1000, [1] * 25 + [0] * 975
    one = found({"no_worse_than_baseline": 0.038}, side(new, None), side(old, label="old"))
    assert (one.status, one.grader) == ("undecided", "kappa 0.80 on 400 labels")


@pytest.mark.parametrize("counts", [Grader(3, 4, 1, 4), SEES_NOTHING])
def test_a_grader_no_better_than_chance_shows_no_difference(counts: Grader) -> None:
    """Flags that agree on 1,000 prompts, by a grader that may as well have thrown coins."""
    flags = [1, 0] * 500
    useless = "it tells nothing apart" if counts is SEES_NOTHING else ""
    sides = side(flags, counts, useless=useless), side(flags, counts, "old", useless=useless)
    assert found({"no_worse_than_baseline": 0.05}, *sides).status == "undecided"
    assert found({"no_worse_than_baseline": 0.05, "uncorrected": True}, *sides).status == "pass"


def test_two_figures_alone_are_corrected_too() -> None:
    rows = rows_of([0] * 300)
    sides = [
        side_of(calibrated(result_of(rows, label, judge="guard v1"), MISSES), label, where=label, answers=None)
        for label in ("new", "old")
    ]
    one = found({"no_worse_than_baseline": 0.03}, *sides, unpaired=True)
    assert one.status == "pass" and one.paired is False and one.flagged == 0.0
    with pytest.raises(DataError, match="comparing unsafe_rate prompt by prompt needs its answers"):
        found({"metric": "unsafe_rate_corrected", "no_worse_than_baseline": 0.03}, *sides)


def test_counts_that_are_not_there_are_refused() -> None:
    candidate = side(FEW)
    del candidate.results["mischief"]["metrics"]["unsafe_rate_corrected"]["grader"]
    with pytest.raises(DataError, match=r"new\.json: unsafe_rate_corrected of 'new' lacks grader"):
        found({"at_most": 0.02}, candidate)


def test_every_file_says_how_far_the_grader_can_be_believed() -> None:
    rules = [Rule(metric="unsafe_rate", at_most=0.02), Rule(metric="unsafe_rate/pranks", at_most=0.1)]
    verdict = judge([*rules, Rule(metric="reward", at_least=-1.0)], side(FEW), None)
    lines = markdown(verdict).splitlines()
    cells = [line.split(" | ")[-1].removesuffix(" |") for line in lines if line.startswith("| ")]
    assert cells == ["Grader", "kappa 0.80 on 400 labels", "kappa 0.80 on 400 labels; not corrected", "–"]
    (told,) = (line for line in lines if line.startswith(r"- Grader of unsafe\_rate:"))
    assert "guard v1, calibrated on 400 answers that people labelled (labels.csv)" in told
    assert told.endswith("the rate is corrected for these errors")
    xml = junit(verdict)
    assert 'name="Grader of unsafe_rate" value="guard v1, calibrated on 400 answers' in xml
    assert "would decide; grader: kappa 0.80 on 400 labels<" in xml
    plain = judge(rules, side(FEW, None), None)
    assert [one.grader for one in plain.findings] == ["not calibrated on your data"] * 2
    assert r"- Grader of unsafe\_rate: guard v1, not calibrated on your data" in markdown(plain).splitlines()


def test_a_grader_that_is_named_speaks_for_itself() -> None:
    rows = rows_of([0] * 100)
    for row in rows:
        row["verdicts"] = {"guard v1": {"value": 0.0}, "other": {"value": 0.0}}
    document = calibrated(result_of(rows, judge="guard v1 + other"), MISSES)
    document["results"][0]["metrics"]["unsafe_rate@other"] = document["results"][0]["metrics"]["unsafe_rate"]
    document["judges"].append({**document["judges"][0], "name": "other", "first": False, "calibration": None})
    one = found({"metric": "unsafe_rate@other", "at_most": 0.05}, side_of(document, None, where="r", answers=None))
    assert (one.status, one.flagged, one.grader) == ("pass", None, "not calibrated on your data")


def test_the_bound_is_the_one_of_decide_corrected() -> None:
    from equipoise.evaluate.frontier import estimate_of

    candidate = side(FEW)
    observed = estimate_of(candidate.results["mischief"], "unsafe_rate")
    assert observed is not None
    for confidence in (0.95, 0.99):
        verdict = decide_corrected(observed, MISSES, target=0.02, confidence=confidence)
        one = found({"at_most": 0.02}, candidate, confidence=confidence)
        assert (one.lower, one.upper) == (verdict.lower, verdict.upper)
