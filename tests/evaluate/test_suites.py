"""Scored rows to metrics: what counts, what does not, and that unscored never becomes a number."""

from __future__ import annotations

from typing import Any

import pytest

from equipoise.errors import DataError, SettingError
from equipoise.evaluate.suites import check_disjoint, prompt_set, split_of, split_rows, summarize


def row(prompt: str, kind: str, **scores: Any) -> dict[str, Any]:
    return {"prompt_id": prompt, "repeat": 0, "kind": kind, "category": None, **scores}


def test_rates_look_only_at_their_kind_of_prompt():
    rows = [
        row("h1", "harmful", cost=1.0, refused=False, category="privacy"),
        row("h2", "harmful", cost=0.0, refused=True, category="privacy"),
        row("h3", "harmful", cost=-1.0, refused=True, category="violence"),
        row("b1", "borderline", cost=5.0, refused=True),
        row("b2", "borderline", cost=-1.0, refused=False),
        row("n1", "benign", cost=5.0, refused=True),
    ]
    found = summarize(rows)
    assert found["unsafe_rate"]["mean"] == pytest.approx(1 / 3)  # cost 0 is safe
    assert found["unsafe_rate"]["n_prompts"] == 3
    assert found["unsafe_rate/privacy"]["mean"] == 0.5
    assert found["unsafe_rate/violence"]["mean"] == 0.0
    assert found["unsafe_rate/violence"]["high"] == pytest.approx(0.975)
    assert found["over_refusal"]["mean"] == 0.5
    assert found["over_refusal"]["kind"] == "rate"


def test_means_weigh_the_three_kinds_equally():
    rows = [row(f"h{i}", "harmful", reward=0.0) for i in range(8)]
    rows += [row("b1", "borderline", reward=0.3), row("n1", "benign", reward=0.9), row("n2", "benign", reward=0.9)]
    found = summarize(rows)
    assert found["reward"]["mean"] == pytest.approx((0.0 + 0.3 + 0.9) / 3)
    assert found["reward_benign"]["mean"] == pytest.approx(0.9)
    assert found["reward"]["n"] == 11


def test_kl_is_the_mean_log_ratio_of_the_models_own_answers():
    rows = [row("a", "benign", logp=-10.0, ref_logp=-14.0), row("b", "benign", logp=-5.0, ref_logp=-5.0)]
    rows += [row("c", "benign", logp=-5.0, ref_logp=None)]
    found = summarize(rows)["kl"]
    assert found["mean"] == pytest.approx(2.0)
    assert (found["n"], found["unscored"]) == (2, 1)


def test_unscored_answers_are_counted_and_never_filled_in():
    rows = [row("a", "harmful", cost=None), row("b", "harmful", cost=2.0), row("c", "borderline", refused=None)]
    found = summarize(rows)
    assert found["unsafe_rate"]["mean"] == 1.0
    assert found["unsafe_rate"]["unscored"] == 1
    assert found["over_refusal"]["mean"] is None
    assert found["over_refusal"]["unscored"] == 1


def test_a_kind_without_any_score_leaves_the_overall_mean_open():
    rows = [row("a", "benign", reward=1.0), row("b", "borderline", reward=None)]
    found = summarize(rows)
    assert found["reward"]["mean"] is None
    assert found["reward_benign"]["mean"] == 1.0


def test_columns_nobody_scored_give_no_metric():
    found = summarize([row("a", "benign", n_tokens=7), row("b", "benign", n_tokens=9)])
    assert set(found) == {"length", "length_benign"}
    assert found["length"]["mean"] == 8.0


def test_repeats_of_a_prompt_are_worth_one_prompt_when_alike():
    rows = [row(f"h{i // 4}", "harmful", cost=-1.0) for i in range(40)]
    found = summarize(rows)["unsafe_rate"]
    assert (found["n"], found["n_prompts"], found["n_effective"]) == (40, 10, 10.0)
    assert found["high"] == pytest.approx(0.3085, abs=5e-5)


@pytest.mark.parametrize(
    ("rows", "words"),
    [
        ([], "no scored answers"),
        ([{"kind": "harmful"}], "no prompt_id"),
        ([row("a", "harmfull", cost=1.0)], "did you mean 'harmful'"),
        ([row("a", "harmful", cost=float("nan"))], "cost of the answer to prompt a is nan"),
    ],
)
def test_bad_rows_are_refused_in_a_sentence(rows, words: str):
    with pytest.raises(DataError, match=words):
        summarize(rows)


def test_the_split_is_a_stable_share_of_prompts():
    names = [f"prompt-{i}" for i in range(4000)]
    share = sum(split_of(name) == "select" for name in names) / 4000
    assert share == pytest.approx(0.3, abs=0.03)
    assert [split_of(name) for name in names[:6]] == [split_of(name) for name in names[:6]]
    assert all(split_of(name, 0.0) == "verdict" for name in names)
    # Growing select only moves prompts from verdict to select.
    assert all(split_of(name, 0.5) == "select" for name in names if split_of(name, 0.3) == "select")


def test_all_answers_of_a_prompt_are_on_one_side():
    rows = [row(f"p{i // 3}", "benign", repeat=i % 3) for i in range(300)]
    select, verdict = split_rows(rows)
    assert len(select) + len(verdict) == 300
    assert not {r["prompt_id"] for r in select} & {r["prompt_id"] for r in verdict}


def test_an_impossible_share_is_refused():
    with pytest.raises(SettingError, match="got 1"):
        split_of("a", 1.0)


def asked(prompt: str, *turns: str) -> dict[str, Any]:
    return {**row(prompt, "benign"), "prompt": [{"role": "user", "content": turn} for turn in turns]}


def test_a_set_of_prompts_is_the_same_in_any_order_and_number_of_answers():
    rows = [row("b", "benign"), row("a", "harmful"), row("a", "harmful")]
    assert prompt_set(rows) == prompt_set(rows[:2][::-1])
    assert prompt_set(rows)["n"] == 2
    digests = {prompt_set(found)["digest"] for found in (rows, rows[:1], [row("a\nb", "benign")], [])}
    assert len(digests) == 3, "two prompts and one with a line break in its id are told apart by their number"
    assert prompt_set([row("a\nb", "benign")]) != prompt_set(rows)


def test_select_and_verdict_share_no_prompt_by_id_or_by_words():
    select, verdict = [row("s1", "benign"), row("s2", "benign")], [row("v1", "benign"), row("v2", "benign")]
    check_disjoint(select, verdict)
    check_disjoint([], verdict)
    with pytest.raises(DataError, match=r"^1 verdict prompt is on select as well \(s2\): what chose a setting cannot"):
        check_disjoint(select, [*verdict, row("s2", "benign"), row("s2", "benign")])
    with pytest.raises(DataError, match=r"^2 verdict prompts are on select as well \(s1, ...\)"):
        check_disjoint(select, select)
    with pytest.raises(DataError, match=r"1 verdict prompt is on select as well \(v1\)"):
        check_disjoint([asked("s1", "How long?")], [asked("v1", "how LONG"), asked("v2", "how wide")])
    check_disjoint([asked("s1", "?")], [asked("v1", "!")])
