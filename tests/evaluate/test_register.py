"""Claims decided on a comparison, by hand."""

from __future__ import annotations

import copy
import math
from pathlib import Path
from typing import Any

import pytest
import yaml

from equipoise.errors import DataError
from equipoise.evaluate.register import Claim, decided, read_register
from equipoise.grid import SETTINGS

ROOT = Path(__file__).resolve().parents[2]


def pair(method: str, seed: int, setting: dict[str, Any] | None = None, **metrics: float) -> list[dict[str, Any]]:
    """A result on select, which no claim may look at, and one on verdict."""
    about = {"method": method, "seed": seed, "setting": setting or {}}
    select = {name: {"mean": 99.0} for name in metrics}
    verdict = {name: {"mean": value} for name, value in metrics.items()}
    return [{**about, "split": "select", "metrics": select}, {**about, "split": "verdict", "metrics": verdict}]


def found(**by_method: list[float]) -> dict[str, Any]:
    """A comparison in which methods have these rewards, seed by seed."""
    return {
        "methods": {
            name: {"seeds": [pair(name, seed, reward=value) for seed, value in enumerate(values)], "settings": []}
            for name, values in by_method.items()
        }
    }


def claim(
    name: str = "one", *, statistic: dict[str, str], above: bool = True, at: float = 0.0, test: str = "student"
) -> Claim:
    return Claim(name, "a paper", "something", "a figure", statistic, test, above, at, ("small",))  # type: ignore[arg-type]


DIFFERENCE = {"difference": "reward", "of": "ours", "minus": "theirs"}


def test_a_difference_is_paired_by_seed_and_tested_by_student():
    compared = found(ours=[0.5, 0.6, 0.7], theirs=[0.4, 0.5, 0.4])
    (one,) = decided([claim(statistic=DIFFERENCE)], compared, world="small")
    # Differences .1, .1, .3: mean 1/6, standard error .2 / sqrt(3) / sqrt(3) = .0667, t = 2.5 with 2 degrees.
    assert one.value == pytest.approx(1 / 6)
    assert one.seeds == pytest.approx((0.1, 0.1, 0.3))
    t = 2.5
    assert one.p == pytest.approx(0.5 * (1 - t / math.sqrt(2 + t * t)))
    assert one.low == pytest.approx(1 / 6 - 4.30265 * 0.2 / 3, abs=1e-4)
    assert one.ruling == "not shown"


def test_holm_counts_every_claim_that_was_tested():
    compared = found(ours=[0.50, 0.60, 0.71], theirs=[0.40, 0.50, 0.60])
    (alone,) = decided([claim(statistic=DIFFERENCE)], compared, world="small")
    assert alone.ruling == "holds"
    many = [claim(f"claim {n}", statistic=DIFFERENCE) for n in range(200)]
    among = decided(many, compared, world="small")
    assert among[0].adjusted == pytest.approx(200 * alone.p)
    assert {one.ruling for one in among} == {"not shown"}


def test_the_wrong_side_does_not_hold():
    compared = found(ours=[0.1, 0.2, 0.3], theirs=[0.4, 0.5, 0.5])
    (one,) = decided([claim(statistic=DIFFERENCE)], compared, world="small")
    assert one.ruling == "does not hold"
    (other,) = decided([claim(statistic=DIFFERENCE, above=False)], compared, world="small")
    assert other.ruling == "holds"


def test_a_threshold_is_what_the_test_is_against():
    compared = found(ours=[0.50, 0.60, 0.71], theirs=[0.40, 0.50, 0.60])
    (one,) = decided([claim(statistic=DIFFERENCE, at=0.2)], compared, world="small")
    assert one.ruling == "does not hold"


def test_ratios_and_levels():
    compared = found(ours=[0.5, 0.6], theirs=[0.25, 0.2])
    ratio, level = decided(
        [
            claim("a", statistic={"ratio": "reward", "of": "ours", "over": "theirs"}, test="exact", at=2),
            claim("b", statistic={"level": "reward", "of": "ours"}, test="exact", at=0.6),
        ],
        compared,
        world="small",
    )
    assert (ratio.value, ratio.ruling, ratio.p) == (pytest.approx(2.5), "holds", None)
    assert (level.value, level.ruling) == (pytest.approx(0.55), "does not hold")


def test_there_is_no_ratio_to_nothing():
    ratio = claim("a", statistic={"ratio": "reward", "of": "ours", "over": "theirs"}, test="exact", at=2)
    (one,) = decided([ratio], found(ours=[0.5, 0.6], theirs=[0.25, 0.0]), world="small")
    assert (one.ruling, one.why) == ("not run", "reward of theirs is 0, so there is no ratio to it")


def test_seeds_that_only_one_side_has_are_left_out():
    compared = found(ours=[0.5, 0.6, 0.7], theirs=[0.4, 0.5, 0.4, 9.0, 9.0])
    (one,) = decided([claim(statistic=DIFFERENCE)], compared, world="small")
    assert len(one.seeds) == 3


def test_orders_and_targets_look_at_all_settings():
    settings = [pair("m", 0, {"target": t}, unsafe_rate=u) for t, u in ((0.1, 0.15), (0.2, 0.2), (0.3, 0.4))]
    compared = {"methods": {"m": {"seeds": [], "settings": settings}}}
    order, off = decided(
        [
            claim("a", statistic={"order": "unsafe_rate", "by": "target", "of": "m"}, test="exact", at=0.8),
            claim(
                "b",
                statistic={"off_target": "unsafe_rate", "by": "target", "of": "m"},
                test="exact",
                above=False,
                at=0.05,
            ),
        ],
        compared,
        world="small",
    )
    assert (order.value, order.ruling) == (pytest.approx(1.0), "holds")
    assert (off.value, off.ruling) == (pytest.approx(0.05), "does not hold")  # (.05 + 0 + .1) / 3, not below .05


def test_what_was_not_run_is_said():
    (one,) = decided([claim(statistic=DIFFERENCE)], found(ours=[0.1, 0.2]), world="small")
    assert (one.ruling, one.why) == ("not run", "theirs was not run")
    lacking = copy.deepcopy(found(ours=[0.1, 0.2]))
    (other,) = decided([claim(statistic={"level": "gap", "of": "ours"})], lacking, world="small")
    assert (other.ruling, other.why) == ("not run", "ours has no gap")


def test_claims_of_other_worlds_are_left_out():
    assert decided([claim(statistic=DIFFERENCE)], found(ours=[0.1], theirs=[0.1]), world="large") == []


def test_the_register_is_read_and_speaks_of_methods_that_are_run():
    claims, level = read_register(ROOT / "docs" / "claims.yaml")
    assert level == 0.95
    assert len(claims) >= 20
    named = {one.statistic[key] for one in claims for key in ("of", "minus", "over") if key in one.statistic}
    assert named <= set(SETTINGS)
    varied = {(one.statistic["of"], one.statistic["by"]) for one in claims if "by" in one.statistic}
    assert all(any(key in setting for setting in SETTINGS[method]) for method, key in varied)


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"paper": None}, "lacks paper"),
        ({"test": "t"}, "has test 't'"),
        ({"statistic": {"mean": "reward", "of": "a"}}, "must be one of level, difference"),
        ({"statistic": {"difference": "reward", "of": "a"}}, "lacks minus"),
        ({"threshold": {"above": 0, "below": 1}}, "either above or below"),
    ],
)
def test_a_claim_that_cannot_be_meant(tmp_path, change, sentence):
    given = {
        "id": "x", "paper": "p", "says": "s", "number": "n", "statistic": dict(DIFFERENCE),
        "test": "exact", "threshold": {"above": 0}, "worlds": ["small"], **change,
    }  # fmt: skip
    if given["paper"] is None:
        del given["paper"]
    path = tmp_path / "claims.yaml"
    path.write_text(yaml.safe_dump({"schema": 1, "claims": [given]}))
    with pytest.raises(DataError, match=sentence):
        read_register(path)


def test_another_schema_and_ids_given_twice_are_refused(tmp_path):
    path = tmp_path / "claims.yaml"
    path.write_text("schema: 2\nclaims: []\n")
    with pytest.raises(DataError, match="schema 2"):
        read_register(path)
    claims = yaml.safe_load((ROOT / "docs" / "claims.yaml").read_text())
    claims["claims"].append(claims["claims"][0])
    path.write_text(yaml.safe_dump(claims))
    with pytest.raises(DataError, match="given to two claims"):
        read_register(path)
