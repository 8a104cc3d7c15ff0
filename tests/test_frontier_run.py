"""`equipoise frontier` on models of a user: runs side by side, one page, and what goes wrong said before any work."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

import pico
import small
from equipoise.config import read_yaml
from equipoise.errors import EquipoiseError, SettingError
from equipoise.frontier_run import FrontierConfig, alike, check_runs, planned_runs
from equipoise.methods.run import Run

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("frontier")
    pico.directory(folder / "base")
    small.jsonl(folder / "pku.jsonl", small.pku_rows(24))
    for kind in ("harmful", "borderline", "benign"):
        rows = [{"prompt": f"{kind} {one} {other}?"} for one in small.WORDS[:6] for other in small.WORDS[6:9]]
        small.jsonl(folder / f"{kind}.jsonl", rows)
    (folder / "scores.py").write_text(small.SCORES, encoding="utf-8")
    return folder


def settings(world: Path, **changes: Any) -> dict[str, Any]:
    """Two methods of two settings each, evaluated by a function and the refusal classifier."""
    pairs = {"path": str(world / "pku.jsonl")}
    return {
        "common": {
            "model_name_or_path": str(world / "base"),
            "learning_rate": 1.0e-3,
            "max_length": 64,
            "global_batch_size": 8,
            "max_steps": 2,
            "max_dropped": 0.5,
        },
        "runs": [
            {"method": "sacpo", "data": {"helpful": {**pairs, "axis": "better"}, "safe": {**pairs, "axis": "safer"}},
             "second": {"objective": "dpo"}, "sweep": {"second.beta": [0.1, 0.5]}},
            {"method": "dpo", "name": "helpful", "data": {"pairs": {**pairs, "axis": "better"}}},
        ],
        "evaluate": {
            **{kind: {"path": str(world / f"{kind}.jsonl")} for kind in ("harmful", "borderline", "benign")},
            "select": 0.3,
        },
        "graders": [{"scorer": {"function": f"{world / 'scores.py'}:cost"}}, {"refusals": True}],
        "reward": {"function": f"{world / 'scores.py'}:letters"},
        "sampling": {"max_new_tokens": 6},
        "max_length": 64,
        "target": {"unsafe_rate": 0.5},
        "output_dir": "out",
        **changes,
    }  # fmt: skip


def written(folder: Path, told: dict[str, Any]) -> Path:
    path = folder / "frontier.yaml"
    path.write_text(yaml.safe_dump(told), encoding="utf-8")
    return path


def test_a_frontier_of_two_methods_and_two_seeds(world, call, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    config = written(tmp_path, settings(world, seeds=2))
    code, out, err = call("frontier", config)
    assert code == 0, err
    assert "done     helpful, seed 1" in " ".join(err.split()) or "helpful, seed 1" in err
    document = json.loads((tmp_path / "out" / "results.json").read_text())
    verdict = [one for one in document["results"] if one["split"] == "verdict"]
    labels = {one["label"] for one in verdict}
    assert {"base", "helpful"} <= labels
    assert sum("second.beta" in one["setting"] for one in verdict) >= 2
    assert all(one["seeds"] == [0, 1] for one in verdict)
    assert sum(bool(one.get("chosen")) for one in verdict) == 1
    assert (tmp_path / "out" / "index.html").is_file()
    assert (tmp_path / "out" / "frontier.png").is_file()
    assert call("report", tmp_path / "out", "--one-page")[0] == 0
    assert (tmp_path / "out" / "samples.html").is_file() and (tmp_path / "out" / "one-page.html").is_file()
    assert any(line.startswith(("MET", "NOT MET", "UNDECIDED")) for line in out.splitlines())
    # Again: nothing is trained, and the page is the same.
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "store").glob("train-*/manifest.json")}
    assert call("frontier", config)[0] == 0
    assert before == {path: path.stat().st_mtime_ns for path in (tmp_path / "store").glob("train-*/manifest.json")}


def test_what_failed_is_said_and_the_others_are_drawn(world, call, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    told = settings(world)
    rows = small.pku_rows(24)
    for row in rows[8:]:
        row["response_1"] = row["response_0"]  # beyond the head that is read first
    small.jsonl(tmp_path / "same.jsonl", rows)
    told["runs"][1]["data"] = {"pairs": {"path": str(tmp_path / "same.jsonl"), "axis": "better"}}
    told["common"]["max_dropped"] = 0.3
    code, out, err = call("frontier", written(tmp_path, told))
    assert code == 1, err
    said = " ".join(out.split())
    assert "1 of 3 runs failed: the page is about the others" in said
    assert "note: Failed: helpful:" in said
    document = json.loads((tmp_path / "out" / "results.json").read_text())
    assert document["untested"][0].startswith("Failed: helpful:")
    # The first step is the same for both values of the second: it stands there once.
    first = [one for one in document["results"] if "step 1" in one["label"] and one["split"] == "verdict"]
    assert len(first) == 1
    second = [one for one in document["results"] if "step 2" in one["label"] and one["split"] == "verdict"]
    assert len(second) == 2
    assert all(one["train_tokens"] > first[0]["train_tokens"] > 0 for one in second)


def test_a_sweep_is_every_combination(world):
    told = settings(world, seeds=2)
    told["runs"][0]["sweep"] = {"second.beta": [0.1, 0.5], "learning_rate": [1e-3, 2e-3]}
    plan = planned_runs(FrontierConfig.make(told, where="config"))
    assert len(plan) == (4 + 1) * 2
    assert plan[0].settings["second"] == {"objective": "dpo", "beta": 0.1}
    assert [one.seed for one in plan[:2]] == [0, 1]


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"runs": [{"data": {}}]}, "number 1 says no method"),
        ({"runs": [{"method": "dpo", "sweep": {"beta": 0.1}}]}, "lists of values"),
        ({"models": {"a": "b"}}, "the models of a frontier are its runs'"),
        ({"common": {"seed": 3}}, "a frontier says seeds"),
        ({"processes": 0}, "processes"),
        ({"runs": [{"method": "dpo", "sweep": {"seed": [0, 1]}}]}, "a frontier says seeds"),
        ({"runs": [{"method": "dpo", "name": "A b"}, {"method": "dpo", "name": "a-b"}]}, "would share a folder, a-b-0"),
    ],
)
def test_what_cannot_be_meant(world, change, sentence):
    with pytest.raises(SettingError, match=sentence):
        planned_runs(FrontierConfig.make(settings(world, **change), where="config"))


def test_the_recipe_is_read():
    path = Path(__file__).resolve().parents[1] / "recipes" / "examples" / "frontier-8b.yaml"
    plan = planned_runs(FrontierConfig.make(read_yaml(path), where=path.name))
    assert len(plan) == 7
    assert {Run.read(one.settings, base_dir=path.parent).config.method for one in plan} == {"sacpo", "bfpo", "modpo"}


def test_a_mistake_in_one_run_is_said_before_any_begins(world, tmp_path):
    told = settings(world)
    told["runs"][1]["lerning_rate"] = 1.0
    config = FrontierConfig.make(told, where="config")
    with pytest.raises(SettingError, match=r"run 'helpful': .*lerning_rate"):
        check_runs(config, planned_runs(config), tmp_path)


def test_what_models_are_evaluated_on_is_read_before_any_run_begins(world, tmp_path):
    told = settings(world)
    told["evaluate"]["benign"] = {"path": str(world / "benig.jsonl")}
    config = FrontierConfig.make(told, where="config")
    with pytest.raises(EquipoiseError, match=r"benig\.jsonl"):
        check_runs(config, planned_runs(config), tmp_path)


def test_a_multiplier_solved_with_each_seed_parts_no_seeds():
    models = [
        {"run": "mocan", "place": 0, "seed": seed, "label": f"mocan {x}", "setting": {"beta": 0.1, "multiplier": x}}
        for seed, x in enumerate((1.5, 1.7))
    ]
    found = alike([*models, {"run": "dpo", "place": 0, "seed": 0, "label": "dpo", "setting": {"beta": 0.2}}])
    assert [(one["seed"], one["label"], one["setting"]) for one in found] == [
        (0, "mocan 1.5", {"beta": 0.1}),
        (1, "mocan 1.5", {"beta": 0.1}),
        (0, "dpo", {"beta": 0.2}),
    ]


def test_two_runs_of_one_name_are_refused(world):
    told = settings(world)
    told["runs"].append(told["runs"][1])
    with pytest.raises(SettingError, match="two are called 'helpful'"):
        planned_runs(FrontierConfig.make(told, where="config"))


def test_a_scorer_has_no_answers_to_evaluate(world, tmp_path):
    told = settings(world)
    told["runs"] = [{"method": "reward_model", "data": told["runs"][1]["data"]}]
    config = FrontierConfig.make(told, where="config")
    with pytest.raises(SettingError, match="trains a scorer"):
        check_runs(config, planned_runs(config), tmp_path)
