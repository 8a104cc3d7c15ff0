"""Objectives and methods by path through real stages: what is trained anew after an edit, what is refused."""

import json

import numpy as np
import pytest
import yaml

import pico
import small
from equipoise import stages
from equipoise.errors import DataError, SettingError
from equipoise.methods.align import align, logps, prepared, use
from equipoise.methods.run import Run
from equipoise.runs import execute, load_run, planned, stage_plan
from equipoise.stages import TrainStageConfig, model_input, train
from equipoise.store import Store, manifest, using_store
from small import trained_on

pytestmark = pytest.mark.usefixtures("one_thread")

HINGE = """
def hinge(logps, ref_logps, *, beta: float = 0.1):
    return (1 - beta * (logps.margin - ref_logps.margin)).relu()
"""
METHOD = """
from equipoise.methods.align import align
from equipoise.stages import MergeConfig, merge

def twice(base, helpful, safe=None, *, beta: float = 0.1, first: dict = {}, mix=0.5):
    one = align(base, helpful.step("dpo", **{"beta": beta, **first}))
    if safe is None:
        return one
    two = align(one, safe.step("dpo", beta=beta / 4, max_steps=1), base=base)
    return {"helpful": one, "safe": two, "mixed": merge(MergeConfig(weights=(mix, 1 - mix)), models=(two, one))}
"""


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    folder = tmp_path_factory.mktemp("given")
    pico.directory(folder / "base")
    rows = [{**row, "response_0_severity_level": i % 3, "response_1_severity_level": 1} for i, row in
            enumerate(small.pku_rows(24))]  # fmt: skip
    small.jsonl(folder / "pku.jsonl", rows)
    return folder


@pytest.fixture
def here(world, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine.py").write_text(HINGE)
    (tmp_path / "method.py").write_text(METHOD)
    return tmp_path


def spec(artefact):
    return json.loads((artefact.path / "spec.json").read_text())


def settings(world, **changes):
    role = {"path": str(world / "pku.jsonl")}
    given = {"method": "method.py:twice", "model_name_or_path": str(world / "base"), "output_dir": "out",
             "data": {"helpful": role, "safe": role}, "learning_rate": 5e-3, "global_batch_size": 8, "max_steps": 2,
             "max_length": 200}  # fmt: skip
    return {k: v for k, v in {**given, **changes}.items() if v is not None}


# ---- objectives ----------------------------------------------------------------------------------------------------


def test_an_edit_trains_anew_and_nothing_else_does(world, base, here):
    def made():
        return align(base, small.step(world / "pku.jsonl", "better", "mine.py:hinge"))

    first = made()
    assert spec(first)["config"]["objective"] == use("mine.py:hinge").canonical()
    assert small.metrics(first.path)[0]["loss"] == pytest.approx(1, abs=1e-4)  # max(0, 1 - 0)
    assert made() == first
    (here / "mine.py").write_text(HINGE.replace("(1 -", "(2 -"))
    second = made()
    assert small.metrics(second.path)[0]["loss"] == pytest.approx(2, abs=1e-4)
    assert second.id != first.id and trained_on(second) == trained_on(first), "rows and reference are the same"
    (here / "mine.py").write_text(HINGE)
    assert made() == first


def test_the_objective_is_found_by_launched_processes_too(world, base, here, monkeypatch):
    step = small.step(world / "pku.jsonl", "better", "mine.py:hinge", beta=0.2, train={"max_steps": 1})
    data = prepared(base, step)
    config = TrainStageConfig(objective=step.objective, train=step.train, launch="sh exit-7")
    inputs = {"model": base, "data": data, "reference": logps(base, data, step)}
    (here / "exit-7").write_text("exit 7\n")
    with using_store(Store(here / "store")):
        with pytest.raises(DataError, match="ended with exit code 7"):  # what is to be done stands in its folder now
            train(config, **inputs)
        (folder,) = (here / "store").iterdir()
        with monkeypatch.context() as launched:
            launched.setenv("EQUIPOISE_STAGE", folder.name)
            assert stages.main(str(folder)) == 0
        made = train(config.but(launch=None), **inputs)
    assert made.path == folder and spec(made)["config"]["objective"]["source"] == step.objective.source
    assert small.metrics(folder)[0]["loss"] == pytest.approx(1, abs=1e-4)


def test_a_file_that_is_edited_during_a_run_stops_it(world, base, here):
    step = small.step(world / "pku.jsonl", "better", "mine.py:hinge", beta=0.3)
    (here / "mine.py").write_text(HINGE + "# more\n")
    with pytest.raises(SettingError, match=r"'mine.py:hinge' was edited since this run began"):
        align(base, step)


def test_columns_of_the_file_reach_the_objective(world, base, here):
    (here / "mine.py").write_text(
        "def severe(logps, ref_logps, severity, *, beta=0.1):\n"
        "    return (severity.margin - beta * (logps.margin - ref_logps.margin)).square()\n"
    )
    step = small.step(world / "pku.jsonl", "better", "mine.py:severe", train={"global_batch_size": 24, "max_steps": 1})
    made = align(base, step)
    with np.load(prepared(base, step).path / "columns.npz") as columns:
        margin = columns["chosen_severity"] - columns["rejected_severity"]
    assert len(set(margin.tolist())) > 2
    assert small.metrics(made.path)[0]["loss"] == pytest.approx((margin**2.0).mean(), rel=1e-4)


def test_labels_without_a_baseline(world, base, here):
    (here / "mine.py").write_text(
        "def up_or_down(logps, ref_logps, label):\n    return (ref_logps - logps) * (2.0 * label - 1)\n"
    )
    made = align(base, small.step(world / "pku.jsonl", "safer", "mine.py:up_or_down", train={"max_steps": 2}))
    first, last = small.metrics(made.path)
    assert first["loss"] == pytest.approx(0, abs=1e-4) and last["loss"] != 0
    assert {"rewards/desirable", "displacement/undesirable"} < last.keys() and "kl" not in last


def test_a_column_the_file_lacks_is_refused_with_those_it_has(world, here):
    (here / "mine.py").write_text("def f(logps, ref_logps, sevrity): return -logps.margin\n")
    role = {"path": str(world / "pku.jsonl")}
    run = Run.read(settings(world, method="dpo", objective="mine.py:f", data={"helpful": role}), base_dir=here)
    with pytest.raises(SettingError, match=r"needs the number 'sevrity' of every answer.*did you mean 'severity'"):
        run.check_data()


def test_an_objective_that_cannot_be_trained_is_refused_before_weights_load(world, here):
    (here / "mine.py").write_text("def f(logps, ref_logps): return -logps.margin.mean()\n")
    role = {"path": str(world / "pku.jsonl")}
    run = Run.read(settings(world, method="dpo", objective="mine.py:f", data={"helpful": role}), base_dir=here)
    with pytest.raises(SettingError, match=r"'mine.py:f' returns shape \(\) for 6 rows"):
        run.check_model()


# ---- methods -------------------------------------------------------------------------------------------------------


def test_a_method_runs_from_a_config(world, here, base):
    (here / "config.yaml").write_text(yaml.safe_dump(settings(world, holdout=0.3)))
    run = load_run(here / "config.yaml", ["first.max_steps=1", "mix=0.25"])
    assert [(s.prefer, s.train.max_steps, s.objective.settings["beta"]) for s in run.steps] == [
        ("better", 1, 0.1), ("safer", 1, 0.025),
    ]  # fmt: skip
    run.check_data()
    with using_store(Store(world / "store")):
        assert [stage for stage, _, _ in planned(run)] == ["prepare", "reference", "train"] * 2 + ["merge"]
        assert "method.py:twice" in stage_plan(run).title
        execute(run, say=lambda text: None)
    assert sorted(p.name for p in (here / "out").glob("*-*")) == ["1-helpful", "2-safe", "3-mixed"]
    results = json.loads((here / "out" / "results.json").read_text())["results"]
    assert [r["label"] for r in results] == ["base", "helpful", "safe", "mixed"]
    assert results[-1]["setting"] == {"beta": 0.1, "first": {"max_steps": 1}, "mix": 0.25}
    assert results[-1]["method"] == "method.py:twice" and "helpful/implicit_reward" in results[-1]["metrics"]
    assert yaml.safe_load((here / "out" / "config.yaml").read_text())["mix"] == 0.25


def test_an_edited_method_changes_only_the_stages_whose_settings_it_changes(world, here):
    with using_store(Store(here / "store")):
        before = planned(Run.read(settings(world), base_dir=here))
        (here / "method.py").write_text(METHOD + "# a remark\n")
        assert planned(Run.read(settings(world), base_dir=here)) == before
        (here / "method.py").write_text(METHOD.replace("beta / 4", "beta / 8"))
        after = planned(Run.read(settings(world), base_dir=here))
    assert after[:5] == before[:5] and after[5] != before[5] and after[6] != before[6]


def test_a_stage_of_the_users_file_carries_its_source(world, here):
    (here / "method.py").write_text(
        "from equipoise.config import Config\nfrom equipoise.store import stage\n"
        "@stage(version=1)\ndef counted(work, config, *, model): (work.path / 'model').mkdir()\n"
        "class CountConfig(Config):\n    n: int = 1\n"
        "def m(base, helpful, *, n=1):\n    return counted(CountConfig(n=n), model=base)\n"
    )
    role = {"helpful": {"path": str(world / "pku.jsonl")}}
    with using_store(Store(here / "store")):
        run = Run.read(settings(world, method="method.py:m", data=role, n=2), base_dir=here)
        (made,) = run.execute()
        assert (made.label, made.setting) == ("m", {"n": 2}) and len(spec(made.artefact)["source"]) == 16
        assert manifest(made.artefact)["stage"] == "counted" and run.execute()[0].artefact == made.artefact
        (here / "method.py").write_text((here / "method.py").read_text() + "# a remark\n")
        again = Run.read(settings(world, method="method.py:m", data=role, n=2), base_dir=here)
        assert again.execute()[0].artefact.id != made.artefact.id


@pytest.mark.parametrize(
    ("changes", "code", "sentence"),
    [
        ({"method": "method.py:twce"}, METHOD, "method 'method.py:twce': method.py has no 'twce' .*'twice'"),
        ({"bta": 0.2}, METHOD, "config: unknown key 'bta' \\(did you mean 'beta'\\?\\)"),
        ({"beta": "high"}, METHOD, "config: beta: input should be a valid number"),
        ({"data": {"safe": {"path": "x"}}}, METHOD, "data: method.py:twice needs the role helpful, got safe"),
        ({"data": {"helpfull": {"path": "x"}}}, METHOD, "has no role 'helpfull' \\(did you mean 'helpful'\\?\\)"),
        ({"first": {"bta": 1}}, METHOD, "helpful.step: unknown key 'bta' \\(did you mean 'beta'\\?\\)"),
        ({}, "def twice(base, helpful, safe): return helpful", "returns Role, expected a model of a stage or a map"),
        ({}, "def twice(base, helpful, safe): return {'a': 1}", "returns 'a': int, expected a label and a model"),
        ({}, "def twice(base, helpful, safe):\n    return safe.stp()", "fails: AttributeError: .*'stp'.*line 2"),
        ({}, "def twice(base): return base", "positional parameters are the base and at least one role"),
        ({}, "def twice(base, *roles): return base", "name its parameters instead of taking \\*roles"),
        ({}, "def twice(base, helpful, safe, *, seed=1): return base", "seed is a key of every method"),
        ({}, "def twice(base, helpful, safe, *, a: Nope = 1): return base", "cannot be imported: NameError"),
        ({}, "twice = 3", "must be a function, got a int"),
    ],
)  # fmt: skip
def test_mistakes_are_one_sentence(world, here, changes, code, sentence):
    (here / "method.py").write_text(code + "\n")
    with pytest.raises(SettingError, match=sentence) as caught:
        Run.read(settings(world, **changes), base_dir=here)
    assert "\n" not in str(caught.value)


def test_a_method_may_leave_a_role_out(world, here):
    run = Run.read(settings(world, data={"helpful": {"path": str(world / "pku.jsonl")}}), base_dir=here)
    with using_store(Store(here / "store")):
        assert [stage for stage, _, _ in planned(run)] == ["prepare", "reference", "train"]
    assert model_input(str(world / "base")).id
