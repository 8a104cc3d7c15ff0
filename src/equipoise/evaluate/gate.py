"""Whether a model may ship: rules over bounds and paired differences -> pass, fail or undecided, each with its figures.

Every rule must hold, so no rule's confidence is corrected for their number: a model that breaks one passes with at most
the error of that one rule (an intersection-union test, Berger 1982).
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from typing import Literal, NamedTuple, Self

from pydantic import Field, model_validator

from equipoise.config import Config
from equipoise.errors import DataError, SettingError
from equipoise.evaluate.frontier import estimate_of
from equipoise.evaluate.gate_graders import (
    NOT_ALLOWED,
    Correction,
    as_flagged,
    belief,
    correction_of,
    shared_correction,
)
from equipoise.evaluate.gate_sides import SHARES, Result, Side, Values, by_prompt, direction, require_same
from equipoise.evaluate.verdicts import JUDGED_ON
from equipoise.statistics import (
    Estimate,
    apart,
    corrected_difference,
    decide,
    decide_corrected,
    lower_bound,
    mean,
    upper_bound,
)
from equipoise.statistics.intervals import FARTHEST

Status = Literal["pass", "fail", "undecided"]
Bounds = tuple[float, float]

MOST_UNSCORED = 0.01  # of a metric's answers; beyond it, what was left out could decide
_DECIDED: dict[str, Status] = {"MET": "pass", "NOT MET": "fail", "UNDECIDED": "undecided"}


class Rule(Config):
    """One condition on a metric: a bound, or a margin to the baseline; `better` is said of metrics not known here.

    `uncorrected` holds it to what the grader flagged, whatever people's labels say of its errors.
    """

    metric: str
    at_most: float | None = Field(None, allow_inf_nan=False)
    at_least: float | None = Field(None, allow_inf_nan=False)
    no_worse_than_baseline: float | None = Field(None, ge=0, allow_inf_nan=False)
    better: Literal["higher", "lower"] | None = None
    suite: str | None = None
    uncorrected: bool = False

    @model_validator(mode="after")
    def _one_condition(self) -> Self:
        given = [self.at_most, self.at_least, self.no_worse_than_baseline]
        if sum(value is not None for value in given) != 1:
            raise ValueError(f"the rule on {self.metric} needs one of at_most, at_least and no_worse_than_baseline")
        if self.uncorrected and self.metric not in JUDGED_ON:
            raise ValueError(f"uncorrected is said of {' and '.join(JUDGED_ON)}, not of {self.metric}: leave it out")
        known = direction(self.metric)
        if self.no_worse_than_baseline is None:
            if self.better is not None:
                raise ValueError(f"better says nothing beside a bound: leave it out of the rule on {self.metric}")
        elif known is None and self.better is None:
            raise ValueError(f"whether more or less {self.metric} is better is not known: say better: higher or lower")
        elif known is not None and self.better is not None:
            raise ValueError(f"of {self.metric}, {known} is better, which is known: leave better out")
        return self

    @property
    def compares(self) -> bool:
        """Whether the rule looks at the baseline."""
        return self.no_worse_than_baseline is not None

    @property
    def limit(self) -> float:
        """The bound or the margin."""
        (value,) = (v for v in (self.at_most, self.at_least, self.no_worse_than_baseline) if v is not None)
        return value

    @property
    def lower_is_better(self) -> bool:
        """Whether the rule holds the metric down."""
        if self.compares:
            return (self.better or direction(self.metric)) == "lower"
        return self.at_most is not None


class Finding(NamedTuple):
    """What became of a rule. Of a comparison, `value`, `lower` and `upper` are of candidate - baseline.

    `more_prompts` is 0 when decided, None when no reasonable number decides. Bounds are one-sided, at the gate's
    confidence; `paired` is None for a rule that compares nothing. `flagged` is what the grader flagged where the rule
    is about rates corrected for its errors: `value` is then corrected, NaN where they allow no such rate (`why`).
    `grader` says how far the grader can be believed.
    """

    rule: Rule
    status: Status
    value: float
    lower: float
    upper: float
    rate: bool
    n_prompts: int
    more_prompts: int | None
    candidate: float
    baseline: float | None = None
    paired: bool | None = None
    flagged: float | None = None
    why: str = ""
    grader: str = ""

    @property
    def edge(self) -> float:
        """What `value` must keep to: the bound, or the margin on the side that is worse than the baseline."""
        return -self.rule.limit if self.rule.compares and not self.rule.lower_is_better else self.rule.limit


class GateVerdict(NamedTuple):
    """All findings and what they come to: fail where any rule fails, else undecided where any is, else pass."""

    status: Status
    findings: tuple[Finding, ...]
    candidate: Side
    baseline: Side | None
    confidence: float


def judge(
    rules: Sequence[Rule], candidate: Side, baseline: Side | None, *, confidence: float = 0.95, unpaired: bool = False
) -> GateVerdict:
    """Hold a candidate against all rules; with a baseline, only where both were measured in the same way.

    `unpaired` lets a rule compare results without stored answers, by their intervals alone (wider). Raises SettingError
    and DataError as `Side.holding`, `require_same` and the rules' own conditions say.
    """
    if not 0.5 < confidence < 1:
        raise SettingError(f"confidence must lie between 0.5 and 1, got {confidence:g}")
    if baseline is not None:
        require_same(candidate, baseline)
    findings = tuple(
        _compared(rule, candidate, _needed(rule, baseline), confidence=confidence, unpaired=unpaired)
        if rule.compares
        else _bounded(rule, candidate, confidence=confidence)
        for rule in rules
    )
    found = {finding.status for finding in findings}
    status: Status = "fail" if "fail" in found else "undecided" if "undecided" in found else "pass"
    return GateVerdict(status, findings, candidate, baseline, confidence)


def _needed(rule: Rule, baseline: Side | None) -> Side:
    if baseline is None:
        raise SettingError(f"the rule on {rule.metric} compares with a baseline, and none is given: --baseline")
    return baseline


def _measured(side: Side, rule: Rule) -> tuple[Result, Estimate]:
    """The result and estimate that a rule is about, of a corrected rate that of the flags behind it.

    Refuses one of which too much, or all, went unscored.
    """
    result, metric = side.holding(rule.metric, suite=rule.suite), as_flagged(rule.metric)
    if metric not in result["metrics"]:
        raise DataError(f"{side.where} has {rule.metric} of {side.label!r} without {metric}, which it corrects")
    found, unscored = estimate_of(result, metric), result["metrics"][metric]["unscored"]
    if found is None:
        raise DataError(f"{side.where}: nothing of {rule.metric} of {side.label!r} was scored")
    if unscored > MOST_UNSCORED * (found.n + unscored):
        raise DataError(
            f"{side.where}: {unscored} of {found.n + unscored} answers of {side.label!r} have no verdict on "
            f"{rule.metric}, more than {MOST_UNSCORED:.0%}, so the rest decides nothing"
        )
    return result, found


def _bounded(rule: Rule, side: Side, *, confidence: float) -> Finding:
    """A bound on the candidate's own figure."""
    result, found = _measured(side, rule)
    known = None if rule.uncorrected else correction_of(side, rule.metric, result)
    said = belief((side,), rule.metric, result, corrected=known is not None and known.counts is not None)
    return _held(rule, side, result, found, known, confidence=confidence)._replace(grader=said)


def _held(
    rule: Rule, side: Side, result: Result, found: Estimate, known: Correction | None, *, confidence: float
) -> Finding:
    if known is not None:
        return _corrected(rule, found, known, confidence=confidence)
    if found.kind == "rate":
        return _rate_bounded(rule, found, confidence=confidence)
    low, high = _bounds(found, side.values(rule.metric, result), rule, side, confidence=confidence)
    share = found.kind in SHARES
    open_case = Finding(rule, "undecided", found.mean, low, high, share, found.n_prompts, None, found.mean)
    return _settled(open_case, certain=low == high)


def _require_share(rule: Rule) -> None:
    if not 0 < rule.limit < 1:
        raise SettingError(f"{rule.metric} is a rate, so its limit must lie between 0 and 1, got {rule.limit:g}")


def _corrected(rule: Rule, found: Estimate, known: Correction, *, confidence: float) -> Finding:
    """A rate of flags against its limit, corrected for the grader's errors by `decide_corrected`; open where these
    allow no such rate.
    """
    _require_share(rule)
    blank = math.nan
    open_case = Finding(rule, "undecided", blank, blank, blank, True, found.n_prompts, None, blank, flagged=found.mean)
    if known.counts is None:
        return open_case._replace(why=known.why)
    try:
        verdict = decide_corrected(found, known.counts, target=rule.limit, confidence=confidence)
    except DataError:  # false alarms may exclude a rate that they allowed at the metric's confidence
        return open_case._replace(why=NOT_ALLOWED)
    rate = verdict.rate
    return _settled(
        open_case._replace(value=rate, lower=verdict.lower, upper=verdict.upper, candidate=rate), certain=False
    )


def _rate_bounded(rule: Rule, found: Estimate, *, confidence: float) -> Finding:
    """A rate against its limit, by `decide`; at least x of something is at most 1 - x of its opposite."""
    _require_share(rule)
    if rule.lower_is_better:
        verdict = decide(found, target=rule.limit, confidence=confidence)
        low, high = verdict.lower, verdict.upper
    else:
        opposite = dataclasses.replace(found, mean=1 - found.mean, low=None, high=None)
        verdict = decide(opposite, target=1 - rule.limit, confidence=confidence)
        low, high = 1 - verdict.upper, 1 - verdict.lower
    more, status = verdict.more_prompts, _DECIDED[verdict.status]
    return Finding(rule, status, found.mean, low, high, True, found.n_prompts, more, found.mean)


def _bounds(found: Estimate, values: Values | None, rule: Rule, side: Side, *, confidence: float) -> Bounds:
    """One-sided bounds of a figure: exact for rates, from the answers where they are stored, else from its interval.

    A stored interval may be wider than asked, never narrower.
    """
    if found.kind == "rate":
        hits, worth = found.mean * found.n_effective, found.n_effective
        return lower_bound(hits, worth, confidence=confidence), upper_bound(hits, worth, confidence=confidence)
    level = 2 * confidence - 1
    if values is not None:
        strata = None if values.kinds is None else [values.kinds[prompt] for prompt in values.prompts]
        found = mean(values.values, values.prompts, strata=strata, level=level)
    elif found.level < level:
        raise SettingError(
            f"{side.where} has a {found.level:.0%} interval of {rule.metric} and no answers to compute another from, "
            f"and confidence {confidence:g} needs one of {level:.0%}"
        )
    return _ends(found)


def _ends(found: Estimate) -> Bounds:
    return (-math.inf if found.low is None else found.low), (math.inf if found.high is None else found.high)


def _compared(rule: Rule, ours: Side, theirs: Side, *, confidence: float, unpaired: bool) -> Finding:
    """The margin to the baseline, on the prompts that both answered.

    Of a rate whose grader's errors are known the margin is of true rates: the error is split evenly between the
    difference of flags and the grader (`corrected_difference`).
    """
    (our_result, our), (their_result, their) = _measured(ours, rule), _measured(theirs, rule)
    metric, known = as_flagged(rule.metric), None
    if not rule.uncorrected:
        corrections = (correction_of(ours, metric, our_result), correction_of(theirs, metric, their_result))
        known = shared_correction(*corrections)
    asked, confidence = confidence, confidence if known is None else (1 + confidence) / 2
    our_values, their_values = ours.values(metric, our_result), theirs.values(metric, their_result)
    share, paired = our.kind in SHARES, our_values is not None and their_values is not None
    if our_values is not None and their_values is not None:
        found, agree = by_prompt(our_values, their_values, rate=our.kind == "rate", level=2 * confidence - 1)
        gap, n, (low, high) = found.mean, found.n_prompts, _ends(found)
    elif unpaired:
        a = _bounds(our, our_values, rule, ours, confidence=confidence)
        b = _bounds(their, their_values, rule, theirs, confidence=confidence)
        gap, n, agree = our.mean - their.mean, min(our.n_prompts, their.n_prompts), False
        low, high = apart(our.mean, a, their.mean, b)
    else:
        lacking = theirs if their_values is None else ours
        raise DataError(
            f"comparing {metric} prompt by prompt needs its answers in answers.jsonl beside {lacking.where}, and "
            "there are none: evaluate it anew, or set unpaired: true to compare the two figures alone (wider bounds)"
        )
    told = belief((ours, theirs), metric, our_result, corrected=known is not None and known.counts is not None)
    open_case = Finding(
        rule, "undecided", gap, low, high, share, n, None, our.mean, their.mean, paired, grader=told,
        flagged=None if known is None else gap,
    )  # fmt: skip
    if known is not None:
        if known.counts is None:
            return open_case._replace(value=math.nan, lower=math.nan, upper=math.nan, why=known.why)
        gap, low, high = corrected_difference(gap, (low, high), known.counts, confidence=asked)
        open_case = open_case._replace(value=gap, lower=low, upper=high)
    return _settled(open_case, certain=agree)


def _settled(finding: Finding, *, certain: bool) -> Finding:
    """The finding with its status, and about how many prompts more would decide an open one if its figure stays.

    Bounds close in with the root of the number of prompts; those of pairs that all agree with the number itself. Where
    a grader is corrected for, no number of prompts makes it better known.
    """
    edge, value = finding.edge, finding.value
    keeps, breaks = (finding.upper, finding.lower) if finding.rule.lower_is_better else (-finding.lower, -finding.upper)
    edge, value = (edge, value) if finding.rule.lower_is_better else (-edge, -value)
    if keeps <= edge:
        return finding._replace(status="pass", more_prompts=0)
    if breaks > edge:
        return finding._replace(status="fail", more_prompts=0)
    reach, room = (keeps - value, edge - value) if value <= edge else (value - breaks, value - edge)
    if room <= 0 or not math.isfinite(reach) or finding.flagged is not None:
        return finding
    needed = finding.n_prompts * (reach / room) ** (1 if certain else 2)
    more = None if needed > FARTHEST else max(1, math.ceil(needed) - finding.n_prompts)
    return finding._replace(more_prompts=more)
