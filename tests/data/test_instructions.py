"""Dolly, Self-Instruct and OpenAssistant files become source rows."""

from __future__ import annotations

import json

import pytest

from equipoise.data.instructions import instruction_rows, read_dolly, read_oasst, read_self_instruct
from equipoise.data.relabel import pairs, sft_targets
from equipoise.data.sources import DataEntry
from equipoise.errors import DataError, SettingError


def _said(row):
    return [(turn["role"], turn["content"]) for turn in row.prompt], [r.text for r in row.responses]


def _node(role, text, *replies, rank=None, **more):
    return {"role": role, "text": text, "replies": list(replies), "rank": rank, **more}


TREE = {
    "message_tree_id": "t",
    "tree_state": "ready_for_export",
    "prompt": _node(
        "prompter",
        "How do I dry basil?",
        _node("assistant", "Hang it.", rank=1),
        _node(
            "assistant",
            "Hang it upside down in the shade.",
            _node("prompter", "How long?", _node("assistant", "Two weeks.")),
            rank=0,
        ),
        _node("assistant", "Nobody ranked this."),
        _node("assistant", "Deleted.", rank=2, deleted=True),
        _node("assistant", "Spam.", rank=3, review_result=False),
    ),
}


def test_dolly_joins_the_context():
    cells = {"instruction": "Who wrote it?", "context": "It was written by Ada.", "response": "Ada.", "category": "qa"}
    (row,) = read_dolly(cells, None)
    assert _said(row) == ([("user", "Who wrote it?\nIt was written by Ada.")], ["Ada."])
    assert row.category == "qa"
    (bare,) = read_dolly(cells | {"context": None, "category": None}, None)
    assert _said(bare) == ([("user", "Who wrote it?")], ["Ada."])
    assert bare.category is None


def test_self_instruct_gives_a_row_per_instance():
    cells = {
        "id": "seed_task_0",
        "instruction": "Add the numbers.",
        "instances": [{"input": "1 2", "output": "3"}, {"input": "", "output": "none"}],
        "is_classification": False,
    }
    first, second = read_self_instruct(cells, None)
    assert _said(first) == ([("user", "Add the numbers.\n1 2")], ["3"])
    assert _said(second) == ([("user", "Add the numbers.")], ["none"])


def test_oasst_tree_gives_a_row_per_answered_question():
    ranked, alone, deeper = read_oasst(TREE, "better")
    assert _said(ranked) == ([("user", "How do I dry basil?")], ["Hang it upside down in the shade.", "Hang it."])
    assert ranked.better == 0
    assert _said(alone) == ([("user", "How do I dry basil?")], ["Nobody ranked this."])
    assert alone.better is None
    assert _said(deeper) == (
        [
            ("user", "How do I dry basil?"),
            ("assistant", "Hang it upside down in the shade."),
            ("user", "How long?"),
        ],
        ["Two weeks."],
    )


def test_oasst_ranks_need_a_meaning():
    assert [row.better for row in read_oasst(TREE, None)] == [None, None, None]
    with pytest.raises(SettingError, match="ranks say which answer is better"):
        read_oasst(TREE, "safer")


@pytest.mark.parametrize(
    ("tree", "message"),
    [
        ({"prompt": "text"}, "not the first message"),
        ({"prompt": _node("narrator", "x")}, "role 'narrator'"),
        ({"prompt": _node("prompter", "x", _node("prompter", "y"))}, "its own side"),
        ({"prompt": {"role": "prompter", "text": "x", "replies": ["y"]}}, "not a list of messages"),
        ({"prompt": _node("prompter", 7)}, "text is a number"),
    ],
)
def test_damaged_trees_are_named(tree, message):
    with pytest.raises(DataError, match=message):
        read_oasst(tree, None)


def test_rows_have_ids_and_sources_and_bad_records_are_counted(tmp_path):
    path = tmp_path / "seeds.jsonl"
    good = {"instruction": "Say hi.", "instances": [{"input": "", "output": "hi"}]}
    path.write_text("\n".join(json.dumps(r) for r in (good, good | {"instances": []}, good | {"instances": 3})))
    entry, dropped = DataEntry(path=path), []
    (row,) = instruction_rows(entry, dropped=dropped)
    assert len(row.id) == 16 and row.source == str(path)
    assert [(d.reason, d.detail) for d in dropped] == [
        ("no answer", "seeds.jsonl line 2: instances is empty"),
        ("not text", "seeds.jsonl line 3: instances is not a list of objects with input and output"),
    ]
    with pytest.raises(DataError, match="line 2: instances is empty"):
        list(instruction_rows(entry))
    assert len(list(instruction_rows(DataEntry(path=path, limit=1)))) == 1


def test_settings_without_effect_are_refused(tmp_path):
    path = tmp_path / "seeds.jsonl"
    path.write_text(json.dumps({"instruction": "Say hi.", "instances": [{"input": "", "output": "hi"}]}))
    with pytest.raises(SettingError, match="axis: better has no effect on self-instruct"):
        list(instruction_rows(DataEntry(path=path, axis="better")))
    with pytest.raises(SettingError, match="format: dolly needs the columns context, response"):
        list(instruction_rows(DataEntry(path=path, format="dolly")))
    with pytest.raises(SettingError, match="no column task"):
        list(instruction_rows(DataEntry(path=path, map={"instruction": "task"})))


def test_other_shapes_are_passed_on(tmp_path):
    path = tmp_path / "alpaca.json"
    path.write_text(json.dumps([{"instruction": "Say hi.", "input": "", "output": "hi"}]))
    (row,) = instruction_rows(DataEntry(path=path))
    assert _said(row) == ([("user", "Say hi.")], ["hi"])
    (renamed,) = instruction_rows(DataEntry(path="alpaca.json", format="alpaca"), base_dir=tmp_path)
    assert _said(renamed) == _said(row)


@pytest.mark.parametrize(
    ("name", "rows"),
    [
        ("dolly_1k/databricks_dolly_15k.csv", 1000),
        ("self_instruct/seed_tasks.jsonl", 175),
        ("llamafactory_demo/alpaca_en_demo.json", 999),
    ],
)
def test_public_sets_are_read_whole(shared_data, name, rows):
    found = list(instruction_rows(DataEntry(path=shared_data / name)))
    assert len(found) == rows
    used, dropped = sft_targets(found, choose="first")
    assert len(used) + len(dropped) == rows
    assert {row.reason for row in dropped} <= {"duplicate"}
    assert len(dropped) <= 0.02 * rows


def test_public_trees_are_read_whole(shared_data):
    entry = DataEntry(path=shared_data / "oasst_en" / "en_100_tree.jsonl", axis="better")
    found = list(instruction_rows(entry))
    assert sum(len(row.responses) for row in found) == 687  # 333 first, 346 second and 8 third answers
    assert all(row.prompt[-1]["role"] == "user" for row in found)
    used, _ = sft_targets(found, choose="first")
    assert len(used) == len(found) == 255
    ordered = [row for row in found if row.better == 0]
    assert len(ordered) == 212  # questions with a rank 0
    preferred, _ = pairs(found, prefer="better")
    assert len(preferred) > 400
    texts = list(instruction_rows(DataEntry(path=shared_data / "oasst_en" / "en_100_text.jsonl")))
    assert len(texts) == 100 and not any(row.responses for row in texts)
