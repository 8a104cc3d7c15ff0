"""Pairwise judging through a real endpoint: both orders, ties, what is unscored, references, planted biases."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from equipoise.errors import DataError, SettingError
from equipoise.evaluate.judge_page import write_judge_page
from equipoise.evaluate.results import read_results, write_results
from equipoise.judges import Endpoint
from equipoise.judges.fences import marked
from equipoise.pairwise import PairwiseUse, check_judge, win_rates
from equipoise.playground.oracle import serving
from equipoise.playground.planted import PlantedJudge, known
from equipoise.records import read_jsonl, write_jsonl
from equipoise.store import Store, using_store
from equipoise.types import Artefact
from judges.faulty import MODEL, Asked, Does, Server, completion


@pytest.fixture(autouse=True)
def store(tmp_path: Path) -> Iterator[Path]:
    with using_store(Store(tmp_path / "store")):
        yield tmp_path / "store"


@pytest.fixture
def likes_long() -> Iterator[Server]:
    """A judge of whom the longer answer wins, equal ones tie and a broken one has no verdict."""
    server = Server(by_length)
    yield server
    server.close()


def by_length(asked: Asked) -> Does:
    first, second = (one.text for one in marked(asked.text)[-2:])
    if "broken" in first + second:
        return Does(said=completion("It depends."))
    verdict = "tie" if len(first) == len(second) else "1" if len(first) > len(second) else "2"
    return Does(said=completion(f"By length.\nVerdict: {verdict}"))


def answers(folder: Path, name: str, *texts: str | None, repeats: int = 1) -> Artefact:
    found = folder / name
    found.mkdir()
    rows = [
        {"prompt_id": f"p{n}", "repeat": k, "text": text, "prompt": [{"role": "user", "content": f"question {n}?"}],
         "kind": "benign", "category": None, "finish_reason": "stop"}
        for n, text in enumerate(texts) if text is not None for k in range(repeats)
    ]  # fmt: skip
    write_jsonl(found / "completions.jsonl", rows)
    return Artefact(id=f"generate-{name}", kind="generate", path=found)


def use_of(server: Server, **more: Any) -> PairwiseUse:
    return PairwiseUse(endpoint=Endpoint(base_url=server.url, model=MODEL), **more)


def test_both_orders_of_every_prompt_that_both_answered(tmp_path, likes_long, store):
    base = answers(tmp_path, "base", "aa", "bbbb", "cc", "same", None)
    new = answers(tmp_path, "new", "aaaa", "bb", "dd", "same", "eeee")
    metrics, judge = win_rates(use_of(likes_long, reference="base"), {"base": base, "new": new})
    # Longer wins, shorter loses, two are as long, the same words tie without being asked; p4 has no other side.
    found = metrics["new"]["win_rate"]
    assert (found["mean"], found["n_prompts"], found["unscored"]) == ((1 + 0 + 0.5 + 0.5) / 4, 4, 0)
    assert metrics["base"]["win_rate"]["mean"] == 0.5
    assert (judge["n"], judge["pairs"]) == (6, {"identical": 1, "unpaired": 1})
    assert len(likes_long.bodies) == 6
    assert judge["consistency"]["mean"] == 1.0
    (file,) = store.glob("compared-*/verdicts.jsonl")
    rows = read_jsonl(file)
    assert [row["order"] for row in rows if row["prompt_id"] == "p0"] == [0, 1]
    assert [(row["verdict"], row["value"]) for row in rows if row["prompt_id"] == "p0"] == [
        ("first", 1.0),
        ("second", 1.0),
    ]
    assert rows[0]["reason"] == "By length."
    assert rows[-1]["request"] is None


def test_what_cannot_be_read_is_unscored_and_never_a_tie(tmp_path, likes_long):
    base = answers(tmp_path, "base", *["aa"] * 4)
    new = answers(tmp_path, "new", "aaaa", "aaa", "broken", "aaaaa")
    with pytest.raises(DataError, match=r"2 of 8 replies .* are no verdict of rubric better"):
        win_rates(use_of(likes_long, reference="base"), {"base": base, "new": new})
    metrics, judge = win_rates(use_of(likes_long, reference="base", max_unscored=0.5), {"base": base, "new": new})
    found = metrics["new"]["win_rate"]
    assert (found["mean"], found["n_prompts"], found["unscored"]) == (1.0, 3, 2)
    assert (judge["unscored"], judge["consistency"]["unscored"]) == (2, 1)
    assert len(likes_long.bodies) == 8  # whatever came is kept


def test_reference_outputs_take_the_place_of_a_model(tmp_path, likes_long):
    new = answers(tmp_path, "new", "aaaa", "b", "cc")
    file = tmp_path / "outputs.json"
    file.write_text(
        '[{"instruction": "question 0?", "output": "aa", "generator": "old"},'
        ' {"instruction": "question  1?", "output": "bb", "generator": "old"}]'
    )
    use = use_of(likes_long, reference_outputs="outputs.json")
    metrics, judge = win_rates(use, {"new": new}, base_dir=tmp_path)
    assert (metrics["new"]["win_rate"]["mean"], metrics["new"]["win_rate"]["n_prompts"]) == (0.5, 2)
    assert (list(metrics), judge["pairs"]["unpaired"]) == (["new"], 1)
    file.write_text('[{"instruction": "another?", "output": "aa"}]')
    with pytest.raises(DataError, match="none of the 1 instructions"):
        win_rates(use, {"new": new}, base_dir=tmp_path)
    file.write_text('[{"instruction": "another?"}]')
    with pytest.raises(DataError, match="need the texts instruction and output"):
        win_rates(use, {"new": new}, base_dir=tmp_path)


def test_references_and_settings_that_mean_nothing_are_refused(tmp_path, likes_long):
    base, new = answers(tmp_path, "base", "aa"), answers(tmp_path, "new", "aaaa")
    with pytest.raises(SettingError, match=r"'bsae' is none of the models.*base"):
        win_rates(use_of(likes_long), {"base": base, "new": new}, "bsae")
    with pytest.raises(SettingError, match="needs reference"):
        win_rates(use_of(likes_long), {"base": base, "new": new})
    with pytest.raises(SettingError, match="the only model"):
        win_rates(use_of(likes_long), {"base": base}, "base")
    endpoint = {"base_url": likes_long.url, "model": MODEL}
    with pytest.raises(SettingError, match="temperature is 0"):
        PairwiseUse.make({"endpoint": endpoint, "repeats": 3})
    with pytest.raises(SettingError, match="give one of them"):
        PairwiseUse.make({"endpoint": endpoint, "reference": "a", "reference_outputs": "b.json"})


def test_answers_to_different_prompts_are_not_compared(tmp_path, likes_long):
    base, new = answers(tmp_path, "base", "aa"), answers(tmp_path, "new", "aaaa")
    other = [
        {**row, "prompt": [{"role": "user", "content": "else?"}]} for row in read_jsonl(new.path / "completions.jsonl")
    ]
    write_jsonl(new.path / "completions.jsonl", other)
    with pytest.raises(DataError, match="does not have the same words"):
        win_rates(use_of(likes_long, reference="base"), {"base": base, "new": new})
    elsewhere = answers(tmp_path, "elsewhere", None, "bb")
    with pytest.raises(DataError, match="no prompt was answered by both"):
        win_rates(use_of(likes_long, reference="base"), {"base": base, "new": elsewhere})


def test_repeats_ask_again_and_count_a_prompt_once(tmp_path, likes_long):
    base, new = answers(tmp_path, "base", "aa", "aa"), answers(tmp_path, "new", "aaaa", "a", repeats=2)
    endpoint = Endpoint(base_url=likes_long.url, model=MODEL, temperature=0.7)
    use = PairwiseUse(endpoint=endpoint, reference="base", repeats=3, rubric="safer")
    metrics, judge = win_rates(use, {"base": base, "new": new})
    found = metrics["new"]["win_rate_safer"]
    assert (found["mean"], found["n_prompts"]) == (0.5, 2)
    assert (judge["n"], judge["version"]) == (2 * 2 * 2 * 3, "safer v1")
    assert len(likes_long.bodies) == 12  # both repeats of an answer have the same words


# -- planted judges --------------------------------------------------------------------------------------------------


def pairs(folder: Path, n: int = 160) -> tuple[Path, frozenset[tuple[str, str]]]:
    """Made-up pairs in three of four of which the right answer is the shorter one."""
    rows = []
    for i in range(n):
        short, long = f"answer {i}", f"answer {i}, said at length"
        right, wrong = (long, short) if i % 4 == 0 else (short, long)
        rows.append({"prompt": f"question {i}?", "chosen": right, "rejected": wrong})
    file = folder / "pairs.jsonl"
    write_jsonl(file, rows)
    return file, known((row["prompt"], row["chosen"]) for row in rows)


def check(folder: Path, first: float, longer: float) -> dict[str, Any]:
    file, right = pairs(folder)
    with serving(PlantedJudge(seed=1, errors=0.2, first=first, longer=longer, right=right), model="planted") as server:
        use = PairwiseUse(endpoint=Endpoint(base_url=server.base_url, model="planted"))
        return check_judge(use, file, source="made up")


def test_both_biases_are_found_and_named_on_the_page(tmp_path):
    judge = check(tmp_path, 0.35, 0.35)
    assert [one["name"] for one in judge["biases"] if one["found"]] == [
        "prefers the first answer",
        "prefers the longer answer",
    ]
    write_results(tmp_path / "results.json", [], {}, judges=[judge])
    page = write_judge_page(tmp_path, read_results(tmp_path / "results.json"), title="Judges").read_text("utf-8")
    assert "planted better v1 prefers the first answer and prefers the longer answer." in page


def test_a_judge_who_errs_without_a_bias_is_not_accused(tmp_path):
    judge = check(tmp_path, 0.0, 0.0)
    assert [one["found"] for one in judge["biases"]] == [False, False]
    labels = judge["labels"]
    assert labels["accuracy"]["low"] < 0.8 < labels["accuracy"]["high"]
    assert labels["longer_wins"]["mean"] == 0.25
    # Errors alone bring the longer answer more wins than it deserves: that is no bias.
    assert labels["chose_longer"]["low"] > 0.25


def test_labels_tell_what_answers_alone_let_suspect(tmp_path, likes_long):
    file, _ = pairs(tmp_path, 24)
    base = answers(tmp_path, "base", *["aaa"] * 20)
    new = answers(tmp_path, "new", *["a" if n % 2 else "aaaaaa" for n in range(20)])
    _, judge = win_rates(use_of(likes_long, reference="base"), {"base": base, "new": new})
    assert judge["biases"][1]["name"] == "may prefer the longer answer"
    use = use_of(likes_long, reference="base", labels=file.name)
    _, told = win_rates(use, {"base": base, "new": new}, base_dir=tmp_path)
    assert told["biases"][1]["name"] == "prefers the longer answer"
    assert (told["labels"]["source"], told["labels"]["n"]) == ("pairs.jsonl", 24)


def test_pairs_without_a_right_answer_are_refused(tmp_path, likes_long):
    file = tmp_path / "pairs.jsonl"
    write_jsonl(file, [{"prompt": "question?", "chosen": "yes"}])
    with pytest.raises(DataError, match="line 1: a pair needs prompt, chosen and rejected"):
        check_judge(use_of(likes_long), file)


def test_a_planted_judge_knows_ties_and_keeps_its_word():
    judge = PlantedJudge(errors=0.0, right=known([("q?", "yes")]))
    assert judge.verdict("q?", ("yes", "no")) == "1"
    assert judge.verdict("q?", ("no", "yes")) == "2"
    assert judge.verdict("q?", ("no", "maybe")) == "tie"
    assert (
        judge.reply([{"role": "user", "content": "hello"}]) == "I compare two responses, and have not been shown two."
    )
