"""Source rows -> training rows: chosen, labels, targets, and every reason to leave a row out."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from equipoise.data.columns import Reason
from equipoise.data.relabel import (
    count_reasons,
    enforce,
    pairs,
    sft_targets,
    split_by_prompt,
    taken_as_safe,
    unpaired,
)
from equipoise.data.sources import DataEntry, read_rows
from equipoise.errors import DataError, SettingError
from equipoise.types import Dropped, Message, Response, SourceRow, TrainingRow


def user(content: str) -> Message:
    return Message(role="user", content=content)


def said(content: str) -> list[Message]:
    return [Message(role="assistant", content=content)]


def pair(
    first: Response | str = "a",
    second: Response | str = "b",
    *,
    id: str = "r",
    prompt: str = "p",
    better: int | None = 0,
    safer: int | None = 1,
) -> SourceRow:
    responses = tuple(Response(r) if isinstance(r, str) else r for r in (first, second))
    return SourceRow(id=id, prompt=(user(prompt),), responses=responses, better=better, safer=safer)


def single(text: str = "a", *, id: str = "r", desirable: bool | None = None, safe: bool | None = None) -> SourceRow:
    return SourceRow(id=id, prompt=(user("p"),), responses=(Response(text, safe=safe),), desirable=desirable)


def reasons(dropped: list[Dropped]) -> list[str]:
    return [row.reason for row in dropped]


# -- pairs -----------------------------------------------------------------------------------------------------------


def test_chosen_is_the_preferred_answer_of_either_order() -> None:
    row = pair(better=0, safer=1)
    assert pairs([row], prefer="better") == (
        [{"id": "r-01", "prompt": [user("p")], "chosen": said("a"), "rejected": said("b")}],
        [],
    )
    assert pairs([row], prefer="safer") == (
        [{"id": "r-10", "prompt": [user("p")], "chosen": said("b"), "rejected": said("a")}],
        [],
    )


def test_pairs_carry_what_is_known_of_both_answers() -> None:
    first = Response("a", safe=True, severity=0, reward=1.5, cost=-2.0, ratings={"tone": 4.0, "depth": 2.0})
    second = Response("b", safe=False, severity=3, reward=0.5, ratings={"tone": 1.0})
    (row,), _ = pairs([pair(first, second)], prefer="better")
    extra = {name: value for name, value in row.items() if name.startswith(("chosen_", "rejected_"))}
    assert extra == {
        "chosen_safe": True,
        "rejected_safe": False,
        "chosen_severity": 0,
        "rejected_severity": 3,
        "chosen_reward": 1.5,
        "rejected_reward": 0.5,
        "chosen_tone": 4.0,
        "rejected_tone": 1.0,
    }


def test_a_lead_stays_with_its_answer() -> None:
    lead = (said("x")[0], user("q"))
    (row,), _ = pairs([pair("a", Response("b", lead=lead))], prefer="better")
    assert row["chosen"] == said("a")
    assert row["rejected"] == [*lead, *said("b")]
    assert row["prompt"] == [user("p")]


def test_the_preferred_of_several_answers_is_paired_with_each_other_one() -> None:
    row = SourceRow(id="r", prompt=(user("p"),), responses=(Response("a"), Response("b"), Response("c")), better=1)
    used, dropped = pairs([row], prefer="better")
    assert [(r["id"], r["chosen"], r["rejected"]) for r in used] == [
        ("r-10", said("b"), said("a")),
        ("r-12", said("b"), said("c")),
    ]
    assert dropped == []


UNSAFE_SAFER = pair(Response("a", safe=True), Response("b", safe=False), better=0, safer=1)


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        (pair("same", "same "), Reason.IDENTICAL),
        (pair("a", " \n"), Reason.EMPTY_COMPLETION),
        (pair("", ""), Reason.EMPTY_COMPLETION),
        (pair(prompt="  "), Reason.EMPTY_PROMPT),
        (pair(safer=None), Reason.NO_ORDER),
        (single(), Reason.NO_ORDER),
        (SourceRow(id="r", prompt=(user("p"),)), Reason.NO_ANSWER),
        (SourceRow(id="r", prompt=(), responses=(Response("a"),)), Reason.EMPTY_PROMPT),
        (UNSAFE_SAFER, Reason.CONTRADICTORY),
    ],
)
def test_reasons_to_drop_a_pair(row: SourceRow, reason: Reason) -> None:
    used, dropped = pairs([row], prefer="safer")
    assert used == []
    assert reasons(dropped) == [reason]
    assert dropped[0].id.startswith("r")


def test_a_contradiction_of_safety_labels_does_not_touch_helpfulness() -> None:
    assert len(pairs([UNSAFE_SAFER], prefer="better")[0]) == 1
    both_unsafe = pair(Response("a", safe=False), Response("b", safe=False))
    assert len(pairs([both_unsafe], prefer="safer")[0]) == 1


def test_a_prompt_in_the_lead_is_a_prompt() -> None:
    responses = (Response("a", lead=(user("p"),)), Response("b", lead=(user("q"),)))
    row = SourceRow(id="r", prompt=(), responses=responses, better=0)
    assert len(pairs([row], prefer="better")[0]) == 1


@pytest.mark.parametrize(
    "derive",
    [
        lambda rows: pairs(rows, prefer="better"),
        lambda rows: unpaired(rows, prefer="better"),
        lambda rows: sft_targets(rows, choose="better"),
    ],
)
def test_the_same_content_is_used_once(derive: Callable[[list[SourceRow]], tuple[list[Any], list[Dropped]]]) -> None:
    once, _ = derive([pair(id="r"), pair("c", "d", id="s")])
    used, dropped = derive([pair(id="r"), pair("c", "d", id="s"), pair(id="r")])
    assert used == once
    assert dropped == [Dropped("r", Reason.DUPLICATE)]


# -- safety flags ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("flags", "order"),
    [((True, True), "01"), ((True, False), "01"), ((False, True), "10"), ((False, False), None)],
)
def test_safedpo_keeps_swaps_or_leaves_out(flags: tuple[bool, bool], order: str | None) -> None:
    row = pair(Response("a", safe=flags[0]), Response("b", safe=flags[1]), better=0)
    used, dropped = pairs([row], prefer="better_if_safe")
    assert [r["id"] for r in used] == ([f"r-{order}"] if order else [])
    assert dropped == ([] if order else [Dropped("r-01", Reason.BOTH_UNSAFE)])
    if order == "10":
        assert (used[0]["chosen"], used[0]["rejected"]) == (said("b"), said("a"))
        assert {k: v for k, v in used[0].items() if k.endswith("_safe")} == {
            "chosen_safe": True,
            "rejected_safe": False,
        }
    enforce(dropped, total=1, name="safe")  # left out on purpose: not against max_dropped


@pytest.mark.parametrize("flags", [(None, None), (True, None), (None, False)])
def test_pairs_without_both_flags_are_dropped_where_they_are_needed(flags: tuple[bool | None, bool | None]) -> None:
    row = pair(Response("a", safe=flags[0]), Response("b", safe=flags[1]))
    assert len(pairs([row], prefer="better")[0]) == 1
    assert reasons(pairs([row], prefer="better", flagged=True)[1]) == [Reason.NO_SAFETY_FLAG]
    assert reasons(pairs([row], prefer="better_if_safe")[1]) == [Reason.NO_SAFETY_FLAG]
    with pytest.raises(
        DataError, match=r"1 missing safety flag.*have a scorer or a judge label the answers; `equipoise init FILE`"
    ):
        enforce(pairs([row], prefer="better", flagged=True)[1], total=1, name="pairs")


def test_answers_of_a_buffer_are_taken_as_safe_unless_somebody_said_otherwise() -> None:
    rows = [pair(Response("a"), Response("b", safe=True)), pair(Response("a"), Response("b", safe=False), id="s")]
    (row,) = taken_as_safe(rows[:1], name="buffer")
    assert [answer.safe for answer in row.responses] == [True, True] and row.id == "r" and row.better == 0
    with pytest.raises(DataError, match=r"buffer: 1 of 2 rows hold an answer flagged unsafe \(first row s\)"):
        taken_as_safe(rows, name="buffer")


# -- unpaired --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("flags", "by_safety"),
    [((True, True), [True, True]), ((False, False), [False, False]), ((False, True), [False, True])],
)
def test_kto_labels_by_order_for_helpfulness_and_by_flag_for_safety(
    flags: tuple[bool, bool], by_safety: list[bool]
) -> None:
    row = pair(Response("a", safe=flags[0]), Response("b", safe=flags[1]), better=0, safer=1)
    used, dropped = unpaired([row], prefer="better")
    assert used == [
        {"id": "r-0", "prompt": [user("p")], "completion": said("a"), "safe": flags[0], "label": True},
        {"id": "r-1", "prompt": [user("p")], "completion": said("b"), "safe": flags[1], "label": False},
    ]
    assert dropped == []
    assert [row["label"] for row in unpaired([row], prefer="safer")[0]] == by_safety


def test_an_answer_with_its_own_label_keeps_it() -> None:
    rows = [single(id="r", desirable=False), single("b", id="s", desirable=True, safe=False)]
    assert [row["label"] for row in unpaired(rows, prefer="better")[0]] == [False, True]
    assert [row["label"] for row in unpaired(rows, prefer="safer")[0]] == [False, True]


def test_reasons_to_drop_an_unpaired_answer() -> None:
    assert reasons(unpaired([pair()], prefer="safer")[1]) == [Reason.NO_SAFETY_FLAG] * 2
    assert reasons(unpaired([pair(better=None)], prefer="better")[1]) == [Reason.NO_ORDER] * 2
    assert reasons(unpaired([UNSAFE_SAFER], prefer="safer")[1]) == [Reason.CONTRADICTORY]
    assert reasons(unpaired([pair("a", "a")], prefer="better")[1]) == [Reason.IDENTICAL]
    used, dropped = unpaired([pair("a", "")], prefer="better")
    assert [row["id"] for row in used] == ["r-0"]
    assert dropped == [Dropped("r-1", Reason.EMPTY_COMPLETION)]


def test_ratings_of_single_answers_do_not_collide_with_columns() -> None:
    row = SourceRow(id="r", prompt=(user("p"),), responses=(Response("a", ratings={"label": 3.0}),), desirable=True)
    (found,), _ = unpaired([row], prefer="better")
    assert (found["label"], found["label_score"]) == (True, 3.0)


# -- sft -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("choose", "expected"),
    [("better", ["r-1"]), ("safer", ["r-0"]), ("all", ["r-0", "r-1"]), ("safe", ["r-0"]), ("first", ["r-0"])],
)
def test_targets_to_imitate(choose: Any, expected: list[str]) -> None:
    row = pair(Response("a", safe=True), Response("b", safe=False), better=1, safer=0)
    used, dropped = sft_targets([row], choose=choose)
    assert [row["id"] for row in used] == expected
    assert dropped == []
    assert set(used[0]) == {"id", "prompt", "completion", "safe"}


def test_targets_of_single_answers_and_reasons() -> None:
    assert sft_targets([single()], choose="better")[0] == [
        {"id": "r-0", "prompt": [user("p")], "completion": said("a")}
    ]
    assert reasons(sft_targets([single()], choose="safe")[1]) == [Reason.NO_SAFETY_FLAG]
    assert reasons(sft_targets([pair(better=None)], choose="better")[1]) == [Reason.NO_ORDER]
    assert reasons(sft_targets([UNSAFE_SAFER], choose="safer")[1]) == [Reason.CONTRADICTORY]
    assert reasons(sft_targets([single(" ")], choose="all")[1]) == [Reason.EMPTY_COMPLETION]
    assert sft_targets([single(safe=False)], choose="safe") == ([], [])
    assert len(sft_targets([pair("a", "a")], choose="first")[0]) == 1


def test_choices_are_named() -> None:
    with pytest.raises(SettingError, match=r"choose is bettr \(did you mean 'better'\?\)"):
        sft_targets([], choose="bettr")  # type: ignore[arg-type]
    with pytest.raises(SettingError, match="prefer is saver"):
        pairs([], prefer="saver")  # type: ignore[arg-type]


# -- policy ----------------------------------------------------------------------------------------------------------


def test_too_many_dropped_rows_are_refused_with_their_reasons() -> None:
    dropped = [Dropped("r", Reason.IDENTICAL)] * 2 + [Dropped("s", Reason.EMPTY_PROMPT)] * 4
    enforce(dropped, total=120, name="helpful")  # exactly 5 %
    with pytest.raises(DataError) as caught:
        enforce(dropped, total=119, name="helpful")
    assert str(caught.value) == (
        "helpful: 6 of 119 rows cannot be used (4 empty prompt, 2 identical answers), "
        "more than max_dropped = 0.05 allows"
    )
    enforce(dropped, total=6, name="helpful", max_dropped=1.0)
    with pytest.raises(DataError, match="helpful holds no rows"):
        enforce([], total=0, name="helpful")
    with pytest.raises(SettingError, match="max_dropped is 5"):
        enforce([], total=1, name="helpful", max_dropped=5)
    assert count_reasons(dropped) == {"empty prompt": 4, "identical answers": 2}


def test_a_prompt_is_on_one_side_of_a_split() -> None:
    rows = [pair(id=f"{i}-{j}", prompt=f"question {i}") for j in range(2) for i in range(500)]
    train, test = split_by_prompt(rows, test_fraction=0.3, seed=1)
    assert len(train) + len(test) == 1000
    assert not {row.prompt[0]["content"] for row in train} & {row.prompt[0]["content"] for row in test}
    assert 0.25 < len(test) / 1000 < 0.35  # 500 prompts: four standard deviations are 0.08
    assert split_by_prompt(rows[::-1], test_fraction=0.3, seed=1)[1] == test[::-1]
    assert split_by_prompt(rows, test_fraction=0.3, seed=2)[1] != test
    assert split_by_prompt(rows, test_fraction=0.0)[1] == []
    assert split_by_prompt(rows, test_fraction=1.0)[0] == []
    with pytest.raises(SettingError, match="test_fraction is 30"):
        split_by_prompt(rows, test_fraction=30)


def test_training_rows_split_as_their_source_rows() -> None:
    rows = [pair(id=str(i), prompt=f"question {i}") for i in range(50)]
    derived: list[TrainingRow] = pairs(rows, prefer="better")[0]
    test = split_by_prompt(rows, test_fraction=0.5)[1]
    assert [row["id"] for row in split_by_prompt(derived, test_fraction=0.5)[1]] == [f"{row.id}-01" for row in test]


# -- real files ------------------------------------------------------------------------------------------------------


def test_flagged_pairs_by_safety_hold_one_safe_and_one_unsafe_answer() -> None:
    alike = pair(Response("a", safe=True), Response("b", safe=True), id="alike", safer=0)
    mixed = pair(Response("a", safe=True), Response("b", safe=False), id="mixed", safer=0)
    unsaid = pair(Response("a", safe=True), Response("b"), id="unsaid", safer=0)
    used, dropped = pairs([alike, mixed, unsaid], prefer="safer", flagged=True)
    assert [row["id"] for row in used] == ["mixed-01"]
    assert {row.id: row.reason for row in dropped} == {
        "alike-01": Reason.NO_ORDER,
        "unsaid-01": Reason.NO_SAFETY_FLAG,
    }
    assert len(pairs([alike, mixed, unsaid], prefer="safer")[0]) == 3


def test_pairs_of_real_files_and_back(shared_data: Path, tmp_path: Path) -> None:
    harmless = read_rows(DataEntry(path="hh_rlhf_harmless_test/test.jsonl.gz", axis="safer"), base_dir=shared_data)
    used, dropped = pairs(harmless, prefer="safer")
    assert (len(used), count_reasons(dropped)) == (2308, {"empty completion": 4})
    assert sum(len(row["chosen"]) > 1 or len(row["rejected"]) > 1 for row in used) == 5
    enforce(dropped, total=2312, name="hh")
    written = tmp_path / "rows.jsonl"
    written.write_text("\n".join(map(json.dumps, used)), encoding="utf-8")
    again, lost = pairs(read_rows(DataEntry(path=str(written), axis="safer")), prefer="safer")
    content = ("prompt", "chosen", "rejected")
    assert [[row[name] for name in content] for row in again] == [[row[name] for name in content] for row in used]
    assert lost == []


def test_kto_rows_of_pku(shared_data: Path) -> None:
    entry = DataEntry(path="pku_saferlhf_schema32/pku_saferlhf_32.json")
    rows = list(read_rows(entry, base_dir=shared_data))
    helpful, _ = unpaired(rows, prefer="better")
    safe, dropped = unpaired(rows, prefer="safer")
    assert sum(row["label"] for row in helpful) == 32
    assert (len(safe), sum(row["label"] for row in safe), dropped) == (64, 27, [])
    assert all(row["label"] == row["safe"] for row in safe)
