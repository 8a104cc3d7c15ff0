"""`equipoise evaluate` and `compare` on random models: what they write and say, one sentence for what goes wrong."""

from __future__ import annotations

import csv
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

import pico
import small
from equipoise import measuring
from equipoise.capability import CapabilityUse
from equipoise.evaluate.results import read_results
from equipoise.evaluate.suites import metric_of
from equipoise.evaluating import notes_of
from equipoise.evaluating_settings import EvaluateConfig, SuitesUse, by_label
from equipoise.graders import GraderUse
from equipoise.playground.oracle import MODEL, Oracle, serving
from equipoise.records import read_jsonl
from equipoise.statistics import rate

pytestmark = pytest.mark.usefixtures("one_thread")

Ran = tuple[int, str, str]
Run = Callable[..., Ran]


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two random models, prompts of three kinds (the borderline ones as XSTest has them), questions, scorers."""
    folder = tmp_path_factory.mktemp("evaluating")
    pico.directory(folder / "base")
    pico.directory(folder / "other", seed=1)
    (folder / "scores.py").write_text(f"{pico.SCORERS}\n\ndef constant(row):\n    return -1.0\n", encoding="utf-8")
    harmful = [{"prompt": f"harmful {word}?", "category": "ab"[i % 2]} for i, word in enumerate(small.WORDS)]
    small.jsonl(folder / "harmful.jsonl", harmful)
    small.jsonl(folder / "benign.jsonl", [{"instruction": f"{word}?", "output": "yes"} for word in small.WORDS[:6]])
    with (folder / "xstest.csv").open("w", newline="", encoding="utf-8") as file:
        rows = [["id", "prompt", "type", "label", "focus", "note"]]
        for i, word in enumerate(small.WORDS[:6]):
            rows.append([str(2 * i), f"{word} a wall?", "homonyms", "safe", word, ""])
            rows.append([str(2 * i + 1), f"{word} a cat?", "contrast_homonyms", "unsafe", word, ""])
        csv.writer(file).writerows(rows)
    qa = [{"question": f"{w}?", "right_answer": "so", "hallucinated_answer": "not so"} for w in small.WORDS[:5]]
    small.jsonl(folder / "halueval.jsonl", qa)
    tasks = [{"input": f"{word}?", "target_scores": {"ok": 1, "never": 0}} for word in small.WORDS[:4]]
    (folder / "helpful.json").write_text(json.dumps({"examples": tasks}), encoding="utf-8")
    (folder / "honest.json").write_text(json.dumps({"examples": tasks[:2]}), encoding="utf-8")
    return folder


def settings(folder: Path, **changes: Any) -> dict[str, Any]:
    """An evaluation by functions; None takes a key away."""
    suites = {
        "harmful": str(folder / "harmful.jsonl"),
        "borderline": str(folder / "xstest.csv"),
        "benign": str(folder / "benign.jsonl"),
        **changes.pop("evaluate", {}),
    }
    given = {
        "models": {"base": str(folder / "base"), "other": str(folder / "other")},
        "evaluate": {key: value for key, value in suites.items() if value is not None},
        "graders": [
            {"scorer": {"function": f"{folder / 'scores.py'}:cost"}, "name": "cost"},
            {"refusals": True},
            {"scorer": {"function": f"{folder / 'scores.py'}:constant"}, "name": "second"},
        ],
        "reward": {"function": f"{folder / 'scores.py'}:reward"},
        "sampling": {"max_new_tokens": 6, "seed": 3},
        "max_length": 200,
        "output_dir": str(folder / "out"),
        **changes,
    }
    return {key: value for key, value in given.items() if value is not None}


@pytest.fixture
def run(call: Run, monkeypatch: pytest.MonkeyPatch, world: Path, tmp_path: Path) -> Run:
    """Runs `equipoise evaluate` on a config in this process; returns (exit code, stdout, stderr)."""
    monkeypatch.setenv("EQUIPOISE_STORE", str(world / "store"))

    def written(config: dict[str, Any], *words: object) -> Ran:
        (tmp_path / "config.yaml").write_text(yaml.safe_dump(config), encoding="utf-8")
        return call("evaluate", *words, "--config", tmp_path / "config.yaml")

    return written


def refused(ran: Ran) -> str:
    """The one sentence of a refusal, on one line."""
    code, _, err = ran
    said = " ".join(err.split())
    assert code == 2 and said.count("error: ") == 1 and "Traceback" not in said, err
    return said


def test_two_models_on_all_suites(world: Path, run: Run) -> None:
    hhh = {"helpful": str(world / "helpful.json"), "honest": str(world / "honest.json")}
    suites = {"honesty": str(world / "halueval.jsonl"), "hhh": hhh, "categories": ["a", "b"]}
    code, out, err = run(settings(world, evaluate=suites, target={"unsafe_rate": 0.5}))
    assert code == 0, err
    document = read_results(world / "out" / "results.json")
    base, other = document["results"]
    assert [(one["label"], one["method"], one["split"]) for one in (base, other)] == [
        ("base", "base", "verdict"),
        ("other", "model", "verdict"),
    ]
    assert base["prompts"] == other["prompts"] and base["prompts"]["n"] == 16 + 12 + 6 + 5 + 6
    for name in ("unsafe_rate", "unsafe_rate/a", "unsafe_rate/contrast_homonyms", "unsafe_rate@second", "over_refusal",
                 "reward", "cost", "length", "honesty/halueval", "hhh", "hhh/helpful", "hhh/honest"):  # fmt: skip
        assert base["metrics"][name]["low"] is not None, name
    assert base["metrics"]["unsafe_rate"]["n"] == 22 and base["metrics"]["over_refusal"]["n"] == 6
    assert base["metrics"]["unsafe_rate@second"]["mean"] == 0
    assert base["suite"].startswith(
        "harmful: harmful.jsonl; borderline: xstest.csv; benign: benign.jsonl; honesty: halu"
    )
    assert base["judge"].startswith("cost + refusals v1 + second + reward scores.py:reward ")
    assert len(base["template"]) == 12
    assert base["sampling"]["seed"] == 3 and base["system_prompt"] is None
    judges = {one["name"]: one for one in document["judges"]}
    assert [judges[name]["first"] for name in ("cost", "refusals v1", "second")] == [True, True, False]
    assert judges["second"]["agreement"][0]["with"] == "cost"
    assert document["untested"] == []
    rows = read_jsonl(world / "out" / "answers.jsonl")
    assert len(rows) == 2 * 34 and {row["split"] for row in rows} == {"verdict"}
    harmful = next(row for row in rows if row["kind"] == "harmful")
    assert set(harmful["verdicts"]) == {"cost", "second"} and harmful["cost"] is not None
    assert "index.html" in out and (world / "out" / "index.html").is_file()
    made = {path.name for path in (world / "store").glob("*-*")}
    code, _, err = run(settings(world, evaluate=suites, target={"unsafe_rate": 0.5}))
    assert code == 0 and {path.name for path in (world / "store").glob("*-*")} == made, err


def test_a_model_of_the_command_line_is_asked_with_a_system_prompt(world: Path, run: Run) -> None:
    config = settings(world, models=None, system_prompt="Be brief.", output_dir=str(world / "brief"))
    code, _, err = run(config, world / "other", "--sampling.max_new_tokens", 4)
    assert code == 0, err
    (only,) = read_results(world / "brief" / "results.json")["results"]
    assert (only["label"], only["system_prompt"], only["sampling"]["max_new_tokens"]) == ("other", "Be brief.", 4)
    assert all(row["prompt"][0] == {"role": "system", "content": "Be brief."}
               for row in read_jsonl(world / "brief" / "answers.jsonl"))  # fmt: skip


def test_select_prompts_choose_and_verdict_prompts_report(world: Path, run: Run) -> None:
    config = settings(world, evaluate={"select": 0.4}, target={"unsafe_rate": 0.9}, output_dir=str(world / "select"))
    code, out, err = run(config)
    assert code == 0, err
    results = read_results(world / "select" / "results.json")["results"]
    splits = {split: [one for one in results if one["split"] == split] for split in ("select", "verdict")}
    assert len(splits["select"]) == len(splits["verdict"]) == 2
    assert splits["select"][0]["prompts"]["n"] + splits["verdict"][0]["prompts"]["n"] == 34
    assert sum(bool(one.get("chosen")) for one in results) == 1 and "Chosen: the" in out


def test_prompts_of_the_same_words_go_to_the_same_split(world: Path) -> None:
    config = EvaluateConfig.make(
        settings(world, evaluate={"harmful": {"path": "h", "select": 0.5}}, target={"unsafe_rate": 0.5})
    )
    rows = [
        {"id": f"{kind}-{i}", "kind": kind, "prompt": [{"role": "user", "content": f"number {i}"}]}
        for i in range(20)
        for kind in ("harmful", "benign")
    ]
    splits = measuring._splits(config, rows)
    for i in range(20):
        assert len({split for split, ids in splits.items() if {f"harmful-{i}", f"benign-{i}"} & ids}) == 1


def test_prompts_near_to_training_prompts_are_left_out(world: Path, run: Run, tmp_path: Path) -> None:
    seen = small.jsonl(tmp_path / "seen.jsonl", [{"prompt": "harmful amber?"}])
    config = settings(world, evaluate={"seen": str(seen)}, output_dir=str(world / "seen"))
    code, _, err = run(config, world / "base")
    assert code == 0, err
    assert read_results(world / "seen" / "results.json")["results"][0]["prompts"]["n"] == 33


def test_a_judge_over_http_gives_verdicts_with_reasons_and_win_rates(world: Path, run: Run) -> None:
    with serving(Oracle()) as server:
        judge = {"base_url": server.base_url, "model": MODEL, "identity": "oracle"}
        config = settings(
            world,
            graders=[{"rubric": "harm", "endpoint": judge}, {"rubric": "refusal", "endpoint": judge}],
            pairwise={"endpoint": judge, "reference": "base"},
            reward=None,
            output_dir=str(world / "judged"),
        )
        code, _, err = run(config)
        assert code == 0, err
        paid = server.counts.received
    code, _, err = run(config)  # everything is there: nobody needs to be asked
    assert code == 0 and server.counts.received == paid, err
    document = read_results(world / "judged" / "results.json")
    base, other = (one["metrics"] for one in document["results"])
    assert base["win_rate"]["mean"] == 0.5 and 0 <= other["win_rate"]["mean"] <= 1 and other["win_rate"]["n"] == 6
    assert base["unsafe_rate"]["n"] == 22 and base["over_refusal"]["n"] == 6 and "cost" not in base
    assert {one["measures"] for one in document["judges"]} == {"unsafe_rate", "over_refusal", "win_rate"}
    rows = read_jsonl(world / "judged" / "answers.jsonl")
    assert all(len(row["verdicts"]) == (row["kind"] != "benign") for row in rows)
    harmful = next(row for row in rows if row["kind"] == "harmful")
    assert next(iter(harmful["verdicts"].values()))["reason"]


def test_an_endpoint_that_is_down_is_found_before_prompts_are_read(world: Path, run: Run, tmp_path: Path) -> None:
    gone = {"base_url": "http://127.0.0.1:9/v1", "model": MODEL, "retries": 0}
    config = settings(
        world,
        graders=[{"rubric": "harm", "endpoint": gone, "name": "ours"}, {"refusals": True}],
        pairwise={"endpoint": gone, "reference": "base"},
        reward=None,
        store=str(tmp_path / "store"),
    )
    said = refused(run(config))
    assert "error: grader 'ours' and pairwise: the endpoint http://127.0.0.1:9/v1 cannot be reached" in said
    with serving(Oracle()) as server:
        config["graders"][0]["endpoint"] = {**gone, "base_url": server.base_url}
        said = refused(run(config))
        assert "error: pairwise: the endpoint http://127.0.0.1:9/v1 cannot be reached" in said
    assert not list((tmp_path / "store").glob("asked-*"))


def test_questions_alone(world: Path, run: Run) -> None:
    config = settings(world, graders=None, reward=None, output_dir=str(world / "asked"))
    config["evaluate"] = {"honesty": str(world / "halueval.jsonl")}
    code, _, err = run(config, world / "base")
    assert code == 0, err
    (only,) = read_results(world / "asked" / "results.json")["results"]
    assert only["prompts"]["n"] == 5 and only["judge"] == "log-probabilities"
    assert set(only["metrics"]) == {f"honesty/halueval{end}" for end in ("", "_per_token", "_baseline")}


# ---- what goes wrong, in one sentence --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("suites", "changes", "words"),
    [
        ({"borderline": None}, {}, ["harmful prompts without borderline ones", "the line `borderline: {path: ...}`"]),
        ({"harmful": None}, {}, ["borderline prompts without harmful ones", "add the line `harmful: {path: ...}`"]),
        ({"harmfull": "x"}, {}, ["unknown key 'harmfull' (did you mean 'harmful'?)"]),
        ({"categories": ["a", "c"]}, {}, ["no harmful prompt is of the category 'c'"]),
        ({"harmful": {"path": "harmful.jsonl", "select": 1}}, {}, ["harmful.select is a share in [0, 1), got 1"]),
        ({"harmful": {"path": "harmful.jsonl", "categories": ["a"]}}, {},
         ["evaluate.harmful has the unknown key categories: it belongs under evaluate, beside harmful"]),
        ({"harmful": {"path": "harmful.jsonl", "slect": 0.3}}, {},
         ["evaluate.harmful has the unknown key slect (did you mean 'select'?)"]),
        ({"benign": [{"path": "benign.jsonl", "select": 0.3}]}, {},
         ["evaluate.benign has the unknown key select: it belongs under evaluate, beside benign"]),
        ({"near_duplicates": 0.5}, {}, ["near_duplicates does nothing without seen"]),
        ({}, {"graders": [{"refusals": True}]}, ["none says which answers to harmful prompts count"]),
        ({}, {"graders": [{"scorer": {"function": "scores.py:cost"}}]}, ["add `- {refusals: true}`"]),
        ({}, {"models": {"a": "nowhere/at/all"}}, ["nowhere/at/all"]),
        ({}, {"models": None}, ["names no models"]),
        ({"honesty": "harmful.jsonl"}, {}, ["columns of no known set (category, prompt)"]),
        ({}, {"max_length": 16, "max_dropped": 0.1}, ["more than max_dropped 0.1 allows"]),
        ({"benign": None}, {"pairwise": {"endpoint": {"base_url": "http://h/v1", "model": "m"}, "reference": "base"}},
         ["pairwise compares answers to benign prompts"]),
        ({}, {"sampling": {"max_new_tokens": 200}}, ["leaves no room for a prompt within max_length 200"]),
        ({}, {"pairwise": {"endpoint": {"base_url": "http://h/v1", "model": "m"}, "reference": "bse"}},
         ["pairwise.reference 'bse' is none of the models (did you mean 'base'?)"]),
        ({}, {"pairwise": {"endpoint": {"base_url": "http://h/v1", "model": "m"}, "reference": "base",
                           "labels": "nowhere.jsonl"}}, ["nowhere.jsonl"]),
        ({"select": 0.3}, {}, ["evaluate.select keeps prompts by which a model is chosen, which takes target"]),
        ({"select": 0.3}, {"target": {"unsafe_rate": 0.5}, "reward": None}, ["and reward (or pairwise and a share"]),
        ({"benign": {"path": "benign.jsonl", "select": 0.001}, "select": 0.4}, {"target": {"unsafe_rate": 0.5}},
         ["evaluate.benign: select 0.001 takes none of its 6 prompts"]),
        ({"seen": "seen.jsonl"}, {}, ["evaluate.benign: no prompt is left, all are near to prompts of seen"]),
    ],
)  # fmt: skip
def test_settings_that_cannot_be_meant(
    world: Path, run: Run, monkeypatch: pytest.MonkeyPatch, suites: dict[str, Any], changes: dict[str, Any],
    words: list[str],
) -> None:  # fmt: skip
    monkeypatch.chdir(world)
    small.jsonl(world / "seen.jsonl", [{"prompt": f"{word}?"} for word in small.WORDS[:6]])
    said = refused(run(settings(world, evaluate=suites, **changes)))
    assert all(word in said for word in words), said


def test_categories_that_nobody_gave(world: Path, run: Run, tmp_path: Path) -> None:
    plain = small.jsonl(tmp_path / "plain.jsonl", [{"prompt": f"harmful {word}?"} for word in small.WORDS[:4]])
    safe = {"path": str(world / "xstest.csv"), "where": {"label": "safe"}}
    suites = {"harmful": str(plain), "borderline": safe, "categories": ["a"]}
    said = refused(run(settings(world, evaluate=suites)))
    assert "no harmful prompt has a category" in said and "map: {category: COLUMN}" in said


def test_models_that_say_nothing(world: Path, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    said = refused(run(settings(world, sampling={"max_new_tokens": 6, "stop": [""]})))
    assert "an empty stop string would end every answer" in said
    # Every byte is a stop string, so that nothing is left of any answer.
    stops = [chr(code) for code in range(1, 0x180)] + ["\ufffd"]
    config = settings(world, sampling={"max_new_tokens": 4, "stop": stops})
    said = refused(run(config, world / "base"))
    assert "all 34 answers of 'base' are empty" in said


def test_neither_suites_nor_playground(call: Run, world: Path) -> None:
    said = refused(call("evaluate", world / "base"))
    assert "--config FILE.yaml" in said and "--playground" in said


# ---- comparing -------------------------------------------------------------------------------------------------------


def test_two_models_of_one_evaluation_are_compared_prompt_by_prompt(world: Path, run: Run, call: Run) -> None:
    code, _, err = run(settings(world, output_dir=str(world / "both")))
    assert code == 0, err
    said = refused(call("compare", world / "both", world / "both"))
    assert "holds 2 models: name one with --model" in said
    said = refused(call("compare", world / "both", world / "both", "--model", "base"))
    assert "both sides are 'base'" in said
    sides = ("compare", world / "both", world / "both", "--model", "base", "--model")
    said = refused(call(*sides, "othr"))
    assert "no verdict results of a model 'othr' (did you mean 'other'?)" in said
    code, out, err = call(*sides, "other", "--out", world / "gaps.json")
    assert code == 0, err
    found = {one["metric"]: one for one in json.loads((world / "gaps.json").read_text())["differences"]}
    base, other = read_results(world / "both" / "results.json")["results"]
    for name, count in (("unsafe_rate", 22), ("over_refusal", 6), ("reward", 34)):
        gap = base["metrics"][name]["mean"] - other["metrics"][name]["mean"]
        assert (found[name]["difference"], found[name]["paired"]) == (pytest.approx(gap), count)
        assert found[name]["low"] <= found[name]["difference"] <= found[name]["high"]
    assert "unsafe_rate" in out and "not paired" not in out


def test_results_that_were_measured_differently_are_refused_unless_forced(world: Path, run: Run, call: Run) -> None:
    for name, changes in (("one", {}), ("two", {"system_prompt": "Be brief."})):
        code, _, err = run(settings(world, output_dir=str(world / name), **changes), world / "base")
        assert code == 0, err
    said = refused(call("compare", world / "one", world / "two"))
    assert "system_prompt differs" in said and "null" in said and '"Be brief."' in said and "--force" in said
    code, out, err = call("compare", world / "one", world / "two", "--force")
    assert code == 0 and "compared all the same (--force): system_prompt differs" in " ".join(out.split()), err
    (world / "one" / "answers.jsonl").unlink()
    code, out, _ = call("compare", world / "one" / "results.json", world / "two", "--force")
    assert code == 0 and "no figure is paired" in " ".join(out.split())
    document = json.loads((world / "two" / "results.json").read_text())
    (world / "two" / "results.json").write_text(json.dumps({**document, "schema": 2}))
    said = refused(call("compare", world / "one", world / "two"))
    assert "results schema 2, this version of equipoise reads 1" in said


# ---- small parts -----------------------------------------------------------------------------------------------------


def test_capability_tasks_stand_beside_the_rest(world: Path, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    checked: list[tuple[str, ...]] = []

    def scripted(model: Any, use: CapabilityUse, *, base_dir: Path) -> dict[str, Any]:
        """What the harness would find."""
        return {f"capability/{task}": metric_of(rate([True, False], [0, 1])) for task in use.tasks}

    monkeypatch.setattr(measuring, "check_tasks", lambda use, base_dir: checked.append(use.tasks))
    monkeypatch.setattr(measuring, "capability", scripted)
    code, _, err = run(settings(world, capability={"tasks": ["colors", "shapes"]}))
    assert code == 0, err
    document = read_results(world / "out" / "results.json")
    assert checked == [("colors", "shapes")]
    assert all(one["metrics"]["capability/colors"]["mean"] == 0.5 for one in document["results"])


def test_a_missing_extra_is_said_before_any_model_answers(
    world: Path, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "lm_eval.tasks", None)
    told = settings(world, capability={"tasks": ["arc_easy"]}, seed=77, sampling={"max_new_tokens": 5, "seed": 77})
    before = set((world / "store").glob("generate-*"))
    said = refused(run(told))
    assert "pip install 'equipoise[eval]'" in said
    assert set((world / "store").glob("generate-*")) == before


def test_labels_come_from_the_end_of_a_path() -> None:
    known = {"base": "org/base-7b"}
    models = ["base", "runs/x/1-sacpo", "store/train-0123/model", "org/name@v1"]
    assert by_label(models, known) == {
        "base": "org/base-7b",
        "1-sacpo": "runs/x/1-sacpo",
        "train-0123": "store/train-0123/model",
        "name@v1": "org/name@v1",
    }


def test_suites_are_named_by_their_files_and_revisions() -> None:
    use = SuitesUse(
        harmful=[{"path": "a/b.jsonl"}, {"path": "org/set", "revision": "v2"}],
        borderline={"path": "c.csv", "select": 0.5},
        hhh={"honest": "x.json", "other": "y.json"},
    )
    assert use.named() == "harmful: b.jsonl, org/set@v2; borderline: c.csv; hhh: x.json, y.json"
    assert use.shares() == {"harmful": 0.0, "borderline": 0.5, "benign": 0.0}


def test_empty_and_cut_answers_are_said() -> None:
    def result(label: str, template: str, empty: dict[str, int], cut: int) -> dict[str, Any]:
        return {"label": label, "template": template, "empty": empty, "cut_off": cut, "metrics": {"length": {"n": 20}}}

    scorer, judge, refusals = (
        GraderUse.make({"name": "costs", "scorer": {"model": "owner/costs"}}),
        GraderUse.make(
            {"name": "Judge", "rubric": "harm", "endpoint": {"base_url": "http://127.0.0.1:9", "model": "m"}}
        ),
        GraderUse.make({"refusals": True}),
    )
    graders = [scorer, judge, refusals]
    assert notes_of([result("a", "t", {}, 1)], graders) == []
    notes = notes_of([result("a", "t", {"harmful": 2, "benign": 1}, 5), result("b", "u", {}, 0)], graders)
    assert notes[0] == "3 answers of a are empty (2 to harmful prompts, 1 to benign prompts)."
    assert notes[1] == (
        "An empty answer: costs scores it like any other and may call it unsafe; Judge counts it as safe."
    )
    assert notes[2] == "25% of the answers of a were cut off." and "templates differ" in notes[3]
    notes = notes_of([result("a", "t", {"borderline": 1}, 0)], graders)
    assert notes[1:] == [f"An empty answer: {refusals.title} counts it as a refusal."]
    assert len(notes_of([result("a", "t", {"benign": 1}, 0)], graders)) == 1


def test_the_playground_needs_no_config(call: Run, world: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from equipoise.playground.shipped import unpack_base

    monkeypatch.setenv("EQUIPOISE_STORE", str(world / "store"))
    unpack_base(world / "mine")
    code, out, err = call(
        "evaluate", world / "mine", "--playground", "--prompts", 4, "--output_dir", world / "playground"
    )
    assert code == 0, err
    document = read_results(world / "playground" / "results.json")
    base, mine = document["results"]
    assert (mine["label"], mine["judge"], mine["template"]) == ("mine", "truth", "playground")
    assert mine["metrics"]["unsafe_rate"] == base["metrics"]["unsafe_rate"] and mine["metrics"]["kl"][
        "mean"
    ] == pytest.approx(0, abs=1e-5)
    assert len(read_jsonl(world / "playground" / "answers.jsonl")) == 24 and "index.html" in out
    said = refused(call("evaluate", world / "base", "--playground"))
    assert "two models are called 'base'" in said
    both = ("compare", world / "playground", world / "playground", "--model", "base", "--model", "mine")
    code, out, err = call(*both)
    assert code == 0 and "not paired" not in out.replace("not paired: choice", ""), err


def test_an_evaluation_by_its_config_alone(world: Path) -> None:
    config = EvaluateConfig.make(settings(world))
    assert config.judge.startswith("cost + refusals v1") and config.endpoints == ()
    assert config.account == config.but(models={"a": "b"}).account
