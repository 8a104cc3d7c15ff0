"""Two models' results side by side: paired by hand, by intervals, what may not be compared."""

from __future__ import annotations

import io
import math
from typing import Any

import pytest
from rich.console import Console

from equipoise.errors import DataError
from equipoise.evaluate.compare import (
    Comparison,
    compare,
    comparison_document,
    comparison_lines,
    comparison_table,
    same_prompts,
)
from equipoise.evaluate.gate_sides import Side, side_of
from equipoise.evaluate.suites import summarize
from equipoise.statistics import score_bounds

JUDGE = {"name": "g", "measures": "unsafe_rate", "first": True}


def side(label: str, hits: list[int], *, answers: bool = True, ids: str = "h", first: int = 0, **changes: Any) -> Side:
    """A model whose n-th answer is unsafe where `hits` has a 1; its prompts are `first`, ..., and `ids` begins ids."""
    rows = [
        {
            "model": label,
            "split": "verdict",
            "prompt_id": f"{ids}{i}",
            "prompt": [{"role": "user", "content": f"request {i}"}],
            "repeat": 0,
            "kind": "harmful",
            "cost": 2.0 * hit - 1,
            "verdicts": {"g": {"value": float(hit)}},
        }
        for i, hit in enumerate(hits, start=first)
    ]
    result = {
        "label": label,
        "split": "verdict",
        "suite": "s",
        "template": "plain",
        "system_prompt": None,
        "sampling": {"temperature": 1.0, "seed": 0},
        "judge": "g",
        "prompts": {"n": len(rows), "digest": "d"},
        "metrics": summarize(rows),
        **changes,
    }
    document = {"results": [result], "judges": [JUDGE]}
    return side_of(document, label, where=f"{label}.json", answers=rows if answers else None)


def test_paired_by_hand() -> None:
    found = compare(side("a", [0, 0, 1, 0, 0, 0]), side("b", [1, 1, 1, 1, 0, 0]))
    gaps = {gap.metric: gap for gap in found.gaps}
    unsafe = gaps["unsafe_rate"]
    # Three prompts are unsafe with b alone: of 2^3 patterns of signs two are as far from 0.
    assert (unsafe.difference, unsafe.paired, unsafe.p) == (-0.5, 6, 0.25)
    assert unsafe.low is not None and unsafe.low < -0.5 < unsafe.high
    assert gaps["cost"].difference == -1 and gaps["cost"].p is None
    assert comparison_lines(found) == []


def test_a_paired_rate_has_the_wider_of_bootstrap_and_score() -> None:
    """As a gate has: with a handful of prompts on which two differ a bootstrap is too sure of itself."""
    first, second = side("a", [1, 1] + [0] * 198), side("b", [0] * 200)
    (gap,) = [one for one in compare(first, second).gaps if one.metric == "unsafe_rate"]
    low, high = score_bounds(2, 0, 200, confidence=0.975)
    assert gap.low is not None and gap.high is not None and gap.low <= low and gap.high >= high


def test_without_answers_the_intervals_add_as_squares() -> None:
    first, second = side("a", [1] + [0] * 39), side("b", [1] * 30 + [0] * 10, answers=False)
    found = compare(first, second)
    (gap,) = [one for one in found.gaps if one.metric == "unsafe_rate"]
    a, b = (one.results["s"]["metrics"]["unsafe_rate"] for one in (first, second))
    assert gap.low == pytest.approx(-0.725 - math.hypot(a["mean"] - a["low"], b["high"] - b["mean"]))
    assert gap.high == pytest.approx(-0.725 + math.hypot(a["high"] - a["mean"], b["mean"] - b["low"]))
    assert (gap.p, gap.paired, gap.better) == (None, None, "first")  # fewer unsafe answers are better
    assert comparison_lines(found)[0].startswith("no figure is paired")


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"suite": "t"}, 'suite differs: a.json has "s", b.json has "t"'),
        ({"template": "chatml"}, 'template differs: a.json has "plain", b.json has "chatml"'),
        ({"system_prompt": "x"}, 'system_prompt differs: a.json has null, b.json has "x"'),
        ({"sampling": {"temperature": 0.5, "seed": 0}}, 'sampling differs: a.json has {"temperature": 1.0}'),
        ({"judge": "other"}, 'judge differs: a.json has "g", b.json has "other"'),
        ({"prompts": {"n": 2, "digest": "e"}}, "prompts differs"),
    ],
)
def test_what_was_measured_differently_is_refused(changes: dict[str, Any], said: str) -> None:
    first, second = side("a", [0, 1]), side("b", [1, 1], **changes)
    with pytest.raises(DataError, match="--force") as refused:
        compare(first, second)
    assert said in str(refused.value)
    forced = compare(first, second, force=True)
    assert said in forced.unlike[0] and comparison_document(forced)["unlike"] == list(forced.unlike)


def test_another_seed_of_the_sampling_is_no_difference() -> None:
    found = compare(side("a", [0, 1]), side("b", [1, 1], sampling={"temperature": 1.0, "seed": 7}))
    assert found.unlike == ()


def test_prompts_of_other_suites_are_paired_by_their_words() -> None:
    """Under other ids, and the means beside the difference are those of the prompts that both answered."""
    first = side("a", [1, 1, 0, 0])
    second = side("b", [0, 1, 0, 1, 1, 1], ids="other-", first=2, suite="t", prompts={"n": 6, "digest": "e"})
    found = compare(first, second, force=True)
    (unsafe,) = [gap for gap in found.gaps if gap.metric == "unsafe_rate"]
    assert (unsafe.paired, unsafe.means, unsafe.difference) == (2, (0.0, 0.5), -0.5)  # requests 2 and 3
    assert "2 prompts have other ids on either side and are paired by kind and words" in comparison_lines(found)
    assert unsafe.means in [one["means"] for one in comparison_document(found)["differences"]]


def test_ids_that_both_have_stay_as_they_are() -> None:
    first = side("a", [0, 1])
    changed = [{**row, "prompt": [{"role": "user", "content": "request 0"}]} for row in side("b", [1, 1]).answers or ()]
    assert same_prompts(first.answers or (), changed) == {}


def drawn(found: Comparison, width: int) -> str:
    console = Console(width=width, record=True, file=io.StringIO())
    console.print(comparison_table(found))
    return console.export_text()


def test_names_break_between_their_words_and_the_caption_says_why_there_is_no_p() -> None:
    found = compare(side("a model of a long name", [0, 0, 1]), side("b model of a long name", [1, 1, 1]))
    gaps = tuple(gap._replace(metric="unsafe_rate_corrected/self_harm") for gap in found.gaps)
    words = drawn(found._replace(gaps=gaps), 70).split()
    broken = [word for word in words if word.startswith(("unsafe", "rate_", "corrected", "self", "harm"))]
    assert "".join(broken) == "unsafe_rate_corrected/self_harm" * len(gaps) and len(broken) > len(gaps)
    assert all(word.endswith(("_", "/", "harm")) for word in broken)
    assert "No p where kinds of prompt weigh equally" in " ".join(drawn(found, 100).split())
    (rate,) = [gap for gap in found.gaps if gap.metric == "unsafe_rate"]
    assert "No p" not in drawn(found._replace(gaps=(rate,)), 100) and "unsafe_rate " in drawn(found, 100)


def test_nothing_in_common() -> None:
    with pytest.raises(DataError, match="have no scored metric in common"):
        compare(side("a", [0, 1]), side("b", [0, 1], metrics={}))
