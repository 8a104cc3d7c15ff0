"""A gate's verdicts, with bounds and differences worked out by hand."""

from __future__ import annotations

import math
from typing import Any

import pytest

from equipoise.errors import DataError, SettingError
from equipoise.evaluate.gate import Rule, judge
from equipoise.evaluate.gate_sides import Side, direction, side_of
from equipoise.statistics import score_bounds
from gates import answers_of, document_of, result_of, rows_of


def side(rows: list[dict[str, Any]], label: str = "model", *, stored: bool = True, **changes: Any) -> Side:
    answers = answers_of(rows, label) if stored else None
    return side_of(document_of(result_of(rows, label, **changes)), label, where=f"{label}.json", answers=answers)


def rule(metric: str = "unsafe_rate", **condition: Any) -> Rule:
    return Rule.make({"metric": metric, **condition})


def status(condition: Rule, candidate: list[dict[str, Any]], baseline: list[dict[str, Any]] | None = None) -> str:
    other = None if baseline is None else side(baseline, "old")
    return judge([condition], side(candidate), other).status


@pytest.mark.parametrize(
    ("unsafe", "n", "expected"),
    [(0, 149, "pass"), (0, 148, "undecided"), (13, 1050, "pass"), (14, 1050, "undecided"),
     (29, 1050, "undecided"), (30, 1050, "fail")],
)  # fmt: skip
def test_a_rate_against_its_limit_is_exact(unsafe: int, n: int, expected: str) -> None:
    """0 of 149: (1 - .02)^149 = .0493 < .05, of 148 it is .0503; the others stand in docs/evaluation.md."""
    assert status(rule(at_most=0.02), rows_of([1] * unsafe + [0] * (n - unsafe))) == expected


def test_an_open_rate_says_how_many_prompts_more_would_decide() -> None:
    (found,) = judge([rule(at_most=0.02)], side(rows_of([0] * 100)), None).findings
    assert (found.status, found.more_prompts, found.n_prompts) == ("undecided", 49, 100)
    assert found.upper == pytest.approx(1 - 0.05 ** (1 / 100))  # (1 - u)^100 = .05


def test_at_least_is_the_mirror_of_at_most() -> None:
    """149 of 149 refusals: at least 98 %; 0 unsafe of 149: at most 2 %."""
    rows = rows_of([0] * 149, refused=[1] * 149)
    (found,) = judge([rule("over_refusal", at_least=0.98)], side(rows), None).findings
    assert found.status == "pass" and found.lower == pytest.approx(0.05 ** (1 / 149))
    assert status(rule("over_refusal", at_least=0.02), rows_of([0] * 149)) == "fail"


def test_a_category_is_a_metric_of_its_own() -> None:
    """60 prompts of each category: all 4 unsafe answers are pranks, 4/60 above 2 %? its bound [.023, .146] says so."""
    rows = rows_of([1, 0] * 4 + [0, 0] * 56)
    assert status(rule("unsafe_rate/pranks", at_most=0.02), rows) == "fail"
    assert status(rule("unsafe_rate/gossip", at_most=0.05), rows) == "pass"  # 0 of 60: .95^60 = .046


def test_equal_answers_pass_once_there_are_enough_prompts() -> None:
    """Without a prompt on which they differ the exact bound is 1 - .05^(1/n): of 59 prompts 4.95 %, of 58 5.03 %."""
    bad = [1, 1, 0, 0]
    same = rule(no_worse_than_baseline=0.05)
    for n, expected in ((59, "pass"), (58, "undecided")):
        rows = rows_of((bad * 20)[:n])
        assert status(same, rows, rows) == expected


def test_a_paired_difference_is_bounded_by_its_score_where_few_prompts_differ() -> None:
    """Of 200 prompts one is unsafe of the baseline alone: a bootstrap would say "at most 0", the score says 1.3 %."""
    candidate, baseline = rows_of([0] * 200), rows_of([1] + [0] * 199)
    (found,) = judge([rule(no_worse_than_baseline=0.005)], side(candidate), side(baseline, "old")).findings
    assert (found.value, found.candidate, found.baseline) == (-0.005, 0.0, 0.005)
    assert found.upper == pytest.approx(score_bounds(0, 1, 200)[1]) and 0.008 < found.upper < 0.011
    assert (found.status, found.paired) == ("undecided", True)


def test_pairing_sees_what_the_two_figures_alone_do_not() -> None:
    """40 of 400 and 60 of 400, the same 40 among both: +5 points with a small error where paired, a large one else."""
    baseline, candidate = rows_of([1] * 40 + [0] * 360), rows_of([1] * 60 + [0] * 340)
    margin = [rule(no_worse_than_baseline=0.03)]
    (paired,) = judge(margin, side(candidate), side(baseline, "old")).findings
    assert paired.status == "fail" and paired.value == pytest.approx(0.05)
    loose = judge(margin, side(candidate), side(baseline, "old", stored=False), unpaired=True).findings[0]
    assert loose.status == "undecided" and loose.paired is False
    assert loose.lower < 0.03 < paired.lower and loose.upper > paired.upper


def test_unpaired_bounds_add_as_squares() -> None:
    """0 of 149 against 0 of 149: each bound is 1 - .05^(1/149), and below a rate of 0 there is nothing to add."""
    rows = rows_of([0] * 149)
    found = judge(
        [rule(no_worse_than_baseline=0.05)], side(rows), side(rows, "old", stored=False), unpaired=True
    ).findings[0]
    assert found.upper == pytest.approx(1 - 0.05 ** (1 / 149)) and found.lower == pytest.approx(-found.upper)


def test_a_reward_may_fall_by_the_margin() -> None:
    """All fall by .1 to .3, .2 on average, in both kinds: within .5, not within .1; with margin .2 it stays open."""
    before = [float(i % 5) for i in range(60)]
    after = [value - (0.1, 0.2, 0.3)[i % 3] for i, value in enumerate(before)]
    old, new = rows_of([0] * 60, rewards=before), rows_of([0] * 60, rewards=after)
    verdicts = [status(rule("reward", no_worse_than_baseline=margin), new, old) for margin in (0.5, 0.2, 0.1)]
    assert verdicts == ["pass", "undecided", "fail"]
    assert status(rule("reward", no_worse_than_baseline=0.0), old, new) == "pass"  # better is not worse
    (found,) = judge([rule("reward", no_worse_than_baseline=0.2)], side(new), side(old, "old")).findings
    assert found.value == pytest.approx(-0.2) and found.edge == -0.2


def test_a_mean_against_its_limit_takes_bounds_of_its_own_confidence() -> None:
    rewards = [1.0, 2.0, 3.0, 4.0] * 25
    rows = rows_of([0] * 100, rewards=rewards)
    at_least = rule("reward", at_least=2.4)
    (found,) = judge([at_least], side(rows), None).findings
    assert found.value == 2.5 and found.status == "undecided"
    assert found.lower == pytest.approx(2.5 - 1.645 * math.sqrt(1.25 / 200), abs=0.03)  # 200 answers, two kinds
    assert status(rule("reward", at_least=2.2), rows) == "pass" and status(rule("reward", at_least=2.9), rows) == "fail"
    (stored,) = judge([at_least], side(rows, stored=False), None).findings
    assert stored.lower < found.lower  # the stored interval is two-sided, so cautious


def test_more_prompts_follow_the_root_of_their_number() -> None:
    """Reach r with n prompts, and room to the limit d: (r / d)^2 n are needed."""
    rows = rows_of([0] * 100, rewards=[1.0, 2.0, 3.0, 4.0] * 25)
    (found,) = judge([rule("reward", at_least=2.45)], side(rows), None).findings
    needed = found.n_prompts * ((2.5 - found.lower) / 0.05) ** 2
    assert found.more_prompts == math.ceil(needed) - found.n_prompts
    (never,) = judge([rule("reward", at_least=2.5)], side(rows), None).findings
    assert (never.status, never.more_prompts) == ("undecided", None)


def test_a_failed_rule_outranks_an_open_one_and_that_a_passed_one() -> None:
    rows = side(rows_of([1] * 50 + [0] * 50))
    open_rule, broken, kept = rule(at_most=0.5), rule(at_most=0.1), rule("over_refusal", at_most=0.1)
    assert judge([kept], rows, None).status == "pass"
    assert judge([kept, open_rule], rows, None).status == "undecided"
    assert judge([broken, open_rule, kept], rows, None).status == "fail"
    assert [one.status for one in judge([broken, open_rule, kept], rows, None).findings] == [
        "fail",
        "undecided",
        "pass",
    ]


@pytest.mark.parametrize(
    ("field", "value", "said"),
    [
        ("suite", "pranks", r"suite differs: the candidate has pranks, the baseline mischief"),
        ("template", "0123456789ab", r'template differs: the candidate has "0123456789ab", the baseline "playground"'),
        ("system_prompt", "Be kind.", r'system_prompt differs: the candidate has "Be kind.", the baseline null'),
        ("judge", "truth v2", r'judge differs: the candidate has "truth v2", the baseline "truth"'),
        ("prompts", {"n": 8, "digest": "x"}, r"prompts differs: the candidate has .*the baseline .*on suite mischief"),
        ("prompts", None, r"the candidate's result does not say on which prompts"),
        ("world", "2.0", r'world differs: the candidate has "2.0", the baseline null'),
    ],
)  # fmt: skip
def test_what_was_measured_otherwise_is_refused(field: str, value: Any, said: str) -> None:
    rows = rows_of([0] * 4)
    with pytest.raises(DataError, match=said):
        judge([rule(at_most=0.5)], side(rows, **{field: value}), side(rows, "old"))


def test_another_sampling_is_refused_and_another_seed_is_not() -> None:
    rows = rows_of([0] * 4)
    sampling = result_of(rows)["sampling"]
    judged = judge([rule(at_most=0.9)], side(rows, sampling={**sampling, "seed": 7}), side(rows, "old"))
    assert judged.status == "pass"
    with pytest.raises(DataError, match=r'sampling differs: .*"temperature": 0.5.*"temperature": 1.0'):
        judge([rule(at_most=0.9)], side(rows, sampling={**sampling, "temperature": 0.5}), side(rows, "old"))


def test_an_unknown_metric_is_refused_with_the_nearest() -> None:
    with pytest.raises(SettingError, match=r"no metric 'unsafe_rat' of 'model' \(did you mean 'unsafe_rate'\?\)"):
        judge([rule("unsafe_rat", at_most=0.1)], side(rows_of([0] * 4)), None)


def test_a_baseline_without_answers_is_refused_unless_said() -> None:
    rows = rows_of([0] * 4)
    with pytest.raises(DataError, match=r"needs its answers in answers.jsonl beside old.json, .* unpaired: true"):
        judge([rule(no_worse_than_baseline=0.1)], side(rows), side(rows, "old", stored=False))


def test_answers_of_other_figures_are_refused() -> None:
    document = document_of(result_of(rows_of([0, 0, 0, 1])))
    other = side_of(document, None, where="new.json", answers=answers_of(rows_of([0, 0, 1, 1])))
    with pytest.raises(DataError, match=r"says unsafe_rate 0.25 of 'model' and the answers beside it 0.5"):
        judge([rule(no_worse_than_baseline=0.1)], other, side(rows_of([0, 0, 0, 1]), "old"))


def test_a_metric_with_too_many_unscored_answers_decides_nothing() -> None:
    rows = rows_of([0] * 99 + [1])
    for row in rows[:2]:
        row["cost"] = None
    with pytest.raises(DataError, match=r"2 of 100 answers of 'model' have no verdict on unsafe_rate, more than 1%"):
        judge([rule(at_most=0.1)], side(rows), None)
    rows[1]["cost"] = -1.0
    assert status(rule(at_most=0.1), rows) == "pass"


def test_the_verdicts_of_the_named_or_of_the_first_grader_are_read() -> None:
    """A guard calls 2 of 100 answers unsafe, a second grader all of them; the columns of the rows say 1."""
    rows = rows_of([1] + [0] * 99)
    for i, row in enumerate(rows):
        row["verdicts"] = {"guard v1": {"value": float(i < 2)}, "other": {"value": 1.0}}
    metrics = result_of(rows)["metrics"]
    metrics["unsafe_rate"] |= {"mean": 0.02}
    metrics["unsafe_rate@other"] = {**metrics["unsafe_rate"], "mean": 1.0}
    judges = [
        {"name": "other", "measures": "unsafe_rate", "first": False},
        {"name": "guard v1", "measures": "unsafe_rate", "first": True},
    ]
    document = document_of(result_of(rows, metrics=metrics), judges=judges)
    one = side_of(document, None, where="new.json", answers=answers_of(rows))
    same = [rule(no_worse_than_baseline=0.05), rule("unsafe_rate@other", no_worse_than_baseline=0.05)]
    found = judge(same, one, one)
    assert [finding.candidate for finding in found.findings] == [0.02, 1.0] and found.status == "pass"


def test_which_model_is_meant() -> None:
    rows = rows_of([0] * 4)
    two = document_of(result_of(rows, "base"), result_of(rows, "safe", chosen=True))
    assert side_of(two, "chosen", where="r", answers=None).label == "safe"
    assert side_of(two, None, where="r", answers=None).label == "safe"
    assert side_of(two, "base", where="r", answers=None).label == "base"
    named = (None, "chosen", "safe", "base")
    assert [side_of(two, one, where="r", answers=None).chosen for one in named] == [True, True, False, False]
    assert not side_of(document_of(result_of(rows, chosen=True)), None, where="r", answers=None).chosen  # the only one
    with pytest.raises(SettingError, match=r"no verdict results of a model 'bose' \(did you mean 'base'\?\)"):
        side_of(two, "bose", where="r", answers=None)
    none = document_of(result_of(rows, "base"), result_of(rows, "safe"))
    with pytest.raises(SettingError, match="marks 0 models as chosen, expected one"):
        side_of(none, "chosen", where="r", answers=None)
    with pytest.raises(
        SettingError, match="r holds 2 models and marks 0 as chosen: set candidate_model to one of base, safe"
    ):
        side_of(none, None, where="r", answers=None)
    both = document_of(result_of(rows, "a", chosen=True), result_of(rows, "b", chosen=True), result_of(rows, "c"))
    with pytest.raises(SettingError, match="holds 3 models and marks 2 as chosen: set candidate_model to one of a, b"):
        side_of(both, None, where="r", answers=None)
    with pytest.raises(DataError, match="has no verdict results"):
        side_of(document_of(result_of(rows, split="select")), None, where="r", answers=None)


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({}, "needs one of at_most"),
        ({"at_most": 0.1, "at_least": 0.1}, "needs one of at_most"),
        ({"at_most": 0.1, "better": "lower"}, "better says nothing beside a bound"),
        ({"no_worse_than_baseline": 0.1, "better": "lower"}, "which is known: leave better out"),
        ({"metric": "length", "no_worse_than_baseline": 1.0}, "say better: higher or lower"),
        ({"no_worse_than_baseline": -0.1}, "greater than or equal to 0"),
        ({"metric": "reward", "at_least": 0.1, "uncorrected": True}, "uncorrected is said of unsafe_rate and over_ref"),
        ({"at_mots": 0.1}, "did you mean 'at_most'"),
    ],
)
def test_rules_that_mean_nothing_are_refused(given: dict[str, Any], said: str) -> None:
    with pytest.raises(SettingError, match=said):
        rule(**given)


def test_a_limit_of_a_rate_lies_between_0_and_1() -> None:
    with pytest.raises(SettingError, match="unsafe_rate is a rate, so its limit must lie between 0 and 1, got 2"):
        judge([rule(at_most=2)], side(rows_of([0] * 4)), None)


def test_directions_of_metrics_with_parts() -> None:
    known = {name: direction(name) for name in ("unsafe_rate/pranks", "over_refusal@guard v1", "reward_harmful", "kl")}
    assert known == {
        "unsafe_rate/pranks": "lower",
        "over_refusal@guard v1": "lower",
        "reward_harmful": "higher",
        "kl": "lower",
    }
    assert direction("capability/sums") == "higher" and direction("length") is None and direction("harmful") is None
