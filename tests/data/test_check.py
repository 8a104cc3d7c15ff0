"""The report on an entry: what is there, what is wrong, what can run."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from equipoise.data.check import Lengths, LongerWins, WrongRow, check, render
from equipoise.data.sources import DataEntry
from equipoise.errors import SettingError


def entry_of(folder: Path, rows: Sequence[Any], **keys: Any) -> DataEntry:
    (folder / "rows.jsonl").write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    return DataEntry(path=str(folder / "rows.jsonl"), **keys)


def pku(i: int, first: str = "a word", second: str = "two more words") -> dict[str, Any]:
    return {
        "prompt": f"p{i:02}",
        "response_0": first,
        "response_1": second,
        "is_response_0_safe": True,
        "is_response_1_safe": i % 2 == 0,
        "better_response_id": 1,
        "safer_response_id": 0,
    }


def test_a_file_with_both_orders(tmp_path: Path) -> None:
    report = check(entry_of(tmp_path, [pku(i) for i in range(40)]))
    assert (report.rows, report.layout, report.unreadable, report.wrong) == (40, "pku", {}, ())
    assert report.columns == tuple(pku(0))
    assert report.present == {"two answers": 40, "better": 40, "safer": 40, "safe flags": 40}
    assert report.prompt_characters == Lengths(3, 3.0, 3)
    assert report.answer_characters == Lengths(6, 10.0, 14)
    assert report.longer_preferred == {"better": LongerWins(40, 40), "safer": LongerWins(0, 40)}
    assert report.longer_preferred["better"].share == 1.0
    assert {use.name: use.examples for use in report.uses} == {
        "pairs by helpfulness": 40,
        "pairs by safety": 40,
        "pairs with safety flags": 40,
        "pairs, a safe answer first": 40,
        "labels by helpfulness": 80,
        "labels by safety": 80,
        "answers to imitate": 80,
    }
    assert report.objectives == (
        *("dpo by better", "ipo by better", "dpo by safer", "ipo by safer"),
        *("bfpo", "safedpo", "kto by better", "kto by safer", "sft"),
    )


def test_wrong_rows_are_counted_by_use_and_shown_by_line(tmp_path: Path) -> None:
    rows = [pku(i) for i in range(96)]
    rows[2] = pku(2) | {"response_1": False}
    rows[4] = pku(4, "same words", "same words")
    rows[6] = pku(5)  # line 7 repeats line 6
    rows[9] = pku(9) | {"safer_response_id": 1}
    report = check(entry_of(tmp_path, rows))
    assert report.unreadable == {"not text": 1}
    dropped = {use.name: use.dropped for use in report.uses}
    assert dropped["pairs by helpfulness"] == {"not text": 1, "duplicate": 1, "identical answers": 1}
    assert dropped["pairs by safety"] == dropped["pairs by helpfulness"] | {"contradictory labels": 1}
    assert report.wrong == (
        WrongRow("rows.jsonl", 3, "not text", "rows.jsonl line 3: response_1 is a boolean, expected text"),
        WrongRow("rows.jsonl", 5, "identical answers"),
        WrongRow("rows.jsonl", 7, "duplicate"),
        WrongRow("rows.jsonl", 10, "contradictory labels"),
    )
    assert all(use.possible for use in report.uses)
    strict = check(entry_of(tmp_path, rows), max_dropped=0.01)
    assert not any(use.possible for use in strict.uses)
    assert {use.why_not for use in strict.uses} == {"more than 1% of the rows would be dropped"}


def test_a_file_says_what_it_cannot_be_used_for(tmp_path: Path) -> None:
    rows = [{"prompt": f"p{i}", "chosen": "abc", "rejected": "ab" if i else "abcd"} for i in range(4)]
    report = check(entry_of(tmp_path, rows, axis="better"))
    assert report.objectives == ("dpo by better", "ipo by better", "kto by better", "sft")
    assert {use.name: use.why_not for use in report.uses if not use.possible} == {
        "pairs by safety": "missing order",
        "pairs with safety flags": "missing safety flag",
        "pairs, a safe answer first": "missing safety flag",
        "labels by safety": "missing safety flag",
    }
    assert report.longer_preferred == {"better": LongerWins(3, 4)}
    assert report.wrong == ()
    with pytest.raises(SettingError, match="axis: better"):
        check(entry_of(tmp_path, rows))


def test_labels_ratings_and_prompts(tmp_path: Path) -> None:
    rows = [{"prompt": "p", "completion": "c", "label": True, "tone_score": 3}, {"prompt": "q", "completion": "d"}]
    report = check(entry_of(tmp_path, rows))
    assert report.present == {"one answer": 2, "label": 1, "rating tone": 1}
    prompts = check(entry_of(tmp_path, ["p", "qqq"]))
    assert (prompts.present, prompts.objectives, prompts.answer_characters) == ({"prompt only": 2}, (), None)
    assert "yes  prompts: 2" in render(prompts)


def test_the_report_as_text_quotes_no_row(tmp_path: Path) -> None:
    rows = [pku(i, "a fox", "a longer fox") for i in range(30)]
    rows[3] = pku(3, "a fox", "a fox")
    text = render(check(entry_of(tmp_path, rows)))
    assert "fox" not in text
    assert text.splitlines()[0].endswith("rows.jsonl: 30 rows, layout pku")
    assert "  length    the longer answer is the better one in 100% of 29 pairs" in text
    assert "    yes  dpo by better, ipo by better: 29 examples (dropped: identical answers 1)" in text
    assert "    rows.jsonl line 4 (identical answers)" in text


def test_the_longer_answer_of_real_files(shared_data: Path) -> None:
    report = check(DataEntry(path="hh_rlhf_harmless_test/test.jsonl.gz", axis="safer"), base_dir=shared_data)
    share = report.longer_preferred["safer"].share
    assert share is not None
    assert round(share, 2) == 0.44
    assert report.objectives == ("dpo by safer", "ipo by safer", "sft")
    assert [row.reason for row in report.wrong] == ["empty completion"] * 4


def test_a_real_file_with_bad_rows(shared_data: Path) -> None:
    mapping = {"response_0": "response1", "response_1": "response2"}
    report = check(DataEntry(path="pandalm_test/testset-v1.json", map=mapping), base_dir=shared_data)
    assert report.unreadable == {"not text": 6}
    assert (report.wrong[0].line, report.wrong[0].reason) == (1886, "not text")
    assert report.objectives == ()


def test_pairs_that_safedpo_leaves_out_are_no_fault_of_the_file(tmp_path: Path) -> None:
    unsafe = {"is_response_0_safe": False, "is_response_1_safe": False}
    report = check(entry_of(tmp_path, [pku(i) | (unsafe if i % 2 else {}) for i in range(10)]))
    (use,) = (use for use in report.uses if use.objectives == ("safedpo",))
    assert (use.examples, use.dropped, use.possible) == (5, {"both answers unsafe": 5}, True)
    assert report.wrong == ()
