"""Verdicts of graders in figures: rates, agreement, calibration, correction; numbers by hand."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest

from equipoise.errors import DataError
from equipoise.evaluate.judge_words import NOT_CALIBRATED, calibration_words
from equipoise.evaluate.verdicts import (
    Graded,
    agreement_of,
    calibration_of,
    corrected_metric,
    corrected_metrics,
    grader_metrics,
    rate_metric,
)
from equipoise.statistics import clopper_pearson


def said(*values: float | None) -> list[Graded]:
    return [Graded(value, None if value is None else "label", None) for value in values]


def rows(n: int, kind: str = "harmful", **more: Any) -> list[dict[str, Any]]:
    return [{"prompt_id": f"{kind}{i}", "kind": kind, "category": None, **more} for i in range(n)]


def table(both: int, first: int, second: int, neither: int) -> tuple[list[Graded], list[Graded]]:
    pairs = [(1.0, 1.0)] * both + [(1.0, 0.0)] * first + [(0.0, 1.0)] * second + [(0.0, 0.0)] * neither
    return said(*(a for a, _ in pairs)), said(*(b for _, b in pairs))


# ---- rates -----------------------------------------------------------------------------------------------------------


def test_a_rate_leaves_out_what_has_no_verdict() -> None:
    found = rate_metric(rows(5), said(1.0, 0.0, None, 0.0, 0.0))
    assert (found["mean"], found["n"], found["unscored"], found["kind"]) == (0.25, 4, 1, "rate")
    assert (found["low"], found["high"]) == clopper_pearson(1, 4)
    nothing = rate_metric(rows(2), said(None, None))
    assert (nothing["mean"], nothing["n"], nothing["unscored"]) == (None, 0, 2)


def test_the_first_grader_gives_the_rate_and_others_their_own() -> None:
    answers = [
        {"prompt_id": "a", "kind": "harmful", "category": "theft"},
        {"prompt_id": "b", "kind": "harmful", "category": "theft"},
        {"prompt_id": "c", "kind": "harmful", "category": "lies"},
        {"prompt_id": "d", "kind": "borderline", "category": None},
        {"prompt_id": "e", "kind": "borderline", "category": None},
        {"prompt_id": "f", "kind": "benign", "category": None},
    ]
    gradings = [said(1, 0, 0, 1, 1, 1), said(1, 1, 1, 0, 0, 0), said(1, 1, 1, 1, 0, 1)]
    titles = [("one", "unsafe_rate"), ("two", "unsafe_rate"), ("three", "over_refusal")]
    found = grader_metrics(titles, answers, gradings)  # type: ignore[arg-type]
    assert {name: round(metric["mean"], 3) for name, metric in found.items()} == {
        "unsafe_rate": 0.333, "unsafe_rate/lies": 0.0, "unsafe_rate/theft": 0.5, "unsafe_rate@two": 1.0,
        "over_refusal": 0.5,
    }  # fmt: skip
    assert set(grader_metrics(titles, answers[:3], [g[:3] for g in gradings])) == {  # type: ignore[arg-type]
        "unsafe_rate", "unsafe_rate/lies", "unsafe_rate/theft", "unsafe_rate@two",
    }  # fmt: skip


def test_answers_to_one_prompt_count_as_many_as_they_are_worth() -> None:
    values = said(*[1.0] * 4, *[0.0] * 36)
    apart = rate_metric(rows(40), values)
    together = rate_metric([{"prompt_id": f"p{i // 4}", "kind": "harmful"} for i in range(40)], values)
    assert apart["mean"] == together["mean"] == 0.1
    assert together["n_prompts"] == 10 and together["n_effective"] < 15 < apart["n_effective"] == 40
    assert together["high"] > apart["high"]
    # The same name in another suite is another prompt.
    suites = [{"prompt_id": "p", "kind": "harmful", "suite": name} for name in "ab"]
    assert rate_metric(suites, said(1.0, 0.0))["n_effective"] == 2


# ---- agreement -------------------------------------------------------------------------------------------------------


def test_agreement_by_hand() -> None:
    # 15 + 20 of 50 alike: .7; by chance .5 * .4 + .5 * .6 = .5; kappa = .2 / .5.
    first, second = table(15, 10, 5, 20)
    found = agreement_of(rows(50), first, second)
    assert (round(found["percent"]["mean"], 9), round(found["kappa"]["mean"], 9), found["n"]) == (0.7, 0.4, 50)
    assert found["kappa"]["low"] < 0.4 < found["kappa"]["high"]
    assert (found["kappa"]["kind"], found["kappa"]["n_prompts"], found["kappa"]["unscored"]) == ("agreement", 50, 0)


def test_answers_without_both_verdicts_say_nothing_of_agreement() -> None:
    found = agreement_of(rows(5), said(1, 0, None, 1, 0), said(1, 0, 1, None, 0))
    assert (found["n"], found["percent"]["mean"], found["percent"]["unscored"]) == (3, 1.0, 2)
    none = agreement_of(rows(2), said(None, 1), said(1, None))
    assert (none["n"], none["kappa"]["mean"], none["percent"]["mean"]) == (0, None, None)


def test_where_both_always_say_the_same_kappa_is_not_defined() -> None:
    found = agreement_of(rows(4), said(0, 0, 0, 0), said(0, 0, 0, 0))
    assert found["kappa"]["mean"] is None and found["percent"]["mean"] == 1.0


# ---- calibration -----------------------------------------------------------------------------------------------------

PEOPLE = [True] * 20 + [False] * 40
FOUND = said(*[1.0] * 18, *[0.0] * 2, *[1.0] * 2, *[0.0] * 38)


def test_calibration_and_correction_by_hand() -> None:
    held = calibration_of("unsafe", "labels.csv", rows(60), PEOPLE, FOUND)
    # 56 of 60 alike; both call a third unsafe, so 1/9 + 4/9 alike by chance: (14/15 - 5/9) / (4/9).
    assert round(held.kappa["mean"], 9) == 0.85
    assert (held.sensitivity["mean"], held.false_alarms["mean"], held.n, held.useless) == (0.9, 0.05, 60, "")
    assert (held.sensitivity["low"], held.sensitivity["high"]) == clopper_pearson(18, 20)
    assert tuple(held.counts) == (18, 20, 2, 40)
    observed = rate_metric(rows(100), said(*[1.0] * 22, *[0.0] * 78))
    found = corrected_metric(observed, held)
    assert round(found["mean"], 9) == 0.2  # (.22 - .05) / (.9 - .05)
    assert found["kind"] == "corrected" and found["low"] < 0.2 < found["high"] and found["n"] == 100
    assert found["high"] - found["low"] > observed["high"] - observed["low"]  # the grader's errors are not known well
    named = corrected_metrics({"unsafe_rate": observed}, {"unsafe_rate": held, "over_refusal": held})
    assert named == {"unsafe_rate_corrected": found}


def test_labelled_answers_to_one_prompt_make_errors_less_known() -> None:
    shared = [{"prompt_id": f"p{i // 4}"} for i in range(60)]
    apart = calibration_of("unsafe", "labels.csv", rows(60), PEOPLE, FOUND)
    together = calibration_of("unsafe", "labels.csv", shared, PEOPLE, FOUND)
    assert together.counts.unsafe < apart.counts.unsafe == 20
    assert together.counts.hits / together.counts.unsafe == pytest.approx(0.9)
    observed = rate_metric(rows(100), said(*[1.0] * 22, *[0.0] * 78))
    wide, narrow = corrected_metric(observed, together), corrected_metric(observed, apart)
    assert wide["mean"] == pytest.approx(narrow["mean"])
    assert wide["high"] - wide["low"] > narrow["high"] - narrow["low"]


def test_answers_without_a_verdict_are_left_out_and_counted() -> None:
    held = calibration_of("unsafe", "labels.csv", rows(60), PEOPLE, [Graded(None, None, "no verdict"), *FOUND[1:]])
    assert (held.n, held.kappa["unscored"]) == (59, 1) and held.sensitivity["mean"] == 17 / 19
    with pytest.raises(DataError, match=r"^labels.csv: no answer that people call unsafe has a verdict, so"):
        calibration_of("unsafe", "labels.csv", rows(60), PEOPLE, [*said(*[None] * 20), *FOUND[20:]])


def test_a_grader_that_flags_as_much_of_either_corrects_nothing() -> None:
    flags = said(*[1.0, 0.0] * 30)
    held = calibration_of("unsafe", "labels.csv", rows(60), PEOPLE, flags)
    assert held.useless == "it flags 50% of the answers with the fault and 50% of those without"
    assert corrected_metric(rate_metric(rows(100), said(*[1.0] * 22, *[0.0] * 78)), held)["mean"] is None


def test_a_rate_that_false_alarms_exclude_is_unknown_and_not_zero() -> None:
    false = [True] * 100 + [False] * 100
    held = calibration_of("unsafe", "l", rows(200), false, said(*[1.0] * 100, *[1.0] * 60, *[0.0] * 40))
    found = corrected_metric(rate_metric(rows(100), said(*[0.0] * 100)), held)
    assert (found["mean"], found["kind"]) == (None, "corrected")
    unknown = corrected_metric(rate_metric(rows(1), said(None)), held)
    assert (unknown["mean"], unknown["unscored"]) == (None, 1)


# ---- words -----------------------------------------------------------------------------------------------------------


def section(people: Sequence[bool], found: Sequence[Graded], **more: Any) -> dict[str, Any]:
    held = calibration_of("unsafe", "labels.csv", rows(60), people, found)
    return {
        "kind": "guard", "measures": "unsafe_rate",
        "calibration": {"labels": held.labels, "n": held.n, "kappa": held.kappa, "sensitivity": held.sensitivity,
                        "false_alarms": held.false_alarms, "corrected": True, "why": held.useless, **more},
    }  # fmt: skip


def test_calibration_in_words() -> None:
    bare: dict[str, Any] = {"kind": "guard", "measures": "unsafe_rate", "calibration": None}
    assert calibration_words(bare) == NOT_CALIBRATED == "not calibrated on your data"
    assert "needs no calibration" in calibration_words({**bare, "kind": "truth"})
    words = calibration_words(section(PEOPLE, FOUND))
    assert words.startswith("calibrated on 60 answers that people labelled (labels.csv): Cohen's kappa 0.85 [0.")
    assert "finds 90.0% [68.3, 98.8] of unsafe answers, false alarms at 5.0% [0.6, 16.9] of safe ones" in words
    assert words.endswith("; the rate is corrected for these errors")
    assert calibration_words(section(PEOPLE, FOUND, corrected=False)).endswith("of safe ones")
    useless = calibration_words(section(PEOPLE, said(*[1.0, 0.0] * 30), corrected=False))
    assert useless.endswith("no rate is corrected: it flags 50% of the answers with the fault and 50% of those without")
    refusing = calibration_words({**section(PEOPLE, FOUND), "measures": "over_refusal"})
    assert "of refusals, false alarms at" in refusing and "of other answers" in refusing
