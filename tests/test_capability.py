"""Capability tasks: the harness's figures as metrics, versions in the address, and a task of one's own."""

import builtins
import json
from types import SimpleNamespace

import pytest

import pico
import small
from equipoise import capability as room
from equipoise.capability import CapabilityUse, capability, metric_from, task_versions, tasks_of
from equipoise.errors import DataError, SettingError
from equipoise.stages import model_input
from equipoise.statistics import rate
from equipoise.store import Store, manifest, using_store
from equipoise.types import Artefact

TASK = """\
task: tiny_colors
dataset_path: json
dataset_kwargs: {{data_files: {{test: {rows}}}}}
test_split: test
output_type: multiple_choice
doc_to_text: "{{{{question}}}}"
doc_to_choice: "{{{{choices}}}}"
doc_to_target: answer
metric_list:
  - {{metric: acc, aggregation: mean, higher_is_better: true}}
metadata: {{version: 1.5}}
"""


def entry(kind, **config):
    return SimpleNamespace(kind=SimpleNamespace(name=kind), cfg=config)


INDEX = {
    "colors": entry("TASK", task="colors", metadata={"version": 2.0}),
    "shapes": entry("TASK", task="shapes"),
    "sights": entry("GROUP", group="sights", task=["colors", {"task": "shapes"}], metadata={"version": 1}),
    "seeing": entry("TAG"),
}


@pytest.fixture
def scripted(monkeypatch, tmp_path):
    """The harness as a script: an index of tasks, and what it would find."""
    asked = []

    def found(work, config, name):
        asked.append(config.task)
        (work.path / "replies_rank0.db").write_bytes(b"")
        acc = [1.0, 0.0, 1.0, 1.0]
        leaves = ["colors", "shapes"] if config.task == "sights" else [config.task]
        row = {"alias": config.task, "sample_len": 4, "acc,none": 0.75, "acc_stderr,none": 0.25}
        return {
            "results": {config.task: row},
            "samples": {leaf: [{"acc": value} for value in acc] for leaf in leaves},
            "n-samples": {leaf: {"original": 9, "effective": 4} for leaf in INDEX},
            "n-shot": {"colors": 0, "shapes": 2},
            "lm_eval_version": "0.4.13",
        }

    monkeypatch.setattr(room, "_index", lambda folder: INDEX)
    monkeypatch.setattr(room, "_evaluated", found)
    with using_store(Store(tmp_path / "store")):
        yield asked


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return model_input(str(pico.directory(tmp_path_factory.mktemp("capability") / "model")))


def test_right_and_wrong_answers_are_a_rate_with_an_exact_interval(scripted, model):
    ((name, metric),) = capability(model, CapabilityUse(tasks=("colors",), limit=4)).items()
    expected = rate([True, False, True, True], range(4))
    assert name == "capability/colors"
    assert (metric["mean"], metric["low"], metric["high"]) == (0.75, expected.low, expected.high)
    assert (metric["n"], metric["kind"], metric["unscored"]) == (4, "rate", 0)
    assert (metric["of"], metric["version"], metric["stderr"], metric["limit"]) == ("acc,none", "2.0", 0.25, 4)


def test_a_group_has_the_standard_error_of_the_harness(scripted, model):
    metric = capability(model, CapabilityUse(tasks=("sights",)))["capability/sights"]
    assert metric["n"] == 8 and metric["high"] == 1.0, "no share lies above 1"
    assert metric["low"] == pytest.approx(0.75 - 1.959964 * 0.25)


def test_tasks_and_versions_are_in_the_address_and_finished_ones_are_reused(scripted, model, monkeypatch):
    use = CapabilityUse(tasks=("colors", "shapes"))
    first = tasks_of(model, use)
    assert scripted == ["colors", "shapes"] and not list(first["colors"].path.glob("replies*"))
    assert tasks_of(model, use.but(batch_size=2)) == first and scripted == ["colors", "shapes"]
    assert manifest(first["shapes"])["summary"]["questions"] == 4
    monkeypatch.setitem(INDEX, "colors", entry("TASK", task="colors", metadata={"version": 2.1}))
    again = tasks_of(model, use)
    assert again["colors"] != first["colors"] and again["shapes"] == first["shapes"]
    assert tasks_of(model, CapabilityUse(tasks=("shapes",), limit=3))["shapes"] != first["shapes"]


def test_versions_of_a_group_are_those_of_all_its_tasks(scripted):
    assert task_versions("sights", None) == (False, {"colors": "2.0", "shapes": "none", "sights": "1"})


def test_unknown_tasks_tags_and_folders_are_refused(scripted, model, tmp_path):
    with pytest.raises(SettingError, match=r"task 'colorss' is unknown .did you mean 'colors'"):
        task_versions("colorss", None)
    with pytest.raises(SettingError, match="'seeing' is a tag"):
        task_versions("seeing", None)
    with pytest.raises(SettingError, match=r"include_path .* is no directory"):
        capability(model, CapabilityUse(tasks=("colors",), include_path="nowhere"), base_dir=tmp_path)
    with pytest.raises(SettingError, match="capability: unknown key 'task'"):
        CapabilityUse.make({"task": ["colors"]}, where="capability")


def test_a_task_without_a_figure_is_refused():
    with pytest.raises(DataError, match="task 'x' reports no figure"):
        room._figure({"alias": "x", "acc,none": "N/A", "acc_stderr,none": 0.1}, "x")
    assert room._figure({"f1,none": 0.5, "f1_stderr,none": "N/A"}, "x") == ("f1,none", 0.5, None)


def test_numbers_that_are_no_shares_get_a_mean(tmp_path):
    told = {"metric": "bleu,none", "value": 2.0, "stderr": None, "n": 3, "versions": {"x": "1"}}
    (tmp_path / "capability.json").write_text(json.dumps({**told, "values": [1.0, 2.0, 3.0]}))
    metric = metric_from(Artefact("x", "harness", tmp_path))
    assert metric["kind"] == "mean" and metric["mean"] == 2.0 and metric["low"] < 2.0 < metric["high"]
    (tmp_path / "capability.json").write_text(json.dumps({**told, "values": None}))
    assert metric_from(Artefact("x", "harness", tmp_path))["low"] is None


def test_without_the_extra_one_sentence_says_what_to_install(monkeypatch, model, tmp_path):
    real = builtins.__import__

    def missing(name, *args, **kwargs):
        if name.startswith("lm_eval"):
            raise ImportError(name)
        return real(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", missing)
    monkeypatch.setattr(room, "_INDEXES", {})
    with using_store(Store(tmp_path / "store")), pytest.raises(SettingError, match=r"pip install 'equipoise\[eval\]'"):
        capability(model, CapabilityUse(tasks=("colors",)))


@pytest.mark.slow
def test_a_task_of_ones_own_runs_in_the_harness(model, tmp_path):
    pytest.importorskip("lm_eval", reason="the extra is not installed: pip install 'equipoise[eval]'")
    rows = [{"question": f"{w} is", "choices": [" red", " blue"], "answer": i % 2} for i, w in enumerate(small.WORDS)]
    (tmp_path / "tasks").mkdir()
    data = small.jsonl(tmp_path / "tasks" / "colors.jsonl", rows)
    (tmp_path / "tasks" / "colors.yaml").write_text(TASK.format(rows=data))
    use = CapabilityUse(tasks=("tiny_colors",), include_path="tasks", limit=10)
    with using_store(Store(tmp_path / "store")):
        metric = capability(model, use, base_dir=tmp_path)["capability/tiny_colors"]
        assert (metric["n"], metric["kind"], metric["version"]) == (10, "rate", "1.5")
        assert metric["mean"] * 10 == round(metric["mean"] * 10) and metric["low"] <= metric["mean"] <= metric["high"]
        assert capability(model, use, base_dir=tmp_path)["capability/tiny_colors"] == metric
        first = tasks_of(model, use, base_dir=tmp_path)
        small.jsonl(data, rows[:12])
        assert tasks_of(model, use, base_dir=tmp_path) != first, "other questions, another address"
