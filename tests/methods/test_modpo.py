"""MODPO and SafeDPO through the real stages: where the margin comes from, which answers change places."""

import json
import math

import numpy as np
import pytest
import torch

import pico
import small
from equipoise.data.plan import Plan
from equipoise.data.tokens import TokenTable
from equipoise.errors import SettingError
from equipoise.methods.align import Step, align, logps, prepared, use
from equipoise.methods.modpo import modpo
from equipoise.methods.run import Run
from equipoise.store import DryStore, manifest, using_store
from small import trained_on, weights

LN2 = math.log(2)


pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    folder = tmp_path_factory.mktemp("modpo")
    pico.directory(folder / "base")
    small.jsonl(folder / "pku.jsonl", small.pku_rows(24))
    return folder


def steps(world, beta=0.2):
    margin = small.step(world / "pku.jsonl", "safer", beta=0.1)
    return margin, small.step(world / "pku.jsonl", "better", "modpo", beta=beta)


# ---- MODPO -----------------------------------------------------------------------------------------------------------


def test_every_weight_starts_from_the_base_and_shares_the_margin(world, base):
    margin, step = steps(world)
    made = modpo(base, margin, step, weights=(0.3, 0.9))
    data = prepared(base, step)
    assert made.margin.id == align(base, margin).id
    inputs = [trained_on(model) for model in made.weighted.values()]
    assert [i["model"] for i in inputs] == [base.id] * 2 and [i["data"] for i in inputs] == [data.id] * 2
    assert {i["reference"] for i in inputs} == {logps(base, data, step).id}
    (columns,) = {i["columns"] for i in inputs}
    spec = json.loads((world / "store" / columns / "spec.json").read_text())
    assert spec["inputs"] == {"policy": logps(made.margin, data, step).id, "reference": logps(base, data, step).id}
    assert spec["config"] == {"name": "margin", "beta": 0.1}, "the beta that the margin's model was trained with"


def test_the_first_loss_holds_the_margins(world, base):
    margin, step = steps(world)
    made = modpo(base, margin, step, weights=(0.3,))
    data = prepared(base, step)
    ratio = np.load(logps(made.margin, data, step).path / "logps.npy") - np.load(
        logps(base, data, step).path / "logps.npy"
    )
    batch = Plan(TokenTable(data.path).lengths, 0, 8, 3, 8192, max_steps=3).batch(0)
    lead = 0.1 * (ratio[:, 0] - ratio[:, 1])[batch]
    expected = np.log1p(np.exp(0.7 * lead / 0.3)).mean()
    assert expected != pytest.approx(LN2, abs=0.01), "the margins matter"
    assert small.metrics(made.weighted[0.3].path)[0]["loss"] == pytest.approx(expected, abs=1e-4)


def test_all_the_weight_is_dpo(world, base):
    margin, step = steps(world, beta=0.1)
    made = modpo(base, margin, step, weights=(1.0,)).weighted[1.0]
    plain = align(base, small.step(world / "pku.jsonl", "better", beta=0.1))
    one, other = weights(made), weights(plain)
    assert all(torch.allclose(one[name], other[name], atol=1e-6) for name in one)


def test_a_config_sweeps_the_weights_on_one_line(world, tmp_path):
    data = {"helpful": str(world / "pku.jsonl"), "safe": str(world / "pku.jsonl")}
    given = {"method": "modpo", "model_name_or_path": str(world / "base"), "data": data, "second": {"beta": 0.2}}
    run = Run.read({**given, "weights": [0.1, 0.5, 0.9]}, base_dir=world)
    run.check_data()
    assert [(s.prefer, s.objective.objective) for s in run.steps] == [("safer", "dpo"), ("better", "modpo")]
    with using_store(DryStore(tmp_path)) as store:
        made = run.execute()
    assert [one.label for one in made] == ["margin: dpo(safe, 0.1)", "MODPO 0.1", "MODPO 0.5", "MODPO 0.9"]
    assert [one.line for one in made] == [None, "MODPO", "MODPO", "MODPO"]
    assert [one.setting.get("weight") for one in made[1:]] == [0.1, 0.5, 0.9]
    names = [stage for stage, _, _ in store.planned]
    assert names.count("train") == 4 and names.count("implicit_rewards") == 1 and names.count("reference") == 3


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"weights": [0.5, 0.0]}, "weight must be larger than 0 and at most 1"),
        ({"second": {"weight": 0.5}}, "second: list the weights under weights"),
        ({"first": {"objective": "kto"}}, "first: this step of modpo is dpo, got objective: kto"),
        ({"order": ["safe", "helpfull"]}, "second: data 'helpfull' .*did you mean 'helpful'"),
        ({"method": "sacpo", "weights": None}, "unknown key 'weights'"),
        ({"method": "sacpo", "second": {"objective": "modpo"}}, "use method: modpo, got sacpo"),
    ],
)
def test_settings_that_cannot_be_meant_are_refused(world, changes, sentence):
    data = {"helpful": str(world / "pku.jsonl"), "safe": str(world / "pku.jsonl")}
    given = {"method": "modpo", "model_name_or_path": str(world / "base"), "data": data} | changes
    with pytest.raises(SettingError, match=sentence):
        Run.read(given, base_dir=world)


def test_weights_without_a_margin_are_refused(world, base):
    margin, step = steps(world)
    with pytest.raises(SettingError, match="at least one weight"):
        modpo(base, margin, step, weights=())
    with pytest.raises(SettingError, match="the margin comes from dpo"):
        modpo(base, step, margin, weights=(0.5,))
    with pytest.raises(SettingError, match="modpo needs the margins of another model"):
        align(base, step)


# ---- SafeDPO ---------------------------------------------------------------------------------------------------------


def safedpo_step(world, **settings):
    data = small.data(world / "pku.jsonl", "pairs")
    return Step(data, use("safedpo", **settings), small.training(), prefer="better_if_safe")


def test_safedpo_prefers_the_better_answer_only_where_it_is_safe(world, base):
    data = prepared(base, safedpo_step(world))
    source = {row["prompt"]: row for row in map(json.loads, (world / "pku.jsonl").read_text().splitlines())}
    rows = [json.loads(line) for line in (data.path / "rows.jsonl").read_text().splitlines()]
    swapped = 0
    for row in rows:
        told = source[row["prompt"][0]["content"]]
        chosen = [told["response_0"], told["response_1"]].index(row["chosen"][-1]["content"])
        assert told[f"is_response_{chosen}_safe"] and row["chosen_safe"]
        swapped += chosen != told["better_response_id"]
        assert chosen == told["better_response_id"] or not row["rejected_safe"]
    unsafe = sum(not (r["is_response_0_safe"] or r["is_response_1_safe"]) for r in source.values())
    assert unsafe and swapped and len(rows) == 24 - unsafe
    assert manifest(data)["summary"]["dropped"] == {"both answers unsafe": unsafe}


def test_safedpo_starts_where_it_should(world, base):
    step = safedpo_step(world, beta=0.1, delta=2.0)
    made, data = align(base, step), prepared(base, step)
    with np.load(data.path / "columns.npz") as columns:
        rejected_safe = columns["rejected_safe"]
    rows = Plan(TokenTable(data.path).lengths, 0, 8, 3, 8192, max_steps=3).batch(0)
    expected = np.where(rejected_safe[rows], LN2, math.log(1 + math.exp(2))).mean()
    assert small.metrics(made.path)[0]["loss"] == pytest.approx(expected, abs=1e-4)


def test_safedpo_as_a_config(world, tmp_path):
    given = {"method": "safedpo", "model_name_or_path": str(world / "base"), "data": {"pairs": "pku.jsonl"}}
    run = Run.read({**given, "delta": 5, "holdout": 0.25}, base_dir=world)
    run.check_data()
    (step,) = run.steps
    assert step.objective.settings == {"beta": 0.1, "delta": 5} and step.prefer == "better_if_safe"
    with using_store(DryStore(tmp_path)):
        assert [one.label for one in run.execute()] == ["safedpo(pairs, 0.1)"]
