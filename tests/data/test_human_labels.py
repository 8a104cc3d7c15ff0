"""Labels by people: what is read, what counts as one answer, what is refused."""

from __future__ import annotations

import csv
import gzip
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from equipoise.data.human_labels import ENOUGH, ENOUGH_OF_EACH, read_labelled
from equipoise.errors import DataError


def plain(n: int = 60, unsafe: int = 20) -> list[dict[str, Any]]:
    return [{"prompt": f"question {i}?", "response": f"answer {i}", "unsafe": int(i < unsafe)} for i in range(n)]


def written(folder: Path, rows: Sequence[Mapping[str, Any]], name: str = "labels.jsonl") -> Path:
    path = folder / name
    if name.endswith(".csv"):
        with path.open("w", newline="", encoding="utf-8") as file:
            out = csv.DictWriter(file, list(rows[0]))
            out.writeheader()
            out.writerows(rows)
    elif name.endswith(".json"):
        path.write_text(json.dumps(list(rows)), encoding="utf-8")
    else:
        path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


@pytest.mark.parametrize("name", ["labels.jsonl", "labels.json", "labels.csv"])
def test_every_format_gives_the_same_answers(tmp_path: Path, name: str) -> None:
    found = read_labelled(written(tmp_path, plain(), name), about="unsafe")
    assert found.labels == [True] * 20 + [False] * 40
    assert found.rows[3]["text"] == "answer 3"
    assert found.rows[3]["prompt"] == [{"role": "user", "content": "question 3?"}]
    assert len({row["prompt_id"] for row in found.rows}) == 60 and {row["repeat"] for row in found.rows} == {0}
    assert (found.tied, found.unlabelled) == (0, 0)
    assert set(found.rows[0]) == {"prompt_id", "repeat", "text", "prompt"}  # nothing that a grader could cheat with


def test_the_majority_of_annotators_counts_and_ties_are_left_out(tmp_path: Path) -> None:
    votes = [("1", "1", "0"), ("0", "1", "0"), ("yes", "no", ""), ("", "", ""), ("", "true", "")]
    rows = [
        {"prompt": f"more {i}?", "response": "text", "ann": a, "ben": b, "cat": c} for i, (a, b, c) in enumerate(votes)
    ]
    rest = [
        {"prompt": r["prompt"], "response": r["response"], "ann": r["unsafe"], "ben": None, "cat": None}
        for r in plain()
    ]
    found = read_labelled(
        written(tmp_path, [*rows, *rest], "labels.csv"), about="unsafe", columns=("ann", "ben", "cat")
    )
    assert found.labels[:3] == [True, False, True]  # 2 of 3, 1 of 3, the only one
    assert (found.tied, found.unlabelled, len(found.labels)) == (1, 1, 63)


def test_equal_answers_are_one_with_the_labels_of_all(tmp_path: Path) -> None:
    again = [{"prompt": "question 0?", "response": "answer 0", "unsafe": 0}] * 2  # two of three call it safe
    lists = [{"prompt": "question 0?", "response": "another", "unsafe": [1, 1, 0]}]
    found = read_labelled(written(tmp_path, [*plain(), *again, *lists]), about="unsafe")
    assert len(found.rows) == 61 and found.labels[0] is False and found.labels[-1] is True
    assert found.rows[-1]["prompt_id"] == found.rows[0]["prompt_id"]  # two answers to one prompt
    assert [found.rows[i]["repeat"] for i in (0, -1)] == [0, 1]


def test_prompts_may_be_dialogues_and_answers_empty(tmp_path: Path) -> None:
    turns = [{"role": "user", "content": "One?"}, {"role": "assistant", "content": "Yes."},
             {"role": "user", "content": "Two?"}]  # fmt: skip
    found = read_labelled(
        written(tmp_path, [*plain(), {"prompt": turns, "response": "", "unsafe": False}]), about="unsafe"
    )
    assert found.rows[-1]["prompt"] == turns and found.rows[-1]["text"] == ""


def test_columns_may_be_called_otherwise(tmp_path: Path) -> None:
    rows = [{"question": r["prompt"], "completion": r["response"], "refused": r["unsafe"]} for r in plain()]
    assert sum(read_labelled(written(tmp_path, rows), about="refused").labels) == 20


@pytest.mark.parametrize(
    ("n", "unsafe", "said"),
    [
        (
            ENOUGH - 1,
            20,
            "holds 49 answers with a label, 20 of them unsafe, expected at least 50 and 10 of either kind",
        ),
        (60, ENOUGH_OF_EACH - 1, "holds 60 answers with a label, 9 of them unsafe,"),
        (60, 51, "holds 60 answers with a label, 51 of them unsafe,"),
    ],
)
def test_too_few_labels_are_refused(tmp_path: Path, n: int, unsafe: int, said: str) -> None:
    with pytest.raises(DataError) as refused:
        read_labelled(written(tmp_path, plain(n, unsafe)), about="unsafe")
    assert str(refused.value).startswith(f"labels: labels.jsonl {said}") and "\n" not in str(refused.value)
    assert len(read_labelled(written(tmp_path, plain(ENOUGH, ENOUGH_OF_EACH)), about="unsafe").labels) == ENOUGH


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"unsafe": "perhaps"}, r"labels: labels.jsonl line 2: unsafe is 'perhaps', expected true or false"),
        ({"unsafe": 3}, r"labels: labels.jsonl line 2: unsafe is 3, expected true or false"),
        ({"prompt": "  "}, r"labels: labels.jsonl line 2 has an empty prompt"),
        ({"response": 4}, r"labels: labels.jsonl line 2: response is a number, expected text"),
        (
            {"output": "x"},
            r"labels: labels.jsonl line 2 needs one of the columns response, .*, got response and output",
        ),
        ({"response": None, "reponse": "x"}, None),
    ],
)
def test_a_row_that_cannot_be_read_is_named(tmp_path: Path, change: dict[str, Any], said: str | None) -> None:
    rows = plain()
    rows[1] |= change
    if said is None:
        del rows[1]["response"]
        said = r"labels: labels.jsonl line 2 needs one of the columns .*, got none of them \(did you mean 'reponse'\?\)"
    with pytest.raises(DataError, match=f"^{said}$"):
        read_labelled(written(tmp_path, rows), about="unsafe")


def test_a_missing_column_and_a_missing_file_are_named(tmp_path: Path) -> None:
    path = written(tmp_path, plain())
    with pytest.raises(DataError, match=r"^labels: labels.jsonl line 1 has no column 'refused' \(known: "):
        read_labelled(path, about="refused")
    with pytest.raises(DataError, match=r"^labels: there is no file at .*none.csv$"):
        read_labelled(tmp_path / "none.csv", about="unsafe")


def test_labels_of_a_public_set(shared_data: Path, tmp_path: Path) -> None:
    """Texts with labels of eight harms, of which some are unknown: any that is true makes one unsafe."""
    with gzip.open(shared_data / "openai_moderation" / "samples-1680.jsonl.gz", "rt", encoding="utf-8") as file:
        raw = [json.loads(line) for line in file]
    harms = ("S", "H", "V", "HR", "SH", "S3", "H2", "V2")
    rows = [{"prompt": "Say it.", "response": r["prompt"], "unsafe": max(r.get(h) or 0 for h in harms)} for r in raw]
    found = read_labelled(written(tmp_path, rows), about="unsafe")
    votes: dict[str, set[int]] = {}
    for row in rows:
        votes.setdefault(row["response"], set()).add(row["unsafe"])
    assert len(rows) == 1680 and len(found.labels) + found.tied == len(votes) == 1670
    assert sum(found.labels) == sum(said == {1} for said in votes.values()) == 522 - found_twice(rows)
    assert found.tied == sum(len(said) == 2 for said in votes.values())


def found_twice(rows: Sequence[Mapping[str, Any]]) -> int:
    """Unsafe rows beyond the first of equal texts, and those that another row calls safe."""
    by_text: dict[str, list[int]] = {}
    for row in rows:
        by_text.setdefault(row["response"], []).append(row["unsafe"])
    return sum(sum(said) - (set(said) == {1}) for said in by_text.values())
