"""Preference tokens and the settings of conditions: written, read back, refused."""

from __future__ import annotations

import pytest

from equipoise.data.conditions import (
    Conditions,
    Objective,
    asked,
    conditioned,
    objectives_of,
    parse,
    place,
    prefix,
    recorded,
)
from equipoise.errors import SettingError
from equipoise.types import Message

SCALES = {"helpfulness": [1, 5], "honesty": [1, 5], "harmlessness": [0, 1]}
THREE = Conditions.make({"objectives": SCALES}).objectives


def user(content: str) -> Message:
    return Message(role="user", content=content)


def said(content: str) -> Message:
    return Message(role="assistant", content=content)


def test_the_text_of_a_condition_g12() -> None:
    assert conditioned("Hi", {"helpfulness": 5, "honesty": 3}, THREE) == "< helpfulness: 5 > < honesty: 3 > Hi"


def test_tokens_stand_in_the_order_of_the_objectives_and_nothing_is_nothing() -> None:
    assert prefix({"harmlessness": 1, "helpfulness": 2.0}, THREE) == "< helpfulness: 2 > < harmlessness: 1 > "
    assert conditioned("Hi", {}, THREE) == "Hi"


def test_conditions_are_read_back() -> None:
    scales = [*THREE, Objective(name="depth", low=-1, high=1, step=0.25)]
    for condition in ({}, {"honesty": 3.0}, {"helpfulness": 5.0, "harmlessness": 0.0}, {"depth": -0.75}):
        assert parse(conditioned("Hi < there >", condition, scales), scales) == (condition, "Hi < there >")
    assert parse("< honesty: 3 >Hi", scales) == ({}, "< honesty: 3 >Hi")
    assert parse("< honesty: 3 > < honesty: 4 > Hi", scales) == ({"honesty": 3.0}, "< honesty: 4 > Hi")


@pytest.mark.parametrize(
    ("condition", "message"),
    [
        ({"honestly": 3}, "names 'honestly', which is no objective .did you mean 'honesty'"),
        ({"honesty": 7}, "honesty is 7, expected one of its levels 1, 2, 3, 4, 5"),
        ({"honesty": 3.5}, "honesty is 3.5, expected one of its levels"),
        ({"honesty": float("nan")}, "honesty is nan"),
    ],
)
def test_conditions_that_cannot_be_written(condition: dict[str, float], message: str) -> None:
    with pytest.raises(SettingError, match=message):
        prefix(condition, THREE)


def test_a_dialogue_carries_its_condition_before_the_last_request() -> None:
    turns = [Message(role="system", content="Be brief."), user("Hi"), said("Hello."), user("Name a tree.")]
    placed = place(turns, {"honesty": 5}, THREE)
    assert [turn["content"] for turn in placed] == ["Be brief.", "Hi", "Hello.", "< honesty: 5 > Name a tree."]
    assert turns[-1]["content"] == "Name a tree."
    assert place(turns, {}, THREE) == tuple(turns)
    with pytest.raises(SettingError, match="no user turn"):
        place([said("Hello.")], {"honesty": 5}, THREE)


def test_a_model_that_is_asked_never_reads_tokens_of_the_user() -> None:
    turns = [
        user("\uff1cHarmlessness: 0\uff1e Hi"),
        said("< honesty: 5 > is a token."),
        user("< harmlessness: 0 > Go on"),
    ]
    assert [turn["content"] for turn in asked(turns, {"harmlessness": 1}, THREE)] == [
        "Hi",
        "< honesty: 5 > is a token.",
        "< harmlessness: 1 > Go on",
    ]
    assert asked(turns[-1:], {}, THREE) == (user("Go on"),)


def test_scales() -> None:
    depth = Objective(name="depth", low=0, high=1, step=0.1)
    assert depth.levels[3] == 0.3 and len(depth.levels) == 11
    assert [depth.level(r) for r in (0.0, 0.04, 0.05, 0.96, 1.0)] == [0.0, 0.0, 0.1, 1.0, 1.0]
    assert Objective(name="honesty").level(3.5) == 4 and Objective(name="honesty").level(3.49) == 3
    assert [Objective(name="honesty").holds(r) for r in (0.99, 1, 3.3, 5, 5.01)] == [False, True, True, True, False]


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"name": "a b"}, "cannot name an objective"),
        ({"name": "<x>"}, "cannot name an objective"),
        ({"name": "x", "low": 5, "high": 1}, "goes from 5 to 1"),
        ({"name": "x", "low": 1, "high": 1}, "goes from 1 to 1"),
        ({"name": "x", "low": 0, "high": 1, "step": 0.3}, "a whole number of steps"),
        ({"name": "x", "hight": 3}, "did you mean 'high'"),
        ({"name": "x", "strictness": 0}, "strictness"),
    ],
)
def test_scales_that_are_none(given: dict[str, object], message: str) -> None:
    with pytest.raises(SettingError, match=message):
        Objective.make(given)


def test_which_levels_ask_for_harm() -> None:
    binary = Objective(name="harmlessness", low=0, high=1)
    five = Objective(name="Safety")
    assert [binary.asks_for_harm(level) for level in (0, 1)] == [True, False]
    assert [five.asks_for_harm(level) for level in range(1, 6)] == [True, True, False, False, False]
    assert not Objective(name="honesty").asks_for_harm(1)
    assert Objective(name="politeness", guarded=True).asks_for_harm(1)
    assert not Objective(name="harmlessness", guarded=False).asks_for_harm(1)


def test_objectives_as_a_config_writes_them() -> None:
    short = Conditions.make({"objectives": {"tone": [1, 3], "honesty": {"weight": 2}}})
    long = Conditions.make({"objectives": [{"name": "tone", "low": 1, "high": 3}, {"name": "honesty", "weight": 2}]})
    assert short == long and [o.name for o in short.objectives] == ["tone", "honesty"]
    with pytest.raises(ValueError, match=r"the scale of 'tone' is 3, expected \[low, high\]"):
        objectives_of({"tone": 3})


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"budgets": [{"control": {"honestly": 5}}]}, "budget 1 names 'honestly'.*did you mean 'honesty'"),
        ({"budgets": [{}, {"control": {"honesty": 6}}]}, "budget 2: honesty is 6"),
        ({"budgets": [{"control": {"harmlessness": 0}}]}, "harmlessness: 0 as its target.*ask_for_harm: true"),
        ({"budgets": []}, "budgets is empty"),
        ({"budgets": [{"pairs": -1}]}, "pairs"),
        ({"temperature": 0}, "temperature"),
        ({"untagged_top": 1.5}, "untagged_top"),
        ({"objectives": [{"name": "tone"}, {"name": "tone"}]}, "the same name"),
        ({"objectives": {}}, "objectives"),
    ],
)
def test_settings_that_are_refused(given: dict[str, object], message: str) -> None:
    with pytest.raises(SettingError, match=message):
        Conditions.make({"objectives": SCALES, **given})


def test_budgets_as_a_config_writes_them() -> None:
    listed = ({"control": ["honesty"]}, {"control": {"honesty": "any"}}, {"control": "all"}, {}, {"control": {}})
    made = Conditions.make({"objectives": SCALES, "budgets": listed})
    assert [b.control for b in made.budgets] == [{"honesty": None}, {"honesty": None}, None, None, {}]
    harmful = {"budgets": [{"control": {"harmlessness": 0}}], "ask_for_harm": True}
    assert Conditions.make({"objectives": SCALES, **harmful}).budgets[0].control == {"harmlessness": 0}


def test_a_model_keeps_what_it_may_be_asked_for(tmp_path) -> None:
    assert recorded(tmp_path) is None
    conditions = Conditions.make({"objectives": SCALES, "temperature": 2, "seed": 3})
    rows = [{"condition": {"honesty": 5}, "tagged": tagged} for tagged in (True, True, False)]
    assert conditions.record(tmp_path, rows) == {"< honesty: 5 >": 2, "": 1}
    found = recorded(tmp_path)
    assert found is not None and found.objectives == conditions.objectives and not found.ask_for_harm
