"""The demo in miniature: every arm, the pool, the gaps, the curve and the page, through real stages."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from equipoise import arms, bench, constitutional, demo, dualized, lagrangian
from equipoise.errors import SettingError
from equipoise.evaluate.frontier import above_the_curve
from equipoise.evaluate.results import read_results
from equipoise.jobs import Job, Place
from equipoise.methods.safe_rlhf import Start
from equipoise.store import Store, using_store

KINDS = ("harmful", "borderline", "benign")


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("demo")
    with pytest.MonkeyPatch.context() as patch, using_store(Store(root / "store")):
        patch.setattr(bench, "ASKED", dict.fromkeys(KINDS, 16))
        patch.setattr(bench, "NO_READER", bench.NO_READER._replace(cpsft={"num_train_epochs": 1}))
        patch.setattr(arms, "TARGETS", (0.9,))
        patch.setattr(arms, "WEIGHTS", (0.5,))
        few = {"max_steps": 2, "rollout_batch_size": 32, "global_batch_size": 16}
        patch.setattr(arms, "PPO", lagrangian.PPO.but(**few))
        patch.setattr(lagrangian, "ASKED", dict.fromkeys(KINDS, 16))
        patch.setattr(lagrangian, "START", Start(prompts=6, answers=4, given=1.0))
        patch.setattr(demo, "POOL_PROMPTS", 3)
        patch.setattr(demo, "PROMPTS", {"select": 6, "verdict": 10})
        patch.setattr(demo, "CONTROL_PROMPTS", 2)
        patch.setattr(demo, "CHOICE_PROMPTS", 5)
        patch.setattr(arms, "QUICK_RED_TEAM", 20)
        patch.setattr(constitutional, "HARMLESS", {"borderline": 12, "benign": 12})
        patch.setattr(arms, "BETA_OVER_LAMBDA", (0.5, 0.25))
        patch.setattr(arms, "MIX", (0.5,))
        patch.setattr(arms, "PECAN_MARGINS", (0.01,))
        patch.setattr(dualized, "SOFT", {"num_train_epochs": 1})
        patch.setattr(dualized, "ANSWERS", 8)
        patch.setattr(dualized, "PROMPTS", 4)
        patch.setattr(dualized, "ROUNDS", 2)
        patch.setattr(demo, "MANY", 99)  # worker processes would not see these
        said: list[Any] = []
        demo.run_demo(root / "out", say=said.append, seeds=2, methods=tuple(arms.ARMS))
    assert next(text for text in said if isinstance(text, str)).startswith(("MET", "NOT MET", "UNDECIDED"))
    return root / "out"


def test_results_hold_every_arm_over_both_seeds(small: Path) -> None:
    document = read_results(small / "results.json")
    verdict = [result for result in document["results"] if result["split"] == "verdict"]
    assert [result["label"] for result in verdict] == [
        "base", "DPO helpful", "DPO safe", "SACPO β/λ 0.5", "SACPO β/λ 0.25", "P-SACPO q 0.5", "naive merge 0.5",
        "SFT safer", "DPO mixture", "BFPO", "BFPO, all layers", "CPO asked for the top", "CPO unasked",
        "MODPO w 0.5", "SafeDPO", "MoCAN 90%", "PeCAN margin 0.01",
        "C-DPO 5%", "Safe RLHF", "IterAlign",
    ]  # fmt: skip
    for result in verdict:
        assert result["seeds"] == [0, 1]
        assert result["prompts"]["n"] == 30
        assert len(result["metrics"]["reward"]["by_seed"]) == 2
        with_optimum = ("dpo", "sacpo", "p-sacpo", "naive-merge", "modpo", "mocan", "pecan", "cdpo", "safe_rlhf")
        aimed = result["method"] in with_optimum and "mixture" not in result["label"]
        assert ("gap" in result["metrics"]) is aimed
        assert result["metrics"]["choice_helpful"]["n_prompts"] > 0
    assert sum(bool(result.get("chosen")) for result in verdict) == 1
    select = [result for result in document["results"] if result["split"] == "select"]
    assert len(select) == 20 and not any("gap" in result["metrics"] for result in select)


def test_the_optimum_stands_beside_them(small: Path) -> None:
    optimum = json.loads((small / "results.json").read_text())["optimum"]
    assert optimum["pool"] == {
        "policies": ["base", "DPO helpful", "SACPO β/λ 0.5", "SACPO β/λ 0.25"], "prompts": 9, "answers": 9 * 4 * 16,
    }  # fmt: skip
    verdict = [result for result in read_results(small / "results.json")["results"] if result["split"] == "verdict"]
    assert [above for above in above_the_curve(verdict, optimum) if not above.thin] == []
    rewards = [point["reward"] for point in optimum["points"]]
    assert rewards == sorted(rewards) and rewards[-1] > rewards[0]
    page = (small / "index.html").read_text(encoding="utf-8")
    assert "optimum" in page.lower() and "equipoise demo --full" in page


def test_what_was_asked_of_the_controllable_model_stands_beside_them_too(small: Path) -> None:
    section = read_results(small / "results.json")["controllability"]
    assert [o["name"] for o in section["objectives"]] == ["helpfulness", "honesty", "harmlessness"]
    (model,) = section["models"]
    found = model["objectives"]["helpfulness"]
    assert list(found["achieved"]) == ["1", "2", "3", "4", "5"]
    assert len(found["correlation"]["by_seed"]) == 2
    assert "Controllability" in (small / "index.html").read_text(encoding="utf-8")


def test_no_seed_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SettingError, match="seeds must be at least 1"):
        demo.run_demo(tmp_path, say=lambda text: None, seeds=0)


def test_many_methods_are_trained_side_by_side_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[Job] = []

    def heard(jobs: list[Job], place: Place, **more: Any) -> list[Any]:
        asked.extend(jobs)
        assert place.store == tmp_path / "store" and place.threads == 1
        return []

    monkeypatch.setattr(demo, "run_jobs", heard)
    counts = {"verdict": dict.fromkeys(KINDS, 5)}
    with using_store(Store(tmp_path / "store")):
        demo.train_side_by_side(tmp_path, bench.WORLD, ("sacpo", "safe_rlhf", "bfpo"), seeds=2, counts=counts)
    assert [job.payload["method"] for job in asked] == ["", "safe_rlhf", "sacpo", "bfpo"] * 2
    assert [job.payload["seed"] for job in asked] == [0] * 4 + [1] * 4
    assert not any(job.kept for job in asked)


def test_all_names_every_method() -> None:
    assert arms.named_methods(["all"]) == list(arms.ARMS)
    assert arms.named_methods(["bfpo"]) == ["bfpo"]
    assert set(demo.TITLES) == set(arms.ARMS)
