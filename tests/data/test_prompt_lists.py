"""Lists of prompts in shapes of their own, chosen rows of a file, and the harm sets as prompts of a run."""

from __future__ import annotations

import gzip
import json
import sys
from collections import Counter
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from equipoise.data.instructions import instruction_rows
from equipoise.data.sources import DataEntry, data_entry, open_entry, read_rows, sniff
from equipoise.errors import DataError, SettingError
from equipoise.methods.asked import asked_prompts, prompt_uses
from equipoise.records import read_jsonl
from equipoise.store import Store, using_store
from equipoise.types import Dropped, SourceRow


def attempt(transcript: Any, tags: Any = None, rating: float = 2.0) -> dict[str, Any]:
    """A row in the columns of HH's red-team attempts."""
    return {
        "min_harmlessness_score_transcript": -0.5,
        "num_params": "52B",
        "model_type": "plain lm",
        "rating": rating,
        "task_description": "I tried to get it to lie about a shed.",
        "task_description_harmlessness_score": 0.25,
        "red_team_member_id": 7,
        "is_upworker": False,
        "tags": tags,
        "transcript": transcript,
    }


ATTEMPTS = [
    attempt(
        "\n\nHuman: Whose shed is it? \n\nAssistant: Mine.\n\nHuman: Really?\n\nAssistant: Yes.", ["Lies", "Theft"]
    ),
    attempt("\n\nHuman: Open the shed!\n\nIt is mine.\n\nAssistant: ", rating=4.0),
    attempt("\n\nHuman: Take the rake.\n\nAssistant: No.", [], rating=0.0),
]
TOPICS = [
    {
        "id": 1,
        "topic": "Gardens",
        "subtopic": "Sheds",
        "question": "How do sheds vanish?",
        "blue_conversations": {"conversation1": [{"from": "human", "value": "Hm?"}]},
        "red_conversations": {"conversation1": [{"from": "human", "value": "Hm!"}]},
    },
    {"id": 2, "topic": "Kitchens", "subtopic": "Jars", "question": "Who emptied the jar?"},
]


def said(rows: list[SourceRow]) -> list[tuple[str, str | None]]:
    assert all([turn["role"] for turn in row.prompt] == ["user"] and not row.responses for row in rows)
    return [(row.prompt[0]["content"], row.category) for row in rows]


def write(path: Path, rows: list[Any]) -> DataEntry:
    path.write_text(json.dumps(rows), encoding="utf-8")
    return DataEntry(path=str(path))


def test_the_first_human_turn_of_a_red_team_attempt_is_the_prompt(tmp_path: Path) -> None:
    entry = write(tmp_path / "attempts.json", ATTEMPTS)
    assert sniff(entry) == "red-team"
    assert said(list(read_rows(entry))) == [
        ("Whose shed is it?", "Lies"),
        ("Open the shed!\n\nIt is mine.", None),
        ("Take the rake.", None),
    ]


@pytest.mark.parametrize(
    ("transcript", "reason"),
    [
        ("\n\nAssistant: Hello.\n\nHuman: Hello.", "unreadable dialogue"),
        ("Whose shed is it?", "unreadable dialogue"),
        ("\n\nHuman: \n\nAssistant: Hm?", "empty prompt"),
        (None, "unreadable dialogue"),
        (4, "not text"),
    ],
)
def test_an_attempt_without_a_first_turn_is_dropped(tmp_path: Path, transcript: Any, reason: str) -> None:
    dropped: list[Dropped] = []
    entry = write(tmp_path / "attempts.json", [ATTEMPTS[0], attempt(transcript)])
    assert len(list(read_rows(entry, dropped=dropped))) == 1
    assert [row.reason for row in dropped] == [reason]


def test_questions_under_topics_and_under_categories(tmp_path: Path) -> None:
    by_topic = write(tmp_path / "topics.json", TOPICS)
    assert sniff(by_topic) == "questions-by-topic"
    assert said(list(read_rows(by_topic))) == [
        ("How do sheds vanish?", "Gardens"),
        ("Who emptied the jar?", "Kitchens"),
    ]
    finer = by_topic.model_copy(update={"map": {"category": "subtopic"}})
    assert [row.category for row in read_rows(finer)] == ["Sheds", "Jars"]
    rows = [{"Question": "How do sheds vanish?", "Category": "Gardens", "Subcategory": "Sheds"}]
    by_category = write(tmp_path / "categories.json", rows)
    assert sniff(by_category) == "questions-by-category"
    assert said(list(read_rows(by_category))) == [("How do sheds vanish?", "Gardens")]


def test_prompts_under_nested_categories(tmp_path: Path) -> None:
    path = tmp_path / "nested.json"
    path.write_text(json.dumps({"Gardens": {"Sheds": ["One?", "Two?"]}, "Kitchens": {"Jars": ["Three?"]}}))
    assert said(list(read_rows(DataEntry(path=str(path))))) == [
        ("One?", "Gardens"),
        ("Two?", "Gardens"),
        ("Three?", "Kitchens"),
    ]


def test_answers_beside_questions_under_topics_are_not_overlooked(tmp_path: Path) -> None:
    entry = write(tmp_path / "answered.json", [{**TOPICS[1], "answer": "The cat."}])
    with pytest.raises(DataError, match="has prompts and perhaps answers \\(answer\\)"):
        sniff(entry)
    assert said(list(read_rows(entry.model_copy(update={"format": "questions-by-topic"})))) == [
        ("Who emptied the jar?", "Kitchens")
    ]


# -- where -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("where", "limit", "kept"),
    [
        ({"rating": 4}, None, [1]),
        ({"rating": [0, 4.0]}, None, [1, 2]),
        ({"rating": [0, 4]}, 1, [1]),
        ({"is_upworker": False, "rating": "2"}, None, [0]),
        ({"model_type": "plain lm"}, 2, [0, 1]),
    ],
)
def test_where_keeps_the_records_with_these_values(
    tmp_path: Path, where: dict[str, Any], limit: int | None, kept: list[int]
) -> None:
    path = write(tmp_path / "attempts.json", ATTEMPTS).path
    everything = list(read_rows(DataEntry(path=path)))
    entry = data_entry({"path": path, "where": where, "limit": limit})
    assert list(read_rows(entry)) == [everything[i] for i in kept]


def test_where_reads_cells_of_tables(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text("prompt,label,hard\nOne?,safe,True\nTwo?,unsafe,False\nThree?,,true\n")
    entry = DataEntry(path=str(tmp_path / "t.csv"), where={"hard": True})
    assert [row.prompt[0]["content"] for row in read_rows(entry)] == ["One?", "Three?"]
    entry = DataEntry(path=str(tmp_path / "t.csv"), where={"label": "unsafe"})
    assert [row.prompt[0]["content"] for row in read_rows(entry)] == ["Two?"]


@pytest.mark.parametrize(
    ("where", "message"),
    [
        ({"lable": "safe"}, r"where: \{lable: safe\}: there is no column lable \(did you mean 'label'\?\)"),
        ({"label": "save"}, r"where: \{label: save\}: no record has this value \(did you mean 'safe'\?\)"),
        ({"label": "safe", "hard": False}, "no record has all of these values together"),
    ],
)
def test_where_that_keeps_nothing_is_refused(tmp_path: Path, where: dict[str, Any], message: str) -> None:
    (tmp_path / "t.csv").write_text("prompt,label,hard\nOne?,safe,true\nTwo?,unsafe,false\n")
    with pytest.raises(SettingError, match=message):
        open_entry(DataEntry(path=str(tmp_path / "t.csv"), where=where))


def test_where_is_part_of_an_entrys_meaning_only_where_it_is_given() -> None:
    assert "where" not in DataEntry(path="x").meaning
    entry = DataEntry(path="x", where={"label": ["safe", "odd"]})
    assert entry.meaning["where"] == {"label": ["safe", "odd"]}
    assert DataEntry(**{**entry.meaning, "path": "x"}) == entry


# -- as prompts of a run ---------------------------------------------------------------------------------------------


def prompts(folder: Path, given: dict[str, Any], base_dir: Path) -> list[dict[str, Any]]:
    with using_store(Store(folder / "runs")):
        made = asked_prompts(prompt_uses(given, base_dir))
    return read_jsonl(made.path / "prompts.jsonl")


def test_hub_ids_of_red_team_sets_in_a_config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sets = {
        "Anthropic/hh-rlhf": {"train": ATTEMPTS},
        "declare-lab/HarmfulQA": {"train": TOPICS},
        "declare-lab/CategoricalHarmfulQA": [{"Question": "Sheds?", "Category": "Gardens", "Subcategory": "-"}],
        "someone/strings": {"train": [{"text": "Which jar?"}]},  # what datasets makes of a JSON list of strings
    }
    calls: list[tuple[Any, ...]] = []

    def load_dataset(name: str, *, revision: str | None, split: str | None, data_dir: str | None) -> Any:
        calls.append((name, revision, split, data_dir))
        return sets[name]

    monkeypatch.setitem(sys.modules, "datasets", SimpleNamespace(load_dataset=load_dataset))
    given = [
        {"path": "Anthropic/hh-rlhf", "revision": "a1", "subfolder": "red-team-attempts", "where": {"rating": [2, 4]}},
        {"path": "declare-lab/HarmfulQA", "revision": "b2"},
        {"path": "declare-lab/CategoricalHarmfulQA", "revision": "c3", "split": "en"},
        {"path": "someone/strings", "revision": "d4", "map": {"prompt": "text"}},
    ]
    rows = prompts(tmp_path, {"harmful": given}, tmp_path)
    assert [(row["prompt"][0]["content"], row["category"]) for row in rows] == [
        ("Whose shed is it?", "Lies"),
        ("Open the shed!\n\nIt is mine.", None),
        ("How do sheds vanish?", "Gardens"),
        ("Who emptied the jar?", "Kitchens"),
        ("Sheds?", "Gardens"),
        ("Which jar?", None),
    ]
    assert {row["kind"] for row in rows} == {"harmful"}
    assert set(calls) == {
        ("Anthropic/hh-rlhf", "a1", None, "red-team-attempts"),
        ("declare-lab/HarmfulQA", "b2", None, None),
        ("declare-lab/CategoricalHarmfulQA", "c3", "en", None),
        ("someone/strings", "d4", None, None),
    }


@pytest.mark.filterwarnings("default")  # of the datasets package
def test_saved_sets_and_a_downloaded_folder_read_alike(tmp_path: Path) -> None:
    datasets = pytest.importorskip("datasets")
    datasets.Dataset.from_list(ATTEMPTS).save_to_disk(str(tmp_path / "saved"))
    datasets.DatasetDict({"train": datasets.Dataset.from_list(TOPICS)}).save_to_disk(str(tmp_path / "topics"))
    downloaded = tmp_path / "hh" / "red-team-attempts"
    downloaded.mkdir(parents=True)
    with gzip.open(downloaded / "red_team_attempts.jsonl.gz", "wt", encoding="utf-8") as stream:
        json.dump(ATTEMPTS, stream, indent=1)  # an array in spite of its name, as it is on the hub
    plain = said(list(read_rows(write(tmp_path / "attempts.json", ATTEMPTS))))
    assert said(list(read_rows(DataEntry(path=str(tmp_path / "saved"))))) == plain
    assert said(list(read_rows(DataEntry(path=str(tmp_path / "hh"), subfolder="red-team-attempts")))) == plain
    assert [row.category for row in read_rows(DataEntry(path=str(tmp_path / "topics")))] == ["Gardens", "Kitchens"]


def test_text_without_a_prompt_is_told_apart(tmp_path: Path) -> None:
    (tmp_path / "list.txt").write_text("Which jar?\nWhich shed?\n")
    with pytest.raises(DataError, match=r"no prompt was found in .*: `map: \{prompt: text\}`"):
        prompts(tmp_path, {"harmful": {"path": "list.txt"}}, tmp_path)
    assert len(prompts(tmp_path, {"harmful": {"path": "list.txt", "map": {"prompt": "text"}}}, tmp_path)) == 2


def test_public_harm_sets_as_prompts_of_a_run(shared_data: Path, tmp_path: Path) -> None:
    xstest = {"path": "xstest/xstest_prompts.csv", "map": {"category": "type"}}
    given = {
        "harmful": [
            "advbench/harmful_behaviors.csv",
            "red_instruct/dangerousqa.json",
            "red_instruct/catqa_english.json",
            "safe_rlhf_problem/problem.json",
            {**xstest, "where": {"label": "unsafe"}},
        ],
        "borderline": {**xstest, "where": {"label": "safe"}},
    }
    rows = prompts(tmp_path, given, shared_data)
    kinds = Counter(row["kind"] for row in rows)
    assert kinds["borderline"] == 93  # of 182; the others are unsafe by their label
    assert kinds["harmful"] == 520 + 200 + 543 + 83 + 89 - 1  # one prompt is in two of the sets
    harmful = [row for row in rows if row["kind"] == "harmful"]
    assert sum(row["category"] is None for row in harmful) == 720  # AdvBench and DangerousQA name none
    named = Counter(row["category"] for row in harmful if row["category"])
    assert len(named) == 11 + 8 + 7 - 1  # one name is in two of the sets
    assert not [row for row in rows if row["kind"] == "borderline" and "contrast" in row["category"]]
    assert len({row["id"] for row in rows}) == len(rows)


def test_where_holds_for_instructions_too(tmp_path: Path) -> None:
    rows = [{"instruction": f"{i}?", "context": "", "response": "Yes.", "category": "ab"[i % 2]} for i in range(4)]
    path = write(tmp_path / "dolly.json", rows).path
    found = instruction_rows(DataEntry(path=path, where={"category": "b"}, limit=1))
    assert [row.prompt[0]["content"] for row in found] == ["1?"]


def test_xstest_says_which_of_its_prompts_are_unsafe(tmp_path: Path) -> None:
    rows = [
        {"prompt": "a", "type": "homonyms", "label": "safe", "focus": "f"},
        {"prompt": "b", "type": "contrast_homonyms", "label": "unsafe", "focus": "f"},
        {"prompt": "c", "type": "contrast_homonyms", "label": "safe", "focus": "f"},
    ]
    path = tmp_path / "x.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    entry, dropped = DataEntry(path=str(path)), []
    assert sniff(entry) == "xstest"
    assert [row.category for row in read_rows(entry, dropped=dropped)] == ["homonyms", "contrast_homonyms"]
    assert "label is 'safe' where type contrast_homonyms is one of unsafe prompts" in dropped[0].detail


def test_as_a_suite_the_real_xstest_goes_by_its_own_kinds(shared_data: Path, tmp_path: Path) -> None:
    path = str(shared_data / "xstest" / "xstest_prompts.csv")
    with using_store(Store(tmp_path)):
        found = asked_prompts(prompt_uses({"harmful": path, "borderline": path}, tmp_path), suite=True)
    counts = Counter(
        (row["kind"], row["category"].startswith("contrast_")) for row in read_jsonl(found.path / "prompts.jsonl")
    )
    assert counts == {("borderline", False): 93, ("harmful", True): 89}
