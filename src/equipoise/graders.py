"""What a config says about graders of answers, and about answers that people labelled to hold them against."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Sequence
from typing import Literal, Self

from pydantic import model_validator

from equipoise.config import Config, Execution, canonical_json
from equipoise.data.human_labels import About
from equipoise.errors import SettingError
from equipoise.evaluate.refusals import VERSION as REFUSALS
from equipoise.evaluate.verdicts import MEASURED, Measures
from equipoise.judges import Endpoint
from equipoise.judges.guards import GUARDS, grader_of
from equipoise.scorers import ScorerUse
from equipoise.stages import model_input
from equipoise.store import FileInput

Kind = Literal["truth", "cost model", "guard", "rubric", "refusals", "function"]

TRUTH = "equipoise.playground.scorers:"
_REFUSING = ("refusal", "wildguard_refusal")
_SOURCES = ("scorer", "rubric", "refusals")


class GraderUse(Config):
    """One grader: a `scorer` (above 0 is the fault), a `rubric` at an `endpoint`, or the classifier of `refusals`.

    `measures` is what its verdicts are counted as: `unsafe_rate` on harmful prompts, `over_refusal` on borderline ones.
    More unscored answers than `max_unscored` are an error. `name` is how results call it.
    """

    name: str | None = None
    scorer: ScorerUse | None = None
    rubric: str | None = None
    endpoint: Endpoint | None = None
    refusals: bool = False
    measures: Measures | None = None
    max_unscored: float = Execution(0.01, ge=0, le=1)

    @model_validator(mode="after")
    def _one_source(self) -> Self:
        named = [name for name in _SOURCES if self.__dict__[name] not in (None, False)]
        if len(named) != 1:
            got = " and ".join(named) or "none of them"
            raise ValueError(f"a grader is exactly one of {', '.join(_SOURCES)}, got {got}")
        if (self.endpoint is None) != (self.rubric is None):
            raise ValueError("rubric and endpoint belong together: what is asked, and who is asked it")
        if self.rubric is not None:
            grader_of(self.rubric)
        if self.scorer is not None and self.scorer.max_unscored != ScorerUse.model_fields["max_unscored"].default:
            raise ValueError("max_unscored of a grader stands beside scorer, not in it")
        if self.refusals and self.max_unscored != type(self).model_fields["max_unscored"].default:
            raise ValueError("max_unscored does nothing for refusals, which always have a verdict")
        if self.scorer is None and self.measures not in (None, self.measured):
            raise ValueError(f"{self.rubric or 'refusals'} measures {self.measured}, got measures: {self.measures}")
        if self.name is not None and (not self.name.strip() or " + " in self.name or "/" in self.name):
            raise ValueError(f"name is some text without '/' and ' + ', got '{self.name}'")
        return self

    @property
    def measured(self) -> Measures:
        """What its verdicts are counted as."""
        if self.scorer is not None:
            return self.measures or "unsafe_rate"
        return "over_refusal" if self.refusals or self.rubric in _REFUSING else "unsafe_rate"

    @property
    def kind(self) -> Kind:
        """What it is, as results tell it."""
        if self.scorer is None:
            return "refusals" if self.refusals else "guard" if self.rubric in GUARDS else "rubric"
        if self.scorer.function is not None:
            return "truth" if self.scorer.function.startswith(TRUTH) else "function"
        return "guard" if self.scorer.label is not None else "cost model"

    @property
    def version(self) -> str:
        """Of a rubric its number, of a scorer 8 digits of a hash of what it is and of how it reads answers."""
        if self.scorer is None:
            return str(REFUSALS if self.rubric is None else grader_of(self.rubric).version)
        return _fingerprint(self.scorer)

    @property
    def model(self) -> str | None:
        """Which model gives the verdicts, where one does."""
        if self.scorer is None:
            return None if self.endpoint is None else self.endpoint.model
        return self.scorer.location or self.scorer.served_model

    @property
    def title(self) -> str:
        """How results call it: `name`, or what it is with its version, so that a changed one is told apart."""
        if self.name is not None:
            return self.name
        if self.kind == "truth":
            return "truth"
        if self.scorer is not None:
            return scorer_title(self.scorer)
        if self.rubric is None:
            return f"refusals v{self.version}"
        return f"{self.rubric} v{self.version} by {self.model}".replace("/", " ")


def scorer_title(scorer: ScorerUse) -> str:
    """How results call a scorer: two that may say different things of an answer have different names."""
    return f"{_called(scorer)} {_fingerprint(scorer)}"


def _fingerprint(scorer: ScorerUse) -> str:
    """8 digits of a hash over the content of a local model or function, else its name or address, and its settings."""
    told = {name: value for name, value in scorer.canonical().items() if name != "function" or not scorer.source}
    place = None if scorer.location is None else model_input(scorer.location)
    if isinstance(place, FileInput):
        told[scorer.kind] = place.id
    if scorer.function is not None:
        told["name"] = scorer.function.rpartition(":")[2]
    return hashlib.sha256(canonical_json(told).encode()).hexdigest()[:8]


def _called(scorer: ScorerUse) -> str:
    """A scorer by the end of its path or address, and by the label that it reads."""
    place = next(one for one in (scorer.location, scorer.function, scorer.endpoint) if one is not None)
    *before, last = [part for part in place.split("/") if part]
    if last == "model" and before:  # a stage's directory, or a run's
        last = before[-1]
    return last if scorer.label is None else f"{last} {scorer.label}".replace("/", " ")


class LabelsUse(Config):
    """Answers that people labelled: a file of prompt, response and a label each, `about` a fault.

    `columns` hold one label each (several annotators: the majority counts); without it, the column called as `about`.
    """

    path: str = Execution(...)
    about: About
    columns: tuple[str, ...] = ()


def check_graders(graders: Sequence[GraderUse], labels: Sequence[LabelsUse] = ()) -> None:
    """Refuse two graders of one name, two sets of labels about the same, and labels that no grader is held against."""
    for title, times in Counter(grader.title for grader in graders).items():
        if times > 1:
            raise SettingError(f"graders: {times} of them are called '{title}': give each a name of its own")
    for about, times in Counter(one.about for one in labels).items():
        if times > 1:
            raise SettingError(f"labels: {times} entries are about: {about}, expected one")
        if not any(grader.measured == MEASURED[about] for grader in graders):
            raise SettingError(f"labels: about: {about} calibrates graders of {MEASURED[about]}, and there is none")
