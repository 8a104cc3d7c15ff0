"""Files -> records: every accepted container, and one sentence for what is not what its name says."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import pytest

from equipoise.data.files import folder_files, read_file, read_files
from equipoise.errors import DataError, SettingError

ROWS = [{"prompt": "Name a colour", "completion": "Blue"}, {"prompt": "Name a tree", "completion": "Oak"}]


def written(folder: Path, name: str, content: str | bytes) -> Path:
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


def values(path: Path) -> list[object]:
    return [record.value for record in read_file(path)]


def lines(path: Path) -> list[int]:
    return [record.line for record in read_file(path)]


def test_json_lines_are_cut_at_newlines_only(tmp_path: Path) -> None:
    odd = "one\u2028two\u2029three\x85four\x0bfive"
    path = written(
        tmp_path, "a.jsonl", json.dumps({"prompt": odd}, ensure_ascii=False) + "\r\n\n" + json.dumps(ROWS[0])
    )
    assert values(path) == [{"prompt": odd}, ROWS[0]]
    assert lines(path) == [1, 3]


@pytest.mark.parametrize("name", ["a.json", "a.jsonl", "a.ndjson"])
def test_the_content_decides_between_json_and_json_lines(tmp_path: Path, name: str) -> None:
    as_lines = written(tmp_path, name, "\n".join(map(json.dumps, ROWS)))
    assert values(as_lines) == ROWS
    as_array = written(tmp_path, name, json.dumps(ROWS))
    assert values(as_array) == ROWS
    pretty = written(tmp_path, name, "\ufeff" + json.dumps(ROWS, indent=2))
    assert values(pretty) == ROWS
    assert lines(pretty) == [2, 6]
    concatenated = written(tmp_path, name, "\n".join(json.dumps(row, indent=1) for row in ROWS))
    assert values(concatenated) == ROWS
    assert lines(concatenated) == [1, 5]
    one = written(tmp_path, name, json.dumps(ROWS[0]))
    assert values(one) == [ROWS[0]]


def test_an_object_may_hold_columns_categories_or_a_wrapper(tmp_path: Path) -> None:
    columns = {"prompt": ["p", "q"], "completion": ["a", "b"]}
    assert values(written(tmp_path, "a.json", json.dumps(columns))) == [
        {"prompt": "p", "completion": "a"},
        {"prompt": "q", "completion": "b"},
    ]
    assert values(written(tmp_path, "b.json", json.dumps({"Food": {"fruit": ["p"], "bread": ["q"]}}))) == [
        {"prompt": "p", "category": "Food", "subcategory": "fruit"},
        {"prompt": "q", "category": "Food", "subcategory": "bread"},
    ]
    assert values(written(tmp_path, "c.json", json.dumps({"data": ROWS}))) == ROWS
    dialogue = {"messages": [{"role": "user", "content": "p"}]}
    assert values(written(tmp_path, "d.json", json.dumps(dialogue))) == [dialogue]
    with pytest.raises(DataError, match=r"columns of different lengths: \{'prompt': 2, 'label': 1\}"):
        values(written(tmp_path, "e.json", json.dumps({"prompt": ["p", "q"], "label": [True]})))


def test_csv_keeps_newlines_in_quotes_and_reads_empty_cells_as_absent(tmp_path: Path) -> None:
    path = written(tmp_path, "a.csv", 'prompt,completion,safe\np,"one\n\ntwo",1\nq,"say ""b""",\n')
    assert values(path) == [
        {"prompt": "p", "completion": "one\n\ntwo", "safe": "1"},
        {"prompt": "q", "completion": 'say "b"', "safe": None},
    ]
    assert lines(path) == [2, 5]
    long = "word " * 40_000  # longer than the csv module's own limit for a cell
    assert values(written(tmp_path, "b.tsv", f"prompt\tcompletion\np\t{long}\n")) == [
        {"prompt": "p", "completion": long}
    ]


def test_parquet(tmp_path: Path) -> None:
    parquet = pytest.importorskip("pyarrow.parquet")
    table = pytest.importorskip("pyarrow").Table.from_pylist([{"prompt": "p", "tags": {"a": True}}, {"prompt": "q"}])
    parquet.write_table(table, tmp_path / "a.parquet")
    expected = [{"prompt": "p", "tags": {"a": True}}, {"prompt": "q", "tags": None}]
    assert values(tmp_path / "a.parquet") == expected
    zipped = written(tmp_path, "b.parquet.gz", gzip.compress((tmp_path / "a.parquet").read_bytes()))
    assert values(zipped) == expected
    damaged = written(tmp_path, "c.parquet", b"PAR1" + bytes(40))
    with pytest.raises(DataError, match=r"c\.parquet is not a readable Parquet file"):
        values(damaged)


def test_text_is_cut_at_marks_or_else_at_lines(tmp_path: Path) -> None:
    marked = written(tmp_path, "a.txt", "one\ntwo\n<|endoftext|>\n\nthree<|endoftext|>four\n<|endoftext|>\n\n")
    assert values(marked) == [{"text": "one\ntwo"}, {"text": "three"}, {"text": "four"}]
    assert lines(marked) == [1, 5, 5]
    assert values(written(tmp_path, "b.txt", "one\n\ntwo\n")) == [{"text": "one"}, {"text": "two"}]


def test_gzip_of_each(tmp_path: Path) -> None:
    assert values(written(tmp_path, "a.jsonl.gz", gzip.compress(b'{"a": 1}\n{"a": 2}'))) == [{"a": 1}, {"a": 2}]
    assert values(written(tmp_path, "a.csv.gz", gzip.compress(b"prompt\np\n"))) == [{"prompt": "p"}]
    assert values(written(tmp_path, "a.txt.gz", gzip.compress(b"p\n"))) == [{"text": "p"}]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.jsonl.gz", b'{"a": 1}', r"a\.jsonl\.gz is not gzip"),
        ("a.jsonl", gzip.compress(b'{"a": 1}'), r"a\.jsonl is gzip but its name does not end in \.gz"),
        ("a.jsonl.gz", gzip.compress(b'{"a": 1}\n' * 2000)[:-20], r"a\.jsonl\.gz is a damaged gzip file"),
        ("a.parquet", b'{"a": 1}', r"a\.parquet is not Parquet"),
        ("a.json", b"PAR1....", r"a\.json is Parquet, not \.json"),
        ("a.json", b"", r"a\.json is empty"),
        ("a.json", b"version https://git-lfs.github.com/spec/v1\noid sha256:00\n", r"is a Git LFS pointer"),
        ("a.jsonl", b'{"a": 1}\n{"a": 2}\n{"a": \n', r"a\.jsonl line 3 is not JSON: Expecting value at column 7"),
        ("a.json", b'[{"a": 1},\n {"a": 2}\n {"a": 3}]', r"a\.json line 3 is not JSON: expected ',', got '\{'"),
        ("a.json", b'[{"a": 1},\n {"a"', r"a\.json line 2 is not JSON"),
        ("a.json", b'[{"a": 1}\n', r"a\.json line 2 is not JSON: expected ',', got the end of the file"),
        ("a.jsonl", b'{"a": 1}\n{"a": "\xe9"}\n', r"a\.jsonl line 2 is not UTF-8 text"),
        ("a.json", b'[\n{"a": "\xe9"}]', r"a\.json line 2 is not UTF-8 text"),
        ("a.csv", b"prompt,completion\np,a\nq\n", r"a\.csv line 3 has 1 cells where the header has 2"),
        (
            "a.csv",
            b'prompt,completion\np,"open\nand never closed\n',
            r"a\.csv line 2 is not CSV: unexpected end of data",
        ),
        ("a.csv", b"prompt,prompt\np,q\n", r"a\.csv line 1 is not a header"),
        (
            "a.csv",
            b"Tell me a story about a fox who could not sleep in the long winter,x\n",
            "is not a header but text",
        ),
        ("a.csv", b"prompt\n\xe9\n", r"a\.csv is not UTF-8 text near line"),
        ("a.xlsx", b"x", "has a suffix that no reader takes"),
    ],
)
def test_a_file_that_is_not_what_its_name_says(tmp_path: Path, name: str, content: bytes, message: str) -> None:
    with pytest.raises(DataError, match=message) as caught:
        values(written(tmp_path, name, content))
    assert "\n" not in str(caught.value)


def test_a_stream_is_read_only_as_far_as_it_is_asked_for(tmp_path: Path) -> None:
    path = written(tmp_path, "a.jsonl", '{"a": 1}\n{"a": 2}\n{"a": 3}\nbroken\n')
    rows = read_file(path)
    assert [next(rows).value for _ in range(3)] == [{"a": 1}, {"a": 2}, {"a": 3}]
    with pytest.raises(DataError, match="line 4"):
        next(rows)


def test_a_folder_is_its_files_in_order_and_never_two_splits_at_once(tmp_path: Path) -> None:
    for name in ("data/train-00001.jsonl", "data/train-00000.jsonl"):
        written(tmp_path, name, json.dumps({"prompt": name}))
    written(tmp_path, "README.txt", "notes")
    written(tmp_path, ".hidden.json", "[]")
    assert [record.file for record in read_files(tmp_path)] == ["data/train-00000.jsonl", "data/train-00001.jsonl"]
    written(tmp_path, "data/test-00000.jsonl", json.dumps({"prompt": "t"}))
    with pytest.raises(SettingError, match="holds test, train, which must not be mixed"):
        folder_files(tmp_path)
    assert [record.value for record in read_files(tmp_path, split="test")] == [{"prompt": "t"}]
    with pytest.raises(SettingError, match=r"no files of the split trian \(did you mean 'train'\?\)"):
        folder_files(tmp_path, split="trian")
    with pytest.raises(SettingError, match="single file"):
        list(read_files(tmp_path / "data" / "test-00000.jsonl", split="test"))
    with pytest.raises(DataError, match="holds no data files"):
        folder_files(written(tmp_path, "empty/SOURCE.txt", "notes").parent)


# -- real files ------------------------------------------------------------------------------------------------------


def test_helpsteer_lines_hold_line_separators(shared_data: Path) -> None:
    path = shared_data / "helpsteer2_annotators" / "datasets__helpsteer__annotator_3__correctness_preference.jsonl"
    text = path.read_text(encoding="utf-8")
    assert len(values(path)) == 579
    assert len([line for line in text.splitlines() if line.strip()]) > 579  # what the usual way of reading would make


def test_concatenated_pretty_objects(shared_data: Path) -> None:
    rows = values(shared_data / "helpsteer2_annotators" / "disagreements_1.jsonl")
    assert len(rows) == 2
    assert all(isinstance(row, dict) and isinstance(row["helpfulness"], list) for row in rows)


@pytest.mark.parametrize(
    ("path", "count"),
    [
        ("halueval_general/general_data.json", 4507),
        ("red_instruct/dangerousqa.json", 200),
        ("red_instruct/catqa_english.json", 550),
        ("oasst_en/en_100_text.jsonl", 100),
        ("oasst_en/prompt_lottery_en_250_text.jsonl", 250),
        ("safe_rlhf_problem/problem.json", 83),
        ("advbench/harmful_behaviors.csv", 520),
        ("dolly_1k/databricks_dolly_15k.csv", 1000),
        ("xstest/xstest_prompts.csv", 182),
        ("xstest/xstest_v2_completions_gpt4.csv", 181),
        ("openai_moderation/samples-1680.jsonl.gz", 1680),
        ("hh_rlhf_harmless_test/test.jsonl.gz", 2312),
        ("pandalm_test/testset-v1.json", 999),
        ("llmfao_crowd/crowd-comparisons.csv", 8931),
    ],
)
def test_row_counts_of_real_files(shared_data: Path, path: str, count: int) -> None:
    assert len(values(shared_data / path)) == count


def test_strings_and_categories_of_real_files(shared_data: Path) -> None:
    assert all(isinstance(value, str) for value in values(shared_data / "oasst_en" / "en_100_text.jsonl"))
    rows = values(shared_data / "red_instruct" / "catqa_english.json")
    assert len({row["category"] for row in rows if isinstance(row, dict)}) == 11


def test_labels_that_were_not_given_stay_absent(shared_data: Path) -> None:
    rows = values(shared_data / "openai_moderation" / "samples-1680.jsonl.gz")
    absent = [row for row in rows if isinstance(row, dict) and len(row) < 9]
    assert len(absent) > 100
    assert not any(value is None for row in absent for value in row.values())


def test_csv_cells_of_real_answers_hold_newlines(shared_data: Path) -> None:
    rows = values(shared_data / "xstest" / "xstest_v2_completions_llama2new.csv")
    assert sum("\n" in row["completion"] for row in rows if isinstance(row, dict)) > 50
    assert {row["agreement"] for row in rows if isinstance(row, dict)} == {"TRUE", "FALSE"}


def test_stories_are_separated_by_marks(shared_data: Path) -> None:
    stories = values(shared_data / "tinystories" / "tinystories_10k.txt")
    assert len(stories) == 1728
    assert not any("<|endoftext|>" in story["text"] for story in stories if isinstance(story, dict))
