"""Records -> source rows: two literal rows for every layout, axes and maps, and the real files."""

from __future__ import annotations

import json
import sys
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from equipoise.data.formats import LAYOUTS
from equipoise.data.sources import DataEntry, data_entry, read_rows, sniff
from equipoise.errors import DataError, SettingError
from equipoise.types import Dropped, Message, Response, SourceRow


@pytest.fixture
def read(tmp_path: Path):
    """Write rows as JSON lines and read them as an entry with the given keys."""

    def reader(rows: Sequence[Any], **keys: Any) -> list[SourceRow]:
        (tmp_path / "rows.jsonl").write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
        return list(read_rows(DataEntry(path="rows.jsonl", **keys), base_dir=tmp_path))

    return reader


def turns(*said: str, system: str | None = None) -> tuple[Message, ...]:
    """Alternate user and assistant."""
    first = () if system is None else (Message(role="system", content=system),)
    return first + tuple(Message(role=("user", "assistant")[i % 2], content=text) for i, text in enumerate(said))


def dialogue(*said: str, role: str = "role", content: str = "content", names: tuple[str, str] = ("user", "assistant")):
    return [{role: names[i % 2], content: text} for i, text in enumerate(said)]


def texts(row: SourceRow) -> list[str]:
    return [response.text for response in row.responses]


PAIR = {"prompt": "p", "chosen": "good", "rejected": "bad"}
PKU = {
    "prompt": "p",
    "response_0": "a",
    "response_1": "b",
    "is_response_0_safe": True,
    "is_response_1_safe": False,
    "better_response_id": 1,
    "safer_response_id": 0,
}


# -- TRL -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("axis", ["better", "safer"])
def test_explicit_pairs_as_text_and_as_messages(read, axis: str) -> None:
    conversational = {
        "prompt": dialogue("p"),
        "chosen": [{"role": "assistant", "content": "good"}],
        "rejected": [{"role": "assistant", "content": "bad"}],
    }
    first, second = read([PAIR, conversational], axis=axis)
    assert first.prompt == second.prompt == turns("p")
    assert first.responses == second.responses == (Response("good"), Response("bad"))
    assert (first.better, first.safer) == ((0, None) if axis == "better" else (None, 0))
    assert first.id == second.id
    assert len(first.id) == 16
    assert int(first.id, 16) >= 0


def test_implicit_prompts_are_the_shared_turns(read) -> None:
    usual = {"chosen": dialogue("p", "x", "q", "good"), "rejected": dialogue("p", "x", "q", "bad")}
    early = {"chosen": dialogue("p", "good"), "rejected": dialogue("p", "x", "q", "bad")}
    first, second = read([usual, early], axis="better")
    assert first.prompt == turns("p", "x", "q")
    assert first.responses == (Response("good"), Response("bad"))
    assert second.prompt == turns("p")
    assert second.responses[0] == Response("good")
    assert second.responses[1] == Response("bad", lead=turns("-", "x", "q")[1:])


def test_whole_dialogues_beside_a_prompt_column(read) -> None:
    row = {"prompt": "p", "chosen": dialogue("p", "good"), "rejected": dialogue("p", "bad"), "score_chosen": 4.5}
    row |= {"score_rejected": 2, "messages": dialogue("p", "good"), "chosen_model": "m", "rejected_model": "n"}
    (found,) = read([row], axis="better")
    assert found.prompt == turns("p")
    assert texts(found) == ["good", "bad"]
    assert [response.ratings for response in found.responses] == [{"score": 4.5}, {"score": 2.0}]
    with pytest.raises(
        DataError, match=r"rows\.jsonl line 1: chosen is a whole dialogue that does not hold the prompt"
    ):
        read([row | {"prompt": "another"}], axis="better")


def test_prompt_completion_label(read) -> None:
    rows = [{"prompt": "p", "completion": "c", "label": True}, {"prompt": "q", "completion": "d", "label": 0}]
    first, second = read(rows)
    assert (first.prompt, texts(first), first.desirable) == (turns("p"), ["c"], True)
    assert (texts(second), second.desirable) == (["d"], False)
    (unlabelled,) = read([{"prompt": dialogue("p"), "completion": [{"role": "assistant", "content": "c"}]}])
    assert (unlabelled.prompt, texts(unlabelled), unlabelled.desirable) == (turns("p"), ["c"], None)


def test_messages_end_with_the_answer_or_are_a_prompt(read) -> None:
    rows = [{"messages": dialogue("p", "x", "q", "c")}, {"messages": dialogue("p", "x", "q")}]
    first, second = read(rows)
    assert (first.prompt, texts(first)) == (turns("p", "x", "q"), ["c"])
    assert (second.prompt, second.responses) == (turns("p", "x", "q"), ())


def test_plain_pairs_without_a_prompt_are_refused(read) -> None:
    with pytest.raises(DataError, match=r"rows\.jsonl line 1 has chosen and rejected as plain text without a prompt"):
        read([{"chosen": "The sky is blue", "rejected": "The sky is green"}], axis="better")


# -- PKU-SafeRLHF, HelpSteer -----------------------------------------------------------------------------------------


def test_both_generations_of_pku_need_no_axis(read) -> None:
    newer = PKU | {
        "prompt_source": "s",
        "response_0_source": "m",
        "response_0_harm_category": {"Fraud": False, "Privacy": False},
        "response_1_harm_category": {"Fraud": True, "Privacy": False},
        "response_0_severity_level": 0,
        "response_1_severity_level": 2,
        "response_0_sha256": "00",
    }
    first, second = read([PKU, newer])
    assert (first.better, first.safer) == (second.better, second.safer) == (1, 0)
    assert [response.safe for response in first.responses] == [True, False]
    assert [response.severity for response in second.responses] == [0, 2]
    assert [response.harm_categories for response in second.responses] == [(), ("Fraud",)]


def test_an_axis_keeps_that_order_of_a_file_with_both(read) -> None:
    (better,) = read([PKU], axis="better")
    (safer,) = read([PKU], axis="safer")
    assert (better.better, better.safer) == (1, None)
    assert (safer.better, safer.safer) == (None, 0)
    without = {name: value for name, value in PKU.items() if name != "better_response_id"}
    assert read([without])[0].safer == 0
    with pytest.raises(SettingError, match="axis: better asks for the column better_response_id, which is missing"):
        read([without], axis="better")


def test_one_unnamed_order_needs_an_axis_and_ratings_are_read(read) -> None:
    row = {"prompt": "p", "response_0": "a", "response_1": "b", "better_response_id": 1, "tone_score_0": 1}
    row["tone_score_1"] = 3.5
    with pytest.raises(SettingError, match=r"orders answers \(better_response_id\) but does not say by what"):
        read([row])
    (found,) = read([row], axis="safer")
    assert (found.better, found.safer) == (None, 1)
    assert [response.ratings for response in found.responses] == [{"tone": 1.0}, {"tone": 3.5}]
    (flags,) = read([{name: value for name, value in PKU.items() if not name.endswith("response_id")}])
    assert (flags.better, flags.safer, flags.responses[0].safe) == (None, None, True)


# -- HH, Alpaca, ShareGPT --------------------------------------------------------------------------------------------


def test_hh_transcripts(read) -> None:
    shared = "\n\nHuman: p\nmore\n\nAssistant: x\n\nHuman: q"
    usual = {"chosen": f"{shared}\n\nAssistant: good", "rejected": f"{shared}\n\nAssistant: bad "}
    early = {"chosen": "\n\nHuman: p\n\nAssistant: good", "rejected": "\n\nHuman: r\n\nAssistant: bad"}
    first, second = read([usual, early], axis="safer")
    assert first.prompt == turns("p\nmore", "x", "q")
    assert first.responses == (Response("good"), Response("bad"))
    assert second.prompt == ()
    assert second.responses == (Response("good", lead=turns("p")), Response("bad", lead=turns("r")))
    in_prompt = {"prompt": "\n\nHuman: p\n\nAssistant:", "chosen": " good", "rejected": " bad"}
    (third,) = read([in_prompt], axis="safer")
    assert (third.prompt, texts(third)) == (turns("p"), ["good", "bad"])


def test_alpaca_with_system_and_history(read) -> None:
    rows = [
        {"instruction": "Sort", "input": "b a", "output": "a b", "system": "Be brief", "history": [["p", "x"]]},
        {"instruction": "Sing", "input": "", "output": "La", "system": "", "history": []},
    ]
    first, second = read(rows)
    assert (first.prompt, texts(first)) == (turns("p", "x", "Sort\nb a", system="Be brief"), ["a b"])
    assert (second.prompt, texts(second)) == (turns("Sing"), ["La"])
    (pair,) = read([{"instruction": "Sort", "input": "b a", "chosen": "a b", "rejected": "b a"}], axis="better")
    assert (pair.prompt, texts(pair), pair.better) == (turns("Sort\nb a"), ["a b", "b a"], 0)
    (tagged,) = read([{"instruction": "Sing", "input": "", "output": "La", "kto_tag": False}])
    assert tagged.desirable is False


def test_sharegpt(read) -> None:
    said = dialogue("p", "x", "q", role="from", content="value", names=("human", "gpt"))
    pair = {
        "conversations": said,
        "chosen": {"from": "gpt", "value": "good"},
        "rejected": {"from": "gpt", "value": "bad"},
    }
    (first,) = read([pair | {"system": "Be brief"}], axis="better")
    assert (first.prompt, texts(first)) == (turns("p", "x", "q", system="Be brief"), ["good", "bad"])
    (single,) = read([{"conversations": [*said, {"from": "gpt", "value": "c"}], "label": False}])
    assert (single.prompt, texts(single), single.desirable) == (turns("p", "x", "q"), ["c"], False)
    with pytest.raises(DataError, match=r"conversations\[1\] has the role 'tool'"):
        read([{"conversations": [said[0], {"from": "tool", "value": "4"}]}])
    with pytest.raises(DataError, match="does not end where chosen and rejected begin"):
        read([pair | {"conversations": said[:2]}], axis="better")


# -- prompts and text ------------------------------------------------------------------------------------------------


def test_prompt_lists(read) -> None:
    assert [row.prompt for row in read(["p", "q"])] == [turns("p"), turns("q")]
    for column in ("prompt", "question", "goal", "query", "instruction"):
        first, second = read([{column: "p", "category": "Fraud"}, {column: "q"}])
        assert (first.prompt, first.category, first.responses) == (turns("p"), "Fraud", ())
        assert (second.prompt, second.category) == (turns("q"), None)
    with pytest.raises(DataError, match=r"line 2: goal is empty \(empty prompt\)"):
        read([{"goal": "p"}, {"goal": " "}])


def test_answers_under_other_names_are_not_left_out_silently(read) -> None:
    rows = [{"prompt": "p", "response": "c"}]
    with pytest.raises(
        DataError, match=r"perhaps answers \(response\): name them with `map: \{completion: response\}`"
    ):
        read(rows)
    assert texts(read(rows, map={"completion": "response"})[0]) == ["c"]
    assert read(rows, format="prompts")[0].responses == ()


def test_text_has_no_prompt(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("one<|endoftext|>two", encoding="utf-8")
    rows = list(read_rows(DataEntry(path="a.txt"), base_dir=tmp_path))
    assert [(row.prompt, texts(row)) for row in rows] == [((), ["one"]), ((), ["two"])]
    as_prompts = read_rows(DataEntry(path="a.txt", map={"prompt": "text"}), base_dir=tmp_path)
    assert [row.prompt for row in as_prompts] == [turns("one"), turns("two")]


# -- meaning ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "row",
    [
        PAIR,
        {"chosen": "\n\nHuman: p\n\nAssistant: a", "rejected": "\n\nHuman: p\n\nAssistant: b"},
        {"chosen": dialogue("p", "a"), "rejected": dialogue("p", "b")},
        {"conversations": dialogue("p"), "chosen": {"role": "assistant", "content": "a"}, "rejected": {}},
        {"instruction": "p", "input": "", "chosen": "a", "rejected": "b"},
    ],
)
def test_an_order_without_an_axis_is_refused_with_the_two_lines(read, row: dict[str, Any]) -> None:
    with pytest.raises(SettingError) as caught:
        read([row], name="helpful")
    message = str(caught.value)
    assert message.startswith("data entry 'helpful' (rows.jsonl) orders answers (chosen) but does not say by what")
    assert [line.split("#")[0].strip() for line in message.splitlines()[1:]] == ["axis: better", "axis: safer"]


def test_map_gives_columns_their_meaning(read) -> None:
    rows = [
        {"question": "p", "answer": "c", "is_safe": True, "honesty": 4, "kind": "Fraud", "who": "w"},
        {"question": "q", "answer": "d", "is_safe": None, "honesty": None, "kind": None, "who": None},
    ]
    mapping = {"prompt": "question", "completion": "answer", "safe": "is_safe", "honesty_score": "honesty"}
    first, second = read(rows, map=mapping | {"category": "kind", "labelled_by": "who"})
    assert (first.prompt, first.category, first.labelled_by) == (turns("p"), "Fraud", "w")
    assert first.responses == (Response("c", safe=True, ratings={"honesty": 4.0}),)
    assert (second.responses, second.category, second.labelled_by) == ((Response("d"),), None, None)
    (pair,) = read(
        [{"a": "p", "b": "good", "c": "bad"}], axis="safer", map={"prompt": "a", "chosen": "b", "rejected": "c"}
    )
    assert (pair.safer, texts(pair)) == (0, ["good", "bad"])


def test_a_safety_set_of_single_answers_with_category_flags(read) -> None:
    row = {"prompt": "p", "response": "c", "is_safe": False, "category": {"fraud": True, "privacy": False}}
    (found,) = read([row], map={"completion": "response", "safe": "is_safe"}, axis="safer")
    assert found.responses == (Response("c", safe=False, harm_categories=("fraud",)),)
    assert found.category is None


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"map": {"completion": "awnser"}}, r"there is no column awnser \(did you mean 'answer'\?\)"),
        ({"map": {"complete": "answer"}}, r"map: complete is no target \(did you mean 'completion'\?\)"),
        ({"format": "paris"}, r"format: paris is no layout \(did you mean 'pairs'\?\)"),
        ({"format": "completion"}, "format: completion needs the columns completion; the rows have answer, prompt"),
        (
            {"map": {"completion": "answer"}, "axis": "safer"},
            "axis: safer has no effect on a file that orders no answers",
        ),
        ({"revision": "abc"}, "revision: abc was given for a local file"),
        ({"split": "train"}, "split: train was given for the single file"),
        ({"subfolder": "x"}, "subfolder: x is no folder"),
    ],
)
def test_settings_that_do_not_fit_the_file(read, keys: dict[str, Any], message: str) -> None:
    with pytest.raises(SettingError, match=message):
        read([{"prompt": "p", "answer": "c"}], **keys)


def test_entries_are_made_from_paths_and_keys() -> None:
    assert data_entry("a.jsonl", name="safe") == DataEntry(path="a.jsonl", name="safe")
    assert data_entry({"path": Path("a.jsonl"), "axis": "better"}).axis == "better"
    with pytest.raises(SettingError, match=r"data entry 'safe' has the unknown key axes \(did you mean 'axis'\?\)"):
        data_entry({"path": "a.jsonl", "axes": "better"}, name="safe")
    with pytest.raises(SettingError, match=r"data entry: axis is 'nicer': Input should be 'better' or 'safer'"):
        data_entry({"path": "a.jsonl", "axis": "nicer"})
    with pytest.raises(SettingError, match="limit is 0"):
        data_entry({"path": "a.jsonl", "limit": 0})


def test_missing_files_name_the_nearest(tmp_path: Path) -> None:
    (tmp_path / "helpful.jsonl").write_text("{}", encoding="utf-8")
    with pytest.raises(DataError, match=r"no file or folder at .*helpfull\.jsonl \(did you mean 'helpful\.jsonl'\?\)"):
        sniff(DataEntry(path="helpfull.jsonl"), base_dir=tmp_path)
    with pytest.raises(DataError, match="no known layout"):
        sniff(DataEntry(path="helpful.jsonl"), base_dir=tmp_path)
    (tmp_path / "blank.jsonl").write_text("\n\n", encoding="utf-8")
    with pytest.raises(DataError, match="holds no rows"):
        sniff(DataEntry(path="blank.jsonl"), base_dir=tmp_path)


# -- bad rows --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "reason", "detail"),
    [
        ({"response_1": True}, "not text", "response_1 is a boolean, expected text"),
        ({"response_1": 5}, "not text", "response_1 is a number, expected text"),
        ({"prompt": {"text": "p"}}, "not text", "prompt is a table, expected text"),
        ({"response_0": "\ud800"}, "not text", "half of a surrogate pair"),
        ({"better_response_id": 2}, "unreadable label", "better_response_id is 2, expected the number of a response"),
        ({"safer_response_id": True}, "unreadable label", "safer_response_id is True"),
        ({"is_response_0_safe": "maybe"}, "unreadable label", "is_response_0_safe is 'maybe', expected true or false"),
        ({"is_response_0_safe": -1}, "unreadable label", "is_response_0_safe is -1, expected true or false"),
        ({"tone_score_0": "high"}, "unreadable label", "tone is 'high', expected a number"),
        ({"response_0_severity_level": 1.5}, "unreadable label", "is 1.5, expected a whole number"),
        ({"prompt": [{"role": "judge", "content": "p"}]}, "unreadable dialogue", "has the role 'judge'"),
        ({"response_0": dialogue("p")}, "no answer", "response_0 does not end with a turn of the assistant"),
    ],
)
def test_a_bad_row_is_dropped_with_its_place_or_refused(
    tmp_path: Path, change: dict[str, Any], reason: str, detail: str
) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text("\n".join(map(json.dumps, [PKU, PKU | change])), encoding="utf-8")
    dropped: list[Dropped] = []
    rows = list(read_rows(DataEntry(path=str(path)), dropped=dropped))
    assert len(rows) == 1
    assert [row.reason for row in dropped] == [reason]
    assert dropped[0].detail.startswith("rows.jsonl line 2: ")
    assert detail in dropped[0].detail
    assert len(dropped[0].id) == 16
    with pytest.raises(DataError, match=f"line 2: .*\\({reason}\\)"):
        list(read_rows(DataEntry(path=str(path))))


def test_absent_labels_stay_absent(read) -> None:
    bare = {"prompt": "p", "response_0": "a", "response_1": "b", "safer_response_id": None, "is_response_0_safe": None}
    (row,) = read([bare | {"is_response_1_safe": float("nan"), "tone_score_0": None, "tone_score_1": ""}])
    assert (row.better, row.safer) == (None, None)
    assert row.responses == (Response("a"), Response("b"))


def test_ids_depend_on_content_alone(read, tmp_path: Path) -> None:
    first, second, third = read([PKU, PKU | {"unused": 1}, PKU | {"safer_response_id": 1}])
    assert first.id == second.id != third.id
    (tmp_path / "other.json").write_text(json.dumps([PKU]), encoding="utf-8")
    (elsewhere,) = read_rows(DataEntry(path="other.json"), base_dir=tmp_path)
    assert elsewhere.id == first.id
    assert elsewhere.source == "other.json"
    assert first.id == "c1b88aedc6619719"  # of this content for good: caches are keyed by it


def test_limit_reads_the_first_records_only(read) -> None:
    assert [row.prompt for row in read(["p", "q", "r"], limit=2)] == [turns("p"), turns("q")]


def test_csv_flags_and_numbers_are_words(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("prompt,completion,safe,cost\np,c,TRUE,-1.5\nq,d,0,\n", encoding="utf-8")
    first, second = read_rows(DataEntry(path="a.csv"), base_dir=tmp_path)
    assert first.responses == (Response("c", safe=True, cost=-1.5),)
    assert second.responses == (Response("d", safe=False),)


# -- the hub ---------------------------------------------------------------------------------------------------------


def fake_hub(monkeypatch: pytest.MonkeyPatch, result: Any) -> list[tuple[Any, ...]]:
    calls: list[tuple[Any, ...]] = []

    def load_dataset(name: str, *, revision: str | None, split: str | None, data_dir: str | None) -> Any:
        calls.append((name, revision, split, data_dir))
        if isinstance(result, Exception):
            raise result
        return result

    monkeypatch.setitem(sys.modules, "datasets", SimpleNamespace(load_dataset=load_dataset))
    return calls


def test_a_hub_id_is_loaded_with_its_revision(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    calls = fake_hub(monkeypatch, [PKU, PKU | {"prompt": "q"}])
    entry = DataEntry(path="someone/some-set", revision="abc", split="train", subfolder="part")
    rows = list(read_rows(entry, base_dir=tmp_path))
    assert calls == [("someone/some-set", "abc", "train", "part")]
    assert [(row.source, row.revision) for row in rows] == [("someone/some-set", "abc")] * 2


def test_splits_of_the_hub_are_never_mixed(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    fake_hub(monkeypatch, {"train": [PKU], "test": [PKU]})
    with pytest.raises(SettingError, match="holds the splits train, test, which must not be mixed"):
        sniff(DataEntry(path="someone/some-set"), base_dir=tmp_path)
    assert "has no revision" in caplog.text
    fake_hub(monkeypatch, {"train": [PKU]})
    assert sniff(DataEntry(path="someone/some-set", revision="abc"), base_dir=tmp_path) == "pku"


def test_the_hub_out_of_reach_is_one_sentence(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    entry = DataEntry(path="someone/some-set", revision="abc")
    fake_hub(monkeypatch, ConnectionError("no route\nat all"))
    with pytest.raises(DataError, match=r"neither a local path nor can it be loaded from the hub: no route$"):
        sniff(entry, base_dir=tmp_path)
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(SettingError, match=r"pip install 'equipoise\[hub\]'"):
        sniff(entry, base_dir=tmp_path)


def test_a_folder_saved_by_datasets(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "dataset_dict.json").write_text("{}", encoding="utf-8")
    saved = {"train": [PKU], "test": [PKU, PKU]}
    monkeypatch.setitem(sys.modules, "datasets", SimpleNamespace(load_from_disk=lambda folder: saved))
    assert len(list(read_rows(DataEntry(path=str(tmp_path), split="test")))) == 2
    with pytest.raises(SettingError, match="holds the splits train, test"):
        sniff(DataEntry(path=str(tmp_path)))
    with pytest.raises(SettingError, match=r"has no split tset \(did you mean 'test'\?\)"):
        sniff(DataEntry(path=str(tmp_path), split="tset"))


def test_parquet_without_its_extra_says_what_to_install(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "a.parquet").write_bytes(b"PAR1" + bytes(16))
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(SettingError, match=r"pip install 'equipoise\[parquet\]'"):
        sniff(DataEntry(path="a.parquet"), base_dir=tmp_path)


def test_a_path_that_looks_like_a_hub_id_is_a_path_where_its_folder_exists(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    with pytest.raises(DataError, match="no file or folder at"):
        sniff(DataEntry(path="data/helpful"), base_dir=tmp_path)


# -- real files ------------------------------------------------------------------------------------------------------


def real(root: Path, path: str, **keys: Any) -> tuple[list[SourceRow], list[Dropped]]:
    dropped: list[Dropped] = []
    return list(read_rows(DataEntry(path=path, **keys), base_dir=root, dropped=dropped)), dropped


def test_five_hh_pairs_part_before_their_last_turn(shared_data: Path) -> None:
    rows, dropped = real(shared_data, "hh_rlhf_harmless_test/test.jsonl.gz", axis="safer")
    assert (len(rows), dropped) == (2312, [])
    assert sum(any(response.lead for response in row.responses) for row in rows) == 5
    questions = Counter(sum(turn["role"] == "user" for turn in (*row.prompt, *row.responses[0].lead)) for row in rows)
    assert (min(questions), max(questions), questions[1]) == (1, 18, 662)
    assert all(row.safer == 0 and row.better is None for row in rows)


def test_pku_has_both_orders_and_both_flags(shared_data: Path) -> None:
    rows, dropped = real(shared_data, "pku_saferlhf_schema32/pku_saferlhf_32.json")
    assert (len(rows), dropped) == (32, [])
    assert Counter((row.better, row.safer) for row in rows) == {(0, 0): 5, (0, 1): 8, (1, 0): 11, (1, 1): 8}
    assert sum(all(response.safe is False for response in row.responses) for row in rows) == 16


def test_helpsteer_ratings_agree_with_the_order(shared_data: Path) -> None:
    for axis_file, aspect, count in (
        ("helpsteer_pref_test/helpfulness_preference_test.jsonl", "helpfulness", 526),
        ("helpsteer2_annotators/datasets__helpsteer__annotator_1__coherence_preference.jsonl", "coherence", 389),
    ):
        rows, _ = real(shared_data, axis_file, axis="better")
        assert len(rows) == count
        for row in rows:
            assert row.better is not None
            assert row.responses[row.better].ratings[aspect] > row.responses[1 - row.better].ratings[aspect]


def test_pandalm_booleans_are_six_bad_rows(shared_data: Path) -> None:
    mapping = {"response_0": "response1", "response_1": "response2"}
    rows, dropped = real(shared_data, "pandalm_test/testset-v1.json", map=mapping)
    assert (len(rows), [row.reason for row in dropped]) == (993, ["not text"] * 6)
    with pytest.raises(DataError, match=r"testset-v1\.json line 1886: response_0 is a boolean, expected text"):
        list(read_rows(DataEntry(path="pandalm_test/testset-v1.json", map=mapping), base_dir=shared_data))


def test_llamafactory_files(shared_data: Path) -> None:
    rows, _ = real(shared_data, "llamafactory_demo/dpo_en_demo.json", axis="better")
    assert len(rows) == 300
    assert sum(row.prompt[0]["role"] == "system" for row in rows) == 80
    rows, _ = real(shared_data, "llamafactory_demo/kto_en_demo.json")
    assert {row.desirable for row in rows} == {True, False}
    assert all(len(row.responses) == 1 and row.prompt[-1]["role"] == "user" for row in rows)
    rows, _ = real(shared_data, "llamafactory_demo/alpaca_en_demo.json")
    assert len(rows) == 999
    assert sum("\n" in row.prompt[0]["content"] for row in rows) >= 412


@pytest.mark.parametrize(
    ("path", "keys", "layout", "count", "with_category"),
    [
        ("advbench/harmful_behaviors.csv", {}, "prompts", 520, False),
        ("red_instruct/dangerousqa.json", {}, "prompts", 200, False),
        ("red_instruct/catqa_english.json", {}, "prompts", 550, True),
        ("safe_rlhf_problem/problem.json", {}, "prompts", 83, True),
        ("xstest/xstest_prompts.csv", {"map": {"category": "type"}}, "prompts", 182, True),
        ("openai_moderation/samples-1680.jsonl.gz", {}, "prompts", 1680, False),
        ("oasst_en/en_100_text.jsonl", {}, "prompts", 100, False),
        ("xstest/xstest_v2_completions_gpt4.csv", {}, "completion", 181, False),
        (
            "dolly_1k/databricks_dolly_15k.csv",
            {"map": {"input": "context", "output": "response"}},
            "alpaca",
            1000,
            True,
        ),
        (
            "halueval_general/general_data.json",
            {"map": {"prompt": "user_query", "completion": "chatgpt_response"}},
            "completion",
            4507,
            False,
        ),
        ("helpsteer2_annotators/disagreements_1.jsonl", {"map": {"completion": "response"}}, "completion", 2, False),
        ("tinystories", {}, "text", 1728, False),
    ],
)
def test_layouts_of_real_files(
    shared_data: Path, path: str, keys: dict[str, Any], layout: str, count: int, with_category: bool
) -> None:
    assert sniff(DataEntry(path=path, **keys), base_dir=shared_data) == layout
    rows, dropped = real(shared_data, path, **keys)
    assert (len(rows), dropped) == (count, [])
    assert all((row.category is not None) == with_category for row in rows)


def test_every_layout_is_named_once() -> None:
    assert all(name == layout.name for name, layout in LAYOUTS.items())
    assert len(LAYOUTS) == 22


def test_a_models_own_answers_are_counted_from_one(tmp_path: Path) -> None:
    path = tmp_path / "own.json"
    row = {
        "prompt": "p", "modeloutput1": "a", "modeloutput2": "b", "better_modelout": 2,
        "is_modelout1_safe": True, "is_modelout2_safe": False,
    }  # fmt: skip
    path.write_text(json.dumps([row, {**row, "better_modelout": 0}]), encoding="utf-8")
    dropped: list[Dropped] = []
    (found,) = read_rows(DataEntry(path=str(path), axis="better"), dropped=dropped)
    assert (found.better, found.safer) == (1, None)
    assert [(a.text, a.safe) for a in found.responses] == [("a", True), ("b", False)]
    assert "better_modelout is 0, expected 1 or 2" in dropped[0].detail
    with pytest.raises(SettingError, match="does not say by what"):
        list(read_rows(DataEntry(path=str(path))))


# -- flags that an order stands for ----------------------------------------------------------------------------------

HARMLESS = {"chosen": "\n\nHuman: Hi\n\nAssistant: Hello", "rejected": "\n\nHuman: Hi\n\nAssistant: Go away"}


def test_the_safer_answer_is_safe_where_that_was_said(read) -> None:
    (row,), (plain,) = (read([HARMLESS], axis="safer", **more) for more in ({"flags": "order"}, {}))
    assert [answer.safe for answer in row.responses] == [True, False]
    assert (row.safer, row.better, texts(row)) == (0, None, texts(plain))
    assert [answer.safe for answer in plain.responses] == [None, None] and row.id != plain.id
    second = {"prompt": "Hi", "response_0": "Go away", "response_1": "Hello", "better_response_id": 1}
    (other,) = read([second], axis="safer", flags="order")
    assert [answer.safe for answer in other.responses] == [False, True]


def test_a_row_without_an_order_gets_no_flags(read) -> None:
    rows = [{"prompt": "Hi", "response_0": "a", "response_1": "b", "better_response_id": order} for order in (0, None)]
    first, second = read(rows, axis="safer", flags="order")
    assert [answer.safe for answer in (*first.responses, *second.responses)] == [True, False, None, None]


@pytest.mark.parametrize(
    ("more", "keys", "message"),
    [
        ({}, {"axis": "better"}, "needs axis: safer, got axis: better"),
        ({"chosen_safe": True, "rejected_safe": True}, {"axis": "safer"}, "flags of chosen_safe, rejected_safe"),
    ],
)
def test_flags_are_read_off_an_order_by_safety_alone_and_replace_none(read, more, keys, message: str) -> None:
    with pytest.raises(SettingError, match=message):
        read([HARMLESS | {"prompt": "Hi"} | more], flags="order", **keys)


def test_flags_are_part_of_what_an_entry_means_only_where_they_are_given() -> None:
    assert "flags" not in DataEntry(path="x").meaning
    assert DataEntry(path="x", axis="safer", flags="order").meaning["flags"] == "order"
