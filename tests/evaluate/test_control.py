"""Requested against achieved: by hand, and what nobody asked for."""

from __future__ import annotations

import pytest

from equipoise.data.conditions import Objective
from equipoise.errors import DataError, SettingError
from equipoise.evaluate.control import controllability

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
