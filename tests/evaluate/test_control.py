"""Requested against achieved: by hand, and what nobody asked for."""

from __future__ import annotations

import pytest

from equipoise.data.conditions import Objective
from equipoise.errors import DataError, SettingError
from equipoise.evaluate.control import control_section, controllability, join_sections

TWO = (Objective(name="tone", low=1, high=3), Objective(name="depth", low=1, high=5))


def row(prompt: int, condition: dict[str, float], **achieved: float | None) -> dict:
    return {"prompt_id": str(prompt), "condition": condition, "achieved": achieved}


ROWS = [
    *(row(p, {"tone": level}, tone=min(3, level + (p == 0)), depth=3) for p in range(6) for level in (1, 2, 3)),
    *(row(p, {}, tone=2, depth=p % 2 + 3) for p in range(6)),
    *(row(p, {"depth": 5, "tone": 3}, tone=None, depth=5) for p in range(6)),
]


def test_by_hand() -> None:
    found = controllability(ROWS, TWO)
    tone, depth = found["tone"], found["depth"]
    assert {level: e.mean for level, e in tone.achieved.items()} == {
        1: pytest.approx(7 / 6),
        2: pytest.approx(13 / 6),
        3: 3.0,
    }
    assert tone.error is not None and tone.error.mean == pytest.approx(2 / 18) and tone.error.n_prompts == 6
    assert tone.correlation is not None and 0.85 < tone.correlation.mean < 1 and tone.correlation.n == 18
    assert tone.unasked is None and tone.plain is not None and tone.plain.mean == 2
    assert (tone.unscored, depth.unscored) == (6, 0)
    assert depth.correlation is None  # one level alone was asked for
    assert depth.unasked is not None and depth.unasked.mean == 3 and depth.unasked.n == 18
    assert depth.plain is not None and depth.plain.mean == 3.5


def test_a_model_that_does_not_listen() -> None:
    rows = [row(p, {"tone": level}, tone=p % 3 + 1) for p in range(30) for level in (1, 2, 3)]
    found = controllability(rows, TWO)["tone"].correlation
    assert found is not None and found.mean == pytest.approx(0, abs=1e-12)
    assert found.low is not None and found.high is not None and found.low <= 0 <= found.high


def test_what_is_refused() -> None:
    with pytest.raises(DataError, match="needs answers"):
        controllability([], TWO)
    with pytest.raises(SettingError, match="did you mean 'tone'"):
        controllability([row(0, {"tones": 1}, tone=1)], TWO)


def test_what_became_of_the_others() -> None:
    tone = controllability(ROWS, TWO)["tone"]
    assert {level: {name: e.mean for name, e in found.items()} for level, found in tone.others.items()} == {
        1: {"depth": 3},
        2: {"depth": 3},
        3: {"depth": 3},
    }
    # Depth was only asked for together with tone, which says nothing about tone.
    assert controllability(ROWS, TWO)["depth"].others == {}


def test_the_section_holds_the_figures_with_what_was_not_rated() -> None:
    section = control_section({"CPO": ROWS}, TWO, ids={"CPO": "train-1"})
    assert section["objectives"][0] == {"name": "tone", "low": 1, "high": 3, "step": 1}
    (model,) = section["models"]
    assert (model["label"], model["model"], list(model["others"])) == ("CPO", "train-1", ["tone"])
    tone = model["objectives"]["tone"]
    assert list(tone["achieved"]) == ["1", "2", "3"] and list(model["others"]["tone"]) == ["1", "2", "3"]
    assert tone["achieved"]["1"]["mean"] == pytest.approx(7 / 6)
    assert (tone["achieved"]["3"]["n"], tone["achieved"]["3"]["unscored"], tone["unscored"]) == (6, 6, 6)
    assert tone["correlation"]["kind"] == "correlation" and tone["unasked"] is None
    assert model["objectives"]["depth"]["correlation"] is None
    assert model["others"]["tone"]["2"]["depth"]["mean"] == 3
    assert control_section({"CPO": ROWS}, TWO)["models"][0]["model"] is None


def listens(seed: int, *, shift: float = 0.0) -> list[dict]:
    rows = [row(p, {"tone": level}, tone=level + shift + 0.1 * (p % 2), depth=3) for p in range(8) for level in (1, 3)]
    return [{**one, "seed": seed} for one in rows]


def test_several_seeds_are_joined_as_results_are() -> None:
    section = control_section({"CPO": [*listens(0), *listens(1, shift=0.2), *listens(2, shift=0.4)]}, TWO)
    (model,) = section["models"]
    found = model["objectives"]["tone"]["achieved"]["1"]
    assert found["by_seed"] == pytest.approx([1.05, 1.25, 1.45]) and found["mean"] == pytest.approx(1.25)
    one = control_section({"CPO": listens(0)}, TWO)["models"][0]["objectives"]["tone"]["achieved"]["1"]
    own = one["high"] - one["mean"]
    # Student's 97.5 % point with two degrees of freedom is 4.302653; the spread of the seeds is 0.2.
    assert found["high"] - found["mean"] == pytest.approx((own**2 + (4.302653 * 0.2 / 3**0.5) ** 2) ** 0.5, abs=1e-6)
    assert (found["n"], found["n_prompts"]) == (24, 8), "prompts are the same for every seed"
    assert model["others"]["tone"]["3"]["depth"]["by_seed"] == [3, 3, 3]
    assert model["objectives"]["depth"]["correlation"] is None


def test_sections_written_apart_are_joined_too() -> None:
    parts = [control_section({"CPO": listens(s, shift=0.1 * s)}, TWO, ids={"CPO": f"train-{s}"}) for s in range(2)]
    together = control_section({"CPO": [*listens(0), *listens(1, shift=0.1)]}, TWO)
    (model,) = together["models"]
    named = {**model, "model": "train-0", "models": ["train-0", "train-1"]}
    assert join_sections(parts) == {**together, "models": [named]}
    assert join_sections(parts[:1]) == parts[0]


def test_a_correlation_that_one_seed_does_not_have_is_left_open() -> None:
    flat = [{**one, "achieved": {"tone": 2, "depth": 3}} for one in listens(1)]
    (model,) = control_section({"CPO": [*listens(0), *flat]}, TWO)["models"]
    tone = model["objectives"]["tone"]
    assert tone["correlation"]["mean"] is None and tone["correlation"]["by_seed"][1] is None
    assert tone["error"]["mean"] == pytest.approx((0.05 + 1) / 2)


def test_a_joined_correlation_stays_a_correlation() -> None:
    noisy = [{**one, "achieved": {"tone": 4 - one["condition"]["tone"] % 4, "depth": 3}} for one in listens(1)]
    (model,) = control_section({"CPO": [*listens(0), *noisy]}, TWO)["models"]
    found = model["objectives"]["tone"]["correlation"]
    assert -1 <= found["low"] < found["mean"] < found["high"] <= 1


def test_sections_that_do_not_match_are_refused() -> None:
    with pytest.raises(DataError, match="expected one set of seeds"):
        control_section({"CPO": listens(0), "base": listens(1)}, TWO)
    with pytest.raises(DataError, match=r"got \['CPO'\] and \['base'\]"):
        join_sections([control_section({"CPO": listens(0)}, TWO), control_section({"base": listens(1)}, TWO)])
    with pytest.raises(DataError, match="no sections"):
        join_sections([])
    with pytest.raises(DataError, match="at least one model"):
        control_section({}, TWO)
