"""The comparison of all methods in the playground: budgets, choice on select, seeds, label noise, what it leaves."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from equipoise import bench, demo, grid, grid_page, grid_run
from equipoise.errors import DataError, SettingError
from equipoise.evaluate.results import read_results
from equipoise.grid import BASELINES, FEW_SEEDS, SETTINGS, label
from equipoise.grid_cell import SHARED, Cell, run_cell
from equipoise.grid_run import GridConfig, Wanted, choices, comparison, job_of
from equipoise.jobs import Line
from equipoise.spent import spent_on
from equipoise.store import Store, using_store

KINDS = ("harmful", "borderline", "benign")


def test_every_method_has_the_same_budget():
    counts = {name: len(settings) for name, settings in SETTINGS.items()}
    one_setting = {"base", "dpo_helpful", "dpo_safe"}
    assert {counts[name] for name in one_setting} == {1}
    assert {counts[name] for name in FEW_SEEDS} == {4}
    assert {n for name, n in counts.items() if name not in one_setting | set(FEW_SEEDS)} == {8}
    assert all(
        len({json.dumps(dict(s), sort_keys=True) for s in settings}) == counts[name]
        for name, settings in SETTINGS.items()
    )
    assert set(SETTINGS) == set(grid.TITLES) and set(BASELINES) < set(SETTINGS)


def test_labels_say_the_setting():
    assert label("sacpo", {"beta/lambda": 0.125}) == "SACPO β/λ 0.125"
    assert label("bfpo", {"tau": 0.5, "layers": "all"}) == "BFPO τ 0.5 layers all"
    assert label("cpo", {}) == "CPO, asked for nothing"
    assert label("dpo_safe", {"beta": 0.5}) == "DPO safe"


def test_mistakes_are_named():
    with pytest.raises(SettingError, match="did you mean 'sacpo'"):
        GridConfig.make({"methods": ["sacop"]}, where="config")
    with pytest.raises(SettingError, match="between 0 and 1"):
        GridConfig.make({"flipped": [1.5]}, where="config")
    with pytest.raises(SettingError, match="at least one besides the base"):
        GridConfig.make({"methods": ["base"]}, where="config")
    with pytest.raises(SettingError, match="target is about harmful prompts"):
        GridConfig.make({"target": {"unsafe_rate": 0.1, "prompts": "borderline"}}, where="config")
    assert GridConfig.make({"methods": ["bfpo"]}, where="config").methods == ("base", "bfpo")


def metric(value: float, kind: str = "mean", **more: Any) -> dict[str, Any]:
    ends = {"low": max(0.0, value - 0.05), "high": min(1.0, value + 0.05)}
    fields = {"n": 2000, "n_prompts": 2000, "n_effective": 2000.0, "kind": kind, "level": 0.95, "unscored": 0}
    return {"mean": value, **ends, **fields, **more}


def figures(cell: Wanted, unsafe: float, reward: float) -> list[dict[str, Any]]:
    """Both results of a cell, as workers return them."""
    about = {
        "method": cell.method, "label": label(cell.method, cell.setting), "setting": dict(cell.setting),
        "seed": cell.seed, "model": f"train-{cell.seed}", "suite": "playground", "template": "playground",
        "system_prompt": None, "sampling": {}, "judge": "truth", "world": "1", "wall_s": 1.0, "train_tokens": 10,
        "devices": 1,
    }  # fmt: skip
    metrics = {
        "unsafe_rate": metric(unsafe, "rate"), "over_refusal": metric(0.1, "rate"), "reward": metric(reward),
        "kl": metric(0.5), "volume": metric((1 - unsafe) * reward, low=None, high=None),
        "train_seconds": metric(60.0, low=None, high=None),
    }  # fmt: skip
    return [
        {**about, "split": "select", "prompts": {"n": 10, "digest": "a"}, "metrics": metrics},
        {**about, "split": "verdict", "prompts": {"n": 20, "digest": "b"}, "metrics": metrics},
    ]


UNSAFE = {0.5: 0.3, 0.35: 0.2, 0.25: 0.04, 0.18: 0.03, 0.125: 0.02, 0.09: 0.01, 0.0625: 0.01, 0.03: 0.0}


def done_for(config: GridConfig, cells: list[Wanted], *, fails: Mapping[str, str] = {}) -> dict[str, Line]:
    lines = {}
    for cell in cells:
        job = job_of(config, cell)
        if cell.method in fails:
            lines[job.key] = Line(job, "failed", note=fails[cell.method])
            continue
        unsafe = UNSAFE[cell.setting["beta/lambda"]] if cell.method == "sacpo" else 0.5
        reward = 0.3 + unsafe - 0.1 * cell.flipped + 0.01 * cell.seed
        lines[job.key] = Line(job, "done", result=figures(cell, unsafe, reward))
    return lines


@pytest.fixture
def config(tmp_path: Path) -> GridConfig:
    given = {"methods": ["sacpo", "bfpo"], "seeds": 3, "flipped": [0.1], "output_dir": str(tmp_path / "out")}
    return GridConfig.make(given, where="config")


def everything(config: GridConfig, **fails: str) -> tuple[dict[str, Line], dict[str, Any]]:
    first = [Wanted(name, one) for name in config.methods for one in SETTINGS[name]]
    done = done_for(config, first, fails=fails)
    chosen = choices(config, done)
    more = [Wanted(name, setting, seed) for name, (setting, _) in chosen.items() for seed in (1, 2)]
    more += [Wanted(name, setting, 0, 0.1) for name, (setting, _) in chosen.items() if name != "base"]
    done |= done_for(config, more)
    return done, comparison(config, done, chosen)


def test_the_most_helpful_safe_setting_is_chosen_on_select(config):
    done = done_for(config, [Wanted(name, one) for name in config.methods for one in SETTINGS[name]])
    chosen = choices(config, done)
    assert chosen["sacpo"][0] == {"beta/lambda": 0.25}  # 4 % unsafe; .35 is more helpful and unsafe in 20 %
    assert chosen["base"][0] == {}


def test_a_method_that_failed_is_named_and_left_out(config):
    _, found = everything(config, bfpo="no multiplier reaches it")
    assert set(found["methods"]) == {"base", "sacpo"}
    assert len(found["failed"]) == 8
    assert found["failed"][0]["why"] == "no multiplier reaches it"


def test_nothing_to_compare_is_refused(config):
    done = done_for(
        config, [Wanted(n, s) for n in config.methods for s in SETTINGS[n]], fails={"sacpo": "x", "bfpo": "y"}
    )
    with pytest.raises(DataError, match="nothing to compare"):
        choices(config, done)


def test_the_comparison_holds_settings_seeds_and_noise(config):
    _, found = everything(config)
    sacpo = found["methods"]["sacpo"]
    assert len(sacpo["settings"]) == 8
    assert [pair[1]["seed"] for pair in sacpo["seeds"]] == [0, 1, 2]
    assert list(sacpo["flipped"]) == ["0.1"]
    assert found["methods"]["base"]["flipped"] == {}
    reward = grid_page.over(sacpo, "reward")
    assert reward is not None
    assert reward["by_seed"] == pytest.approx([0.34, 0.35, 0.36])
    cost = grid_page.over(sacpo, "train_seconds")
    assert cost is not None and cost["low"] == pytest.approx(cost["high"])  # the same seconds with every seed
    # .7 at reward .6 adds .7 x .1 to .8 x .5, and so on down to the safest.
    assert 0.3 < grid_page.settings_volume(sacpo) < 0.6


def test_what_it_leaves(config, monkeypatch):
    _, found = everything(config)
    points = [{"unsafe_rate": r, "reward": 0.5 + r / 2, "reward_low": None, "reward_high": None, "kl": 0.5, "ess": 50.0,
               "largest_weight": 0.1, "thin": False} for r in (0.0, 0.5, 1.0)]  # fmt: skip
    optimum = {"kl": 0.5, "pool": {"policies": ["base"], "prompts": 1, "answers": 2}, "points": points}
    monkeypatch.setattr(grid_page, "optimum_of", lambda config, reach: optimum)
    monkeypatch.setattr(grid_page, "samples_of", lambda config, results: [])
    said: list[Any] = []
    page = grid_page.write_grid(config, found, say=said.append)
    document = read_results(config.output_dir / "results.json")
    verdict = [one for one in document["results"] if one["split"] == "verdict"]
    assert len(verdict) == 1 + 8 + 8
    (chosen,) = [one for one in verdict if one.get("chosen")]
    assert chosen["label"] == "SACPO β/λ 0.25" and chosen["seeds"] == [0, 1, 2]
    assert json.loads((config.output_dir / "comparison.json").read_text())["schema"] == 1
    assert page.is_file() and "SACPO" in page.read_text()
    assert any(isinstance(one, str) and one.startswith(("MET", "NOT MET", "UNDECIDED")) for one in said)


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A playground so small that a cell takes seconds."""
    with pytest.MonkeyPatch.context() as patch, using_store(Store(tmp_path_factory.mktemp("cells") / "store")) as store:
        patch.setattr(bench, "ASKED", dict.fromkeys(KINDS, 16))
        patch.setattr(demo, "POOL_PROMPTS", 3)
        patch.setattr(demo, "POOL_ANSWERS", 8)
        patch.setattr(demo, "PROMPTS", {"select": 6, "verdict": 10})
        yield store


@pytest.mark.usefixtures("one_thread", "tiny")
@pytest.mark.parametrize("method", ["base", "p_sacpo", "bfpo", "safedpo"])
def test_a_cell_is_trained_and_measured(method):
    select, verdict = run_cell(Cell(method=method, setting=dict(SETTINGS[method][0])))
    assert (select["split"], verdict["split"]) == ("select", "verdict")
    assert verdict["prompts"]["n"] == 30
    assert ("gap" in verdict["metrics"]) is (method in ("p_sacpo", "bfpo"))
    assert "gap" not in select["metrics"]
    assert verdict["metrics"]["shortfall"]["mean"] is not None
    unsafe, reward = (verdict["metrics"][name]["mean"] for name in ("unsafe_rate", "reward"))
    assert verdict["metrics"]["volume"]["mean"] == pytest.approx((1 - unsafe) * max(reward, 0))


@pytest.mark.usefixtures("one_thread", "tiny")
def test_labels_turned_round_make_another_model():
    setting = dict(SETTINGS["safedpo"][0])
    plain, turned = (run_cell(Cell(method="safedpo", setting=setting, flipped=f))[1] for f in (0.0, 0.5))
    assert plain["model"] != turned["model"]
    assert turned["flipped"] == 0.5


@pytest.mark.usefixtures("one_thread")
def test_what_a_model_took_is_counted_from_the_labels_on(tiny):
    base = bench.world_base(bench.WORLD)
    made = grid.candidate(bench.bench(base, bench.WORLD, 0), "dpo_helpful", {"beta": 0.5}).model
    assert spent_on(base, without=SHARED) == (0, 0)
    stages = {p.parent.name.rsplit("-", 1)[0] for p in tiny.root.glob("*/manifest.json")}
    assert {"playground_preferences", "train"} <= stages
    took = spent_on(made, without=SHARED)
    assert spent_on(made, without={base.id}).seconds >= took.seconds
    assert spent_on(made, without={made.id}) == (0, 0)
    assert 0 < took.seconds < 120 and took.tokens > 0


def test_jobs_are_told_apart_by_what_they_train():
    config = GridConfig.make({}, where="config")
    one, other = (job_of(config, Wanted("sacpo", {"beta/lambda": 0.5}, seed)) for seed in (0, 1))
    assert one.key != other.key
    assert (
        one.key
        == job_of(grid_run.GridConfig.make({"processes": 4}, where="config"), Wanted("sacpo", {"beta/lambda": 0.5})).key
    )
