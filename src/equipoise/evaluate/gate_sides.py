"""The sides of a gate: a model's verdict results with its stored answers, and whether two of them can be compared."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

from equipoise.errors import DataError, SettingError, nearest
from equipoise.evaluate.suites import KINDS
from equipoise.evaluate.verdicts import JUDGED_ON
from equipoise.statistics import Estimate, difference, score_bounds
from equipoise.statistics.intervals import prompt_means

Result = Mapping[str, Any]
Row = Mapping[str, Any]
Better = Literal["higher", "lower"]

SAME = ("suite", "prompts", "template", "system_prompt", "sampling", "judge", "world")
"""Fields that must be equal on both sides; of the sampling all but its seed."""

DIRECTIONS: Mapping[str, Better] = {
    "unsafe_rate": "lower",
    "unsafe_rate_corrected": "lower",
    "over_refusal": "lower",
    "over_refusal_corrected": "lower",
    "cost": "lower",
    "kl": "lower",
    "reward": "higher",
    "win_rate": "higher",
    "win_rate_safer": "higher",
    "honesty": "higher",
    "hhh": "higher",
    "capability": "higher",
    "choice_helpful": "higher",
    "choice_harmless": "higher",
}
"""Which way a metric is better, by its name up to `/`, `@` or the kind of prompt."""

SHARES = ("rate", "corrected", "share")  # kinds of metric that are shares of the whole
_AGREES = 1e-6  # figures that were written and those computed again differ by rounding alone


class Values(NamedTuple):
    """A metric's value of every scored answer, with its prompt and, where kinds of prompt weigh equally, its kind."""

    values: list[float]
    prompts: list[str]
    kinds: dict[str, str] | None


@dataclass(frozen=True)
class Side:
    """A model's verdict results by suite; `answers` are its rows of answers.jsonl, None where they were not stored.

    `chosen` says that it was not named but is the one of several that its results mark.
    """

    label: str
    where: str
    results: Mapping[str, Result]
    answers: Sequence[Row] | None
    judges: Sequence[Mapping[str, Any]] = ()
    chosen: bool = False

    def holding(self, metric: str, *, suite: str | None = None) -> Result:
        """The result that holds a metric.

        Raises SettingError with the nearest name for an unknown metric or suite, or one that several suites have.
        """
        if suite is not None and suite not in self.results:
            raise SettingError(f"{self.where} has no suite '{suite}'{nearest(suite, self.results)}")
        looked = {suite: self.results[suite]} if suite is not None else self.results
        found = [name for name, result in looked.items() if metric in result["metrics"]]
        if not found:
            known = sorted({name for result in looked.values() for name in result["metrics"]})
            raise SettingError(f"{self.where} has no metric '{metric}' of {self.label!r}{nearest(metric, known)}")
        if len(found) > 1:
            raise SettingError(f"'{metric}' is measured by the suites {' and '.join(found)}: name one with suite")
        return self.results[found[0]]

    def values(self, metric: str, result: Result) -> Values | None:
        """What each stored answer says of a metric of `result`; None where no answers are stored, or none say it.

        Raises DataError where the answers give another mean than the result holds.
        """
        if self.answers is None:
            return None
        read = _reader(metric, self.judges)
        if read is None:
            return None
        rows = [row for row in self.answers if row.get("suite", result["suite"]) == result["suite"] and read.takes(row)]
        scored = [(row, value) for row in rows if (value := read.value(row)) is not None]
        if not scored:
            return None
        kinds = {str(row["prompt_id"]): str(row["kind"]) for row, _ in scored} if read.by_kind else None
        found = Values([value for _, value in scored], [str(row["prompt_id"]) for row, _ in scored], kinds)
        self._check_mean(metric, result, found)
        return found

    def _check_mean(self, metric: str, result: Result, found: Values) -> None:
        said, seen = result["metrics"][metric]["mean"], mean_of(found)
        if said is None or not math.isclose(said, seen, rel_tol=_AGREES, abs_tol=_AGREES):
            raise DataError(
                f"{self.where} says {metric} {said} of {self.label!r} and the answers beside it {seen:g}: they do not "
                "belong together"
            )


def mean_of(found: Values) -> float:
    """Mean over answers; the mean of the kinds' means where these weigh equally."""
    if found.kinds is None:
        return math.fsum(found.values) / len(found.values)
    by_kind: dict[str, list[float]] = {}
    for value, prompt in zip(found.values, found.prompts, strict=True):
        by_kind.setdefault(found.kinds[prompt], []).append(value)
    return math.fsum(math.fsum(own) / len(own) for own in by_kind.values()) / len(by_kind)


def by_prompt(first: Values, second: Values, *, rate: bool, level: float) -> tuple[Estimate, bool]:
    """first - second by prompt with a two-sided interval, and whether all prompts differ alike.

    Of a rate the ends are the wider of the bootstrap's and the score's: with a handful of prompts on which the two
    differ, a bootstrap alone would let a model pass that is worse than a margin twice as often as said.
    """
    found = difference(first.values, first.prompts, second.values, second.prompts, strata=first.kinds, level=level)
    own, other = prompt_means(first.values, first.prompts), prompt_means(second.values, second.prompts)
    gaps = [own[prompt] - other[prompt] for prompt in own if prompt in other]
    if rate:
        more, less = math.fsum(max(gap, 0.0) for gap in gaps), math.fsum(max(-gap, 0.0) for gap in gaps)
        low, high = score_bounds(more, less, len(gaps), confidence=(1 + level) / 2)
        low = low if found.low is None else min(low, found.low)
        high = high if found.high is None else max(high, found.high)
        found = dataclasses.replace(found, low=low, high=high)
    return found, max(gaps) == min(gaps)


class _Reader(NamedTuple):
    """Which answers a metric is about, and what it reads of one."""

    takes: Callable[[Row], bool]
    value: Callable[[Row], float | None]
    by_kind: bool


def _reader(metric: str, judges: Sequence[Mapping[str, Any]]) -> _Reader | None:
    """How to read a metric off single answers; None for those that only a whole result has."""
    plain, _, grader = metric.partition("@")
    name, _, category = plain.partition("/")
    if name in JUDGED_ON:
        kind = JUDGED_ON[name]
        if not grader:
            first = (one["name"] for one in judges if one["measures"] == name and one.get("first"))
            grader = next(first, "")

        def about(row: Row) -> bool:
            return bool(row["kind"] == kind) and (not category or row.get("category") == category)

        return _Reader(about, lambda row: _hit(row, name, grader), by_kind=False)
    column, _, of = name.partition("_")
    if column not in _COLUMNS or category or grader or (of and of not in KINDS):
        return None
    return _Reader(lambda row: not of or row["kind"] == of, _COLUMNS[column], by_kind=not of)


def _hit(row: Row, measures: str, grader: str) -> float | None:
    """Whether a grader found the fault, 1 or 0; without graders, what the row's own columns say."""
    if grader:
        value = (row.get("verdicts") or {}).get(grader, {}).get("value")
        return None if value is None else float(value)
    if measures == "unsafe_rate":
        return None if row.get("cost") is None else float(row["cost"] > 0)
    return None if row.get("refused") is None else float(row["refused"])


def _kl(row: Row) -> float | None:
    own, base = row.get("logp"), row.get("ref_logp")
    return None if own is None or base is None else float(own - base)


_COLUMNS: Mapping[str, Callable[[Row], float | None]] = {
    "reward": lambda row: row.get("reward"),
    "cost": lambda row: row.get("cost"),
    "length": lambda row: row.get("n_tokens"),
    "kl": _kl,
}


def direction(metric: str) -> Better | None:
    """Which way a metric is better; None where that is not known."""
    name = metric.partition("@")[0].partition("/")[0]
    if name in DIRECTIONS:
        return DIRECTIONS[name]
    kind = next((kind for kind in KINDS if name.endswith(f"_{kind}")), None)
    return DIRECTIONS.get(name.removesuffix(f"_{kind}")) if kind else None


def side_of(document: Mapping[str, Any], label: str | None, *, where: str, answers: Iterable[Row] | None) -> Side:
    """The verdict results of one model in a results.json; `label` may be 'chosen', or None where there is one model.

    `where` is what refusals call the document; `answers` are all rows of the answers.jsonl beside it, if there is one.
    """
    verdict = [result for result in document["results"] if result["split"] == "verdict"]
    labels = list(dict.fromkeys(str(result["label"]) for result in verdict))
    if not labels:
        raise DataError(f"{where} has no verdict results, and a gate looks at no others")
    marked = list(dict.fromkeys(str(result["label"]) for result in verdict if result.get("chosen")))
    if label is None:
        usable = marked if len(marked) == 1 else labels
        if len(usable) != 1:
            raise SettingError(
                f"{where} holds {len(labels)} models and marks {len(marked)} as chosen: set candidate_model to one of "
                f"{_list(labels)}"
            )
        name = usable[0]
    elif label == "chosen" and "chosen" not in labels:
        if len(marked) != 1:
            raise SettingError(
                f"{where} marks {len(marked)} models as chosen, expected one: name one of {_list(labels)}"
            )
        name = marked[0]
    else:
        name = label
        if name not in labels:
            raise SettingError(f"{where} has no verdict results of a model '{name}'{nearest(name, labels)}")
    results: dict[str, Result] = {}
    for result in verdict:
        if result["label"] != name:
            continue
        if result["suite"] in results:
            raise DataError(f"{where} has two verdict results of {name!r} on suite {result['suite']!r}, expected one")
        results[result["suite"]] = result
    own = None if answers is None else _own(answers, name, where)
    judges, chosen = tuple(document.get("judges") or ()), len(labels) > 1 and label != name
    return Side(name, where, results, own or None, judges, chosen)


def _own(answers: Iterable[Row], label: str, where: str) -> list[Row]:
    answers = list(answers)
    for number, row in enumerate(answers, start=1):
        missing = [key for key in ("model", "prompt_id", "kind") if key not in row]
        if missing:
            raise DataError(f"line {number} of the answers beside {where} lacks {', '.join(missing)}")
    return [row for row in answers if row.get("model") == label and row.get("split", "verdict") == "verdict"]


def _list(names: Sequence[str]) -> str:
    return ", ".join(names)


def require_same(candidate: Side, baseline: Side) -> None:
    """Refuse sides that were measured differently: suites, prompts, template, system prompt, sampling, judge, world."""
    if set(candidate.results) != set(baseline.results):
        raise DataError(_differ("suite", _list(sorted(candidate.results)), _list(sorted(baseline.results))))
    for suite, ours in candidate.results.items():
        require_same_result(ours, baseline.results[suite])


def require_same_result(candidate: Result, baseline: Result) -> None:
    """Refuse two results that differ in a field of `SAME`, naming it and both values."""
    for field in SAME:
        ours, theirs = as_compared(candidate, field), as_compared(baseline, field)
        if field == "prompts" and (ours is None or theirs is None):
            which = "candidate" if ours is None else "baseline"
            raise DataError(f"the {which}'s result does not say on which prompts it was measured, so nothing compares")
        if ours != theirs:
            of = "" if field == "suite" else f" on suite {candidate['suite']}"
            raise DataError(_differ(field, _shown(ours), _shown(theirs)) + of)


def as_compared(result: Result, field: str) -> Any:
    """A field of `SAME` as it is compared; the seed of a sampling draws other answers of the same distribution."""
    value = result.get(field)
    if field == "sampling" and isinstance(value, Mapping):
        return {key: given for key, given in value.items() if key != "seed"}
    return value


def _differ(field: str, ours: str, theirs: str) -> str:
    return f"{field} differs: the candidate has {ours}, the baseline {theirs}"


def _shown(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, sort_keys=True)
