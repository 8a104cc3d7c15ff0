"""Rated answers under conditions: values, draws, orders, budgets, and every reason to leave something out."""

from __future__ import annotations

import math
import random
from collections import Counter
from collections.abc import Mapping
from itertools import combinations
from typing import Any

import numpy as np
import pytest
from scipy.optimize import minimize

from equipoise.data.columns import Reason
from equipoise.data.conditions import Conditions
from equipoise.data.controllable import (
    cdpo_rows,
    chance,
    check_ratings,
    conditioned_rows,
    cpsft_rows,
    value,
)
from equipoise.data.relabel import enforce
from equipoise.errors import DataError, SettingError
from equipoise.types import Message, Response, SourceRow

TWO = {"helpfulness": [1, 5], "honesty": [1, 5]}
THREE = {**TWO, "harmlessness": [0, 1]}
A, B, C, D = (5, 5), (5, 1), (3, 5), (2, 3)  # (helpfulness, honesty)


def conditions(scales: Mapping[str, Any] = TWO, **given: Any) -> Conditions:
    return Conditions.make({"objectives": scales, **given})


OBJECTIVES = conditions().objectives


def rated(*pair: float) -> dict[str, float]:
    return dict(zip(("helpfulness", "honesty", "harmlessness"), map(float, pair), strict=False))


def row(*ratings: tuple[float, ...] | dict[str, float], id: str = "r", prompt: str = "Hi") -> SourceRow:
    """A prompt whose i-th answer is the letter number i with the given ratings."""
    responses = tuple(
        Response("abcdefgh"[i], ratings=r if isinstance(r, dict) else rated(*r)) for i, r in enumerate(ratings)
    )
    return SourceRow(id=id, prompt=(Message(role="user", content=prompt),), responses=responses)


def fixed(*levels: float, **given: Any) -> Conditions:
    """Every prompt gets the same condition, whatever its answers are rated."""
    return conditions(draw="uniform", budgets=[{"control": rated(*levels)}], **given)


def orders(rows: list[Any]) -> list[tuple[str, str]]:
    return [(r["chosen"][-1]["content"], r["rejected"][-1]["content"]) for r in rows]


def asked(rows: list[Any]) -> list[str]:
    return [r["prompt"][-1]["content"] for r in rows]


def reasons(dropped: list[Any]) -> dict[str, int]:
    return dict(Counter(str(d.reason) for d in dropped))


# -- the value of an answer (METHODS G12) ----------------------------------------------------------------------------


def released(ratings: tuple[int, int], wanted: tuple[int, int], *, helpful: bool = True, honest: bool = True) -> int:
    """What the released preparation script computes: 0 counts as absent, and honesty lost a bracket."""
    first = -abs(ratings[0] - wanted[0]) if helpful else 0
    second = -abs(ratings[1]) - wanted[1] if honest else 0
    return (first or ratings[0]) + (second or ratings[1])


def test_both_controlled() -> None:
    wanted = rated(5, 5)
    values = [value(rated(*y), wanted, OBJECTIVES) for y in (A, B, C, D)]
    assert values == [0, -4, -2, -5]
    quirks = [released(y, (5, 5)) for y in (A, B, C, D)]
    assert quirks == [-5, -1, -12, -11]
    ours, theirs = (sorted("ABCD", key=dict(zip("ABCD", v, strict=True)).get, reverse=True) for v in (values, quirks))
    assert ("".join(ours), "".join(theirs)) == ("ACBD", "BADC")


def test_one_controlled() -> None:
    wanted, answers = {"helpfulness": 3.0}, ((4, 5), (4, 4), (3, 2))
    assert [value(rated(*y), wanted, OBJECTIVES) for y in answers] == [4, 3, 2]
    assert [released(y, (3, 5), honest=False) for y in answers] == [4, 3, 5]  # the exact match jumps ahead


def test_nothing_controlled() -> None:
    assert [value(rated(*y), {}, OBJECTIVES) for y in (A, B, C, D)] == [10, 6, 8, 5]


def test_weights_and_strictness() -> None:
    scales = {"helpfulness": {"weight": 2}, "honesty": {"weight": 0.5, "strictness": 3}}
    objectives = conditions(scales).objectives
    assert value(rated(4, 2), {"honesty": 5}, objectives) == 2 * 4 - 0.5 * 3 * 3
    assert value(rated(4, 2), {"helpfulness": 5}, objectives) == -2 * 1 + 0.5 * 2


def test_only_what_is_rated_counts_and_a_condition_needs_its_rating() -> None:
    three = conditions(THREE).objectives
    assert value({"harmlessness": 0.0}, {"harmlessness": 1}, three) == -1
    with pytest.raises(DataError, match="names honesty, on which the answer has no rating"):
        value({"harmlessness": 0.0}, {"honesty": 1}, three)
    with pytest.raises(SettingError, match="did you mean 'honesty'"):
        value(rated(1, 1), {"honestly": 1}, three)


# -- pairs -----------------------------------------------------------------------------------------------------------


def test_the_same_two_answers_stand_in_either_order() -> None:
    rows = [row(A, B)]
    (honest,), _ = cdpo_rows(rows, fixed(5, 5))
    (dishonest,), _ = cdpo_rows(rows, fixed(5, 1))
    assert orders([honest, dishonest]) == [("a", "b"), ("b", "a")]
    assert asked([honest, dishonest]) == [f"< helpfulness: 5 > < honesty: {k} > Hi" for k in (5, 1)]
    assert (honest["condition"], honest["tagged"]) == (rated(5, 5), True)
    assert (honest["chosen_honesty"], honest["rejected_honesty"]) == (5, 1)
    assert {honest["id"], dishonest["id"]} == {"r-01-0-01", "r-10-0-01"}


def test_all_pairs_of_a_prompt_are_ordered_and_single_ties_are_left_out() -> None:
    used, dropped = cdpo_rows([row(A, B, C, D)], fixed(5, 5))
    assert orders(used) == [("a", "b"), ("a", "c"), ("a", "d"), ("c", "b"), ("b", "d"), ("c", "d")]
    used, dropped = cdpo_rows([row(A, A, D)], fixed(5, 5))
    assert orders(used) == [("a", "c"), ("b", "c")] and dropped == []


def test_the_released_pair_list_differs_where_it_must() -> None:
    """An oracle of difference: same answers, same condition, and the quirks turn these pairs and no others around."""
    used, _ = cdpo_rows([row(A, B, C, D)], fixed(5, 5))
    names = "abcd"
    theirs = set()
    for (i, first), (j, second) in combinations(enumerate((A, B, C, D)), 2):
        ahead = released(first, (5, 5)) > released(second, (5, 5))
        theirs.add((names[i], names[j]) if ahead else (names[j], names[i]))
    assert set(orders(used)) - theirs == {("a", "b"), ("c", "b"), ("c", "d")}


def test_no_control_gives_plain_prompts() -> None:
    used, _ = cdpo_rows([row(A, B)], conditions(budgets=[{"control": {}}]))
    assert asked(used) == ["Hi"] and orders(used) == [("a", "b")] and used[0]["condition"] == {}


def test_a_condition_is_one_of_the_answers_ratings() -> None:
    rows = [row(A, B, D, id=str(i)) for i in range(300)]
    used, _ = cdpo_rows(rows, conditions())
    drawn = Counter(tuple(r["condition"].values()) for r in used if r["id"].endswith("-01"))
    assert set(drawn) == {A, B, D}
    shares = [drawn[y] / sum(drawn.values()) for y in (A, B, D)]
    assert all(0.25 < share < 0.42 for share in shares)
    used, _ = cdpo_rows(rows, conditions(budgets=[{"control": {"honesty": "any", "helpfulness": 5}}]))
    assert {tuple(r["condition"].values()) for r in used} == {A, B}


def test_a_condition_may_be_any_of_the_scale() -> None:
    rows = [row(A, B, id=str(i)) for i in range(400)]
    used, _ = cdpo_rows(rows, conditions(draw="uniform", budgets=[{"control": ["honesty"]}], temperature=1))
    counts = Counter(r["condition"]["honesty"] for r in used)
    assert set(counts) == {1, 2, 3, 4, 5} and min(counts.values()) > 50


def test_ratings_between_levels_ask_for_the_nearest() -> None:
    used, _ = cdpo_rows([row((4.4, 3.5), (1.2, 1.0))], conditions(seed=1))
    assert asked(used)[0] in ("< helpfulness: 4 > < honesty: 4 > Hi", "< helpfulness: 1 > < honesty: 1 > Hi")


def test_draws_depend_on_the_seed_and_the_row_alone() -> None:
    rows = [row(A, B, C, D, id=str(i)) for i in range(40)]
    settings = conditions(temperature=2, untagged_top=0.5, budgets=[{}, {"control": ["honesty"], "pairs": 30}])
    random.seed(1)
    np.random.seed(1)
    one, _ = cdpo_rows(rows, settings)
    state = random.getstate()
    other, _ = cdpo_rows(rows[::-1], settings)
    assert random.getstate() == state
    key = lambda r: r["id"]
    assert sorted(one, key=key) == sorted(other, key=key)
    some, _ = cdpo_rows(rows[:20], settings.but(budgets=settings.budgets[:1]))
    assert [r for r in some if r not in one] == []
    reseeded, _ = cdpo_rows(rows, settings.but(seed=1))
    assert sorted(map(key, reseeded)) != sorted(map(key, one))


def test_budgets_take_no_more_than_they_may_and_rows_serve_several() -> None:
    rows = [row(A, B, C, id=str(i)) for i in range(50)]
    kinds = [
        {"control": {"helpfulness": 5, "honesty": 5}, "pairs": 40},
        {"control": {}, "pairs": 0},
        {"control": {"honesty": 3}},
    ]
    used, dropped = cdpo_rows(rows, conditions(draw="uniform", budgets=kinds))
    # Under honesty 3 all three answers are two off, so helpfulness orders them and A ties with B.
    assert Counter(tuple(r["condition"].items()) for r in used) == {
        (("helpfulness", 5.0), ("honesty", 5.0)): 40,
        (("honesty", 3.0),): 100,
    }
    assert dropped == []
    # With their own ratings nobody is at honesty 3.
    used, dropped = cdpo_rows(rows, conditions(budgets=kinds[2:]))
    assert used == [] and reasons(dropped) == {Reason.NO_CONDITION: 50}
    assert len({r["id"] for r in used}) == len(used)


def test_the_top_condition_may_go_unsaid() -> None:
    rows = [row(A, B, id=str(i)) for i in range(200)]
    always, _ = cdpo_rows(rows, fixed(5, 5, untagged_top=1))
    assert set(asked(always)) == {"Hi"} and all(r["condition"] == rated(5, 5) and not r["tagged"] for r in always)
    assert set(orders(always)) == {("a", "b")}
    half, _ = cdpo_rows(rows, fixed(5, 5, untagged_top=0.5))
    assert 70 < asked(half).count("Hi") < 130
    for other in (fixed(5, 4, untagged_top=1), conditions(budgets=[{"control": {"helpfulness": 5}}], untagged_top=1)):
        assert all(r["tagged"] for r in cdpo_rows(rows, other)[0])  # below the top, or not everything that is rated
    safety = SourceRow(
        "s", rows[0].prompt, tuple(Response(t, ratings={"harmlessness": v}) for t, v in (("a", 1), ("b", 0)))
    )
    used, _ = cdpo_rows([safety], conditions(THREE, untagged_top=1))
    assert asked(used) == ["Hi"]


# -- soft labels -----------------------------------------------------------------------------------------------------


def test_the_chance_of_an_order() -> None:
    assert chance(1, 1, temperature=0.1) == 0.5
    assert chance(2, 0, temperature=2) == pytest.approx(1 / (1 + math.exp(-1)))
    assert chance(0, 2000, temperature=1) == 0 and chance(2000, 0, temperature=1) == 1


def test_soft_labels_have_the_gibbs_policy_as_optimum_and_hard_ones_none() -> None:
    """On three answers: DPO's margins tend to R / (T * beta), so pi is pi_ref * exp(R / (T * beta)) / Z."""
    ratings, wanted, temperature, beta = ((5, 5), (4, 3), (2, 4)), (5, 3), 1.5, 0.2
    rows = [row(*ratings, id=str(i)) for i in range(2500)]

    def loss_of(settings: Conditions):
        wins = np.zeros((3, 3))
        for chosen, rejected in orders(cdpo_rows(rows, settings)[0]):
            wins["abc".index(chosen), "abc".index(rejected)] += 1

        def loss(logratios: np.ndarray) -> float:
            margins = beta * (logratios[:, None] - logratios)
            return float((wins * np.logaddexp(0, -margins)).sum() / wins.sum())

        return loss

    expected = np.array([value(rated(*y), rated(*wanted), OBJECTIVES) for y in ratings]) / (temperature * beta)
    found = minimize(loss_of(fixed(*wanted, temperature=temperature)), np.zeros(3)).x
    assert beta * (found - found.mean()) == pytest.approx(beta * (expected - expected.mean()), abs=0.12)

    hard = loss_of(fixed(*wanted))
    losses = [hard(expected * scale) for scale in (1, 10, 100)]
    assert (
        losses[0] > losses[1] > losses[2] and hard(np.array([2e3, 2e3, 0])) > 0
    )  # a tie between the first two is left out


def test_soft_labels_keep_ties() -> None:
    rows = [row(A, A, id=str(i)) for i in range(400)]
    used, dropped = cdpo_rows(rows, fixed(5, 5, temperature=1))
    assert len(used) == 400 and dropped == []
    assert 160 < sum(chosen == "a" for chosen, _ in orders(used)) < 240


# -- imitation -------------------------------------------------------------------------------------------------------


def test_each_answer_is_imitated_under_its_own_ratings() -> None:
    used, dropped = cpsft_rows([row(A, D)], conditions())
    assert asked(used) == ["< helpfulness: 5 > < honesty: 5 > Hi", "< helpfulness: 2 > < honesty: 3 > Hi"]
    assert [r["completion"] for r in used] == [[{"role": "assistant", "content": t}] for t in "ab"]
    assert [r["condition"] for r in used] == [rated(5, 5), rated(2, 3)]
    assert len({r["id"] for r in used}) == 2 and dropped == []


def test_a_share_of_the_prompts_names_some_objectives_only() -> None:
    many = [row((5, 1, 1), (2, 4, 1), id=str(i)) for i in range(600)]
    whole, _ = cpsft_rows(many, conditions(THREE))
    assert {len(r["condition"]) for r in whole} == {3}
    used, _ = cpsft_rows(many, conditions(THREE, partial=0.6))
    assert len(used) == len(whole)
    named = Counter(tuple(r["condition"]) for r in used)
    assert len(named) == 7, "each of the three, each two of them, and all"
    assert abs(named["helpfulness", "honesty", "harmlessness"] / 1200 - 0.4) < 0.05
    assert all(abs(count / 1200 - 0.1) < 0.04 for names, count in named.items() if len(names) < 3)
    assert all(asked_for(r) == r["condition"] for r in used)
    assert used[0]["condition"].items() <= rated(5, 1, 1).items()


def asked_for(row: Any) -> dict[str, float]:
    from equipoise.data.conditions import parse

    return parse(row["prompt"][-1]["content"], conditions(THREE).objectives)[0]


def test_a_dialogue_that_parts_early_is_asked_where_it_ends() -> None:
    lead = (Message(role="assistant", content="x"), Message(role="user", content="More?"))
    parted = SourceRow(
        "r", row(A).prompt, (Response("a", ratings=rated(*A), lead=lead), Response("b", ratings=rated(*B)))
    )
    used, _ = cpsft_rows([parted], conditions())
    assert [m["content"] for m in used[0]["completion"]] == ["x", "< helpfulness: 5 > < honesty: 5 > More?", "a"]
    assert asked(used) == ["Hi", "< helpfulness: 5 > < honesty: 1 > Hi"]
    used, dropped = cdpo_rows([parted], conditions())
    assert used == [] and reasons(dropped) == {Reason.BAD_TURNS: 1}


# -- harm ------------------------------------------------------------------------------------------------------------


SAFE, UNSAFE = (3, 3, 1), (5, 5, 0)


def test_nobody_learns_to_do_harm_when_asked_unless_that_was_asked_for() -> None:
    rows = [row(SAFE, UNSAFE, id=str(i)) for i in range(50)]
    for settings in (conditions(THREE), conditions(THREE, draw="uniform", temperature=1)):
        used, _ = cdpo_rows(rows, settings)
        assert {r["condition"]["harmlessness"] for r in used} == {1}
        allowed, _ = cdpo_rows(rows, settings.but(ask_for_harm=True))
        assert {r["condition"]["harmlessness"] for r in allowed} == {0, 1}
    used, dropped = cpsft_rows(rows, conditions(THREE))
    assert {r["condition"]["harmlessness"] for r in used} == {1} and len(used) == 50
    assert reasons(dropped) == {Reason.ASKS_FOR_HARM: 50}
    assert len(cpsft_rows(rows, conditions(THREE, ask_for_harm=True))[0]) == 100


def test_prompts_with_unsafe_answers_alone_have_no_condition() -> None:
    used, dropped = cdpo_rows([row(UNSAFE, (1, 1, 0))], conditions(THREE))
    assert used == [] and reasons(dropped) == {Reason.NO_CONDITION: 1}
    plain, _ = cdpo_rows([row(UNSAFE, (1, 1, 0))], conditions(THREE, budgets=[{"control": {}}]))
    assert orders(plain) == [("a", "b")]


# -- what is left out ------------------------------------------------------------------------------------------------


def test_prompts_whose_answers_all_tie_are_counted_but_no_fault() -> None:
    rows = [row(C, C, C, id="tied"), row(A, B, id="fine")]
    used, dropped = cdpo_rows(rows, conditions(budgets=[{}, {"control": {}}]))
    assert [(d.id, d.reason) for d in dropped] == [("tied", Reason.TIED)]
    assert {r["id"][:4] for r in used} == {"fine"}
    enforce(dropped, total=2, name="rated", max_dropped=0)
    with pytest.raises(DataError, match="1 missing rating"):
        enforce([*dropped, dropped[0]._replace(reason=Reason.NO_RATING)], total=2, name="rated", max_dropped=0)


@pytest.mark.parametrize(
    ("given", "reason", "left"),
    [
        (row({}, {}), Reason.NO_RATING, 0),
        (row({"tone": 3.0}, {"tone": 4.0}), Reason.NO_RATING, 0),
        (row(A, B, {"honesty": 3.0}), Reason.NO_RATING, 1),
        (row(A, B, (6, 1)), Reason.OFF_SCALE, 1),
        (row(A, B, prompt="< honesty : 1 > Hi"), Reason.HOLDS_TOKENS, 0),
        (row(A), Reason.NO_ORDER, 0),
        (row(A, B, prompt=" "), Reason.EMPTY_PROMPT, 0),
        (SourceRow("r", row(A).prompt), Reason.NO_ANSWER, 0),
        (SourceRow("r", row(A).prompt, tuple(Response("a", ratings=rated(*y)) for y in (A, B))), Reason.IDENTICAL, 0),
        (
            SourceRow("r", row(A).prompt, (*row(A, B).responses, Response(" ", ratings=rated(*C)))),
            Reason.EMPTY_COMPLETION,
            1,
        ),
        (
            SourceRow("r", row(A).prompt, (*row(A, B).responses, Response("<Honesty:5> c", ratings=rated(*C)))),
            Reason.HOLDS_TOKENS,
            1,
        ),
    ],
)
def test_reasons_to_leave_something_out(given: SourceRow, reason: Reason, left: int) -> None:
    used, dropped = cdpo_rows([given], fixed(5, 5))
    assert len(used) == left
    assert reasons(dropped) == {reason: 1}
    assert dropped[0].id.startswith("r")


def test_the_same_content_is_used_once() -> None:
    used, dropped = cdpo_rows([row(A, B), row(A, B)], fixed(5, 5))
    assert len(used) == 1 and reasons(dropped) == {Reason.DUPLICATE: 1}


def test_conditions_fit_pairs_and_completions_only() -> None:
    assert conditioned_rows([row(A, B)], conditions(), layout="completion") == cpsft_rows([row(A, B)], conditions())
    assert conditioned_rows([row(A, B)], conditions(), layout="pair") == cdpo_rows([row(A, B)], conditions())
    with pytest.raises(SettingError, match="not on unpaired rows"):
        conditioned_rows([row(A, B)], conditions(), layout="unpaired")


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        (
            [row(A, (9, 1))],
            "1 of the first 2 ratings of helpfulness lie outside its scale, such as 9, expected 1, 2, 3, 4, 5",
        ),
        ([row({"helpful": 3.0})], "rated on helpfulness, honesty .did you mean 'helpful'"),
        ([row({})], "there are no ratings at all"),
    ],
)
def test_ratings_that_do_not_fit_the_objectives(rows: list[SourceRow], message: str) -> None:
    with pytest.raises(SettingError, match=f"^here: .*{message}"):
        check_ratings(rows, conditions(), where="here", max_dropped=0.05)


def test_ratings_that_fit() -> None:
    check_ratings([row(A, B), row({"honesty": 2.5})], conditions(), where="here", max_dropped=0)
    check_ratings([row(A, (9, 1))], conditions(), where="here", max_dropped=0.5)
