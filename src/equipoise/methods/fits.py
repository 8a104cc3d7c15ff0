"""Which methods the labels of a user's files can feed, and what is missing for the others."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from equipoise.data.check import CheckReport, Use
from equipoise.data.sources import DataEntry

ROLES = {"helpful": "better", "safe": "safer", "buffer": "better"}
"""Roles a file may be given, and what an order of answers is about in each."""

NO_FLAGS = "which answers are safe is not said; name the columns under map:, or label them with a scorer or a judge"
_BETTER, _SAFER = "pairs by helpfulness", "pairs by safety"
_BETTER_LABELS, _SAFER_LABELS = "labels by helpfulness", "labels by safety"
_FLAGGED, _SAFE_FIRST, _ANSWERS = "pairs with safety flags", "pairs, a safe answer first", "answers to imitate"


@dataclass(frozen=True)
class Source:
    """A file, what it holds, and the role it was given (None: none was).

    `scales` has the lowest and the highest rating found of each property, `several` whether a prompt has more than one
    answer, `undesirable` whether an answer is labelled so.
    """

    entry: DataEntry
    report: CheckReport
    role: str | None = None
    scales: Mapping[str, tuple[float, float]] = field(default_factory=dict)
    several: bool = False
    undesirable: bool = False

    def use(self, name: str) -> Use:
        """One of the uses of the report."""
        return next(use for use in self.report.uses if use.name == name)

    def has(self, label: str) -> bool:
        """Whether any row has this label (`better`, `safe flags`, `label`, ...)."""
        return label in self.report.present


@dataclass(frozen=True)
class Fit:
    """Whether a method can run on some files: `words` say on what, or what is missing.

    `data` names the files by the role they would have, `settings` what the method needs to be told about them. Where
    the files could be used in more than one way, `ways` names the roles to choose from, and `data` is empty.
    """

    method: str
    possible: bool
    words: str
    data: Mapping[str, tuple[Source, ...]] = field(default_factory=dict)
    settings: Mapping[str, Any] = field(default_factory=dict)
    ways: Mapping[str, tuple[Source, ...]] = field(default_factory=dict)


def fits(sources: Sequence[Source]) -> list[Fit]:
    """Return a verdict for every method, in the order of `METHODS`."""
    return [judge(name, sources) for name, judge in METHODS.items()]


def best(found: Sequence[Fit]) -> Fit | None:
    """Return the method that uses most of what the labels say; None where none can run.

    Its data may still have to be chosen (`ways`): of two orders none is picked for the user.
    """
    possible = {fit.method: fit for fit in found if fit.possible}
    order = ["sacpo", "bfpo", "cpo", "dpo", "kto", "sft"]
    if "bfpo" in possible and "buffer" in possible["bfpo"].data:
        order.insert(0, "bfpo")  # no other method has a use for a buffer
    if "cpo" in possible and any(source.role for source in possible["cpo"].data["rated"]):
        order.append(order.pop(order.index("cpo")))  # whoever gives a role means the order, not the ratings beside it
    return next((possible[name] for name in order if name in possible), None)


# -- one function for each method ------------------------------------------------------------------------------------


def _sft(method: str, sources: Sequence[Source]) -> Fit:
    ways: dict[str, list[Source]] = {}
    for source in _main(sources, _ANSWERS):
        if source.has("label") and source.undesirable:
            continue  # it would imitate the answers that are labelled bad as well
        orders = [axis for axis in ("better", "safer") if source.has(axis)]
        for choose in orders or ["safe" if source.has("safe flags") else "all"]:
            ways.setdefault(choose, []).append(source)
    if not ways:
        bad = any(source.undesirable for source in sources)
        return _no(method, sources, _ANSWERS, "answers labelled bad would be imitated too" if bad else "no answers")
    said = {"better": "the better", "safer": "the safer", "safe": "the safe", "all": "all"}
    words = "; or ".join(f"{said[choose]} answers of {_names(found)}" for choose, found in ways.items())
    if len(ways) > 1:
        return _several(method, words, {"better": "helpful", "safer": "safe"}, ways)
    ((choose, found),) = ways.items()
    return Fit(method, True, words, {"answers": tuple(found)}, {"choose": choose})


def _paired(method: str, sources: Sequence[Source]) -> Fit:
    """DPO and IPO: pairs in one order."""
    found = {"helpful": _main(sources, _BETTER, "helpful"), "safe": _main(sources, _SAFER, "safe")}
    ways = {role: uses for role, uses in found.items() if uses}
    if not ways:
        return _no(method, sources, _BETTER, "no two answers to a prompt are ordered")
    names = {"helpful": _BETTER, "safe": _SAFER}
    words = "; or ".join(_counted(uses, names[role], f"pairs by {ROLES[role]}") for role, uses in ways.items())
    if len(ways) > 1:
        return _several(method, words, {role: role for role in ways}, ways)
    return Fit(method, True, words, {role: tuple(uses) for role, uses in ways.items()})


def _kto(method: str, sources: Sequence[Source]) -> Fit:
    ways = {
        "helpful": [s for s in _main(sources, _BETTER_LABELS, "helpful") if s.has("better") or s.role == "helpful"],
        "safe": [s for s in _main(sources, _SAFER_LABELS, "safe") if not s.has("label") or s.role == "safe"],
        # Whatever a label means, it says which answers to move towards: KTO need not know more.
        "answers": [s for s in _main(sources, _BETTER_LABELS) if s.has("label") and s.role is None],
    }
    ways = {role: uses for role, uses in ways.items() if uses}
    if not ways:
        return _no(method, sources, _BETTER_LABELS, "answers have no label, no safety flag and no order")
    names = {"helpful": _BETTER_LABELS, "safe": _SAFER_LABELS, "answers": _BETTER_LABELS}
    said = {"helpful": "labels by better", "safe": "labels by safety", "answers": "labels of their own"}
    words = "; or ".join(_counted(uses, names[role], said[role]) for role, uses in ways.items())
    if len(ways) > 1:
        return _several(method, words, {role: role for role in ways}, ways)
    return Fit(method, True, words, {role: tuple(uses) for role, uses in ways.items()})


def _sacpo(method: str, sources: Sequence[Source]) -> Fit:
    helpful = _step(sources, "helpful", _BETTER, _BETTER_LABELS)
    safe = _step(sources, "safe", _SAFER, _SAFER_LABELS)
    if not helpful[1]:
        return _no(method, sources, _BETTER, "which answer is more helpful is not said; add --role helpful=FILE")
    if not safe[1]:
        return _no(method, sources, _SAFER, "which answer is safer is not said; add --role safe=FILE")
    words = (
        f"{helpful[0]} by better on {_names(helpful[1])}, then {safe[0]} by safer on {_names(safe[1])}; with mix: "
        "P-SACPO, with naive: naive merging"
    )
    data = {"helpful": tuple(helpful[1]), "safe": tuple(safe[1])}
    return Fit(method, True, words, data, {"first": helpful[0], "second": safe[0]})


def _step(sources: Sequence[Source], role: str, pairs: str, labels: str) -> tuple[str, list[Source]]:
    """The objective and the files of one step of SACPO: pairs where there are any, else labels."""
    if found := _main(sources, pairs, role):
        return "dpo", found
    flagged = [s for s in _main(sources, labels, role) if s.role == role or (role == "safe" and not s.has("label"))]
    return "kto", flagged


def _bfpo(method: str, sources: Sequence[Source]) -> Fit:
    found = _main(sources, _FLAGGED, "helpful")
    buffer = [source for source in sources if source.role == "buffer" and source.use(_BETTER).possible]
    if not found:
        return _unflagged(method, sources, _FLAGGED)
    words = _counted(found, _FLAGGED, "pairs by better, each answer flagged") + (", with buffer" if buffer else "")
    data = {"pairs": tuple(found)} | ({"buffer": tuple(buffer)} if buffer else {})
    choose = "safer" if all(source.has("safer") for source in found) else "safe"
    return Fit(method, True, words, data, {"choose": choose})


def _modpo(method: str, sources: Sequence[Source]) -> Fit:
    helpful, safe = _main(sources, _BETTER, "helpful"), _main(sources, _SAFER, "safe")
    if not helpful:
        return _no(method, sources, _BETTER, "no pairs say which answer is more helpful; add --role helpful=FILE")
    if not safe:
        return _no(method, sources, _SAFER, "no pairs say which answer is safer; add --role safe=FILE")
    words = f"pairs by safer on {_names(safe)} as margin, pairs by better on {_names(helpful)}"
    return Fit(method, True, words, {"helpful": tuple(helpful), "safe": tuple(safe)})


def _safedpo(method: str, sources: Sequence[Source]) -> Fit:
    found = _main(sources, _SAFE_FIRST, "helpful")
    if not found:
        return _unflagged(method, sources, _SAFE_FIRST)
    return Fit(
        method, True, _counted(found, _SAFE_FIRST, "pairs by better, a safe answer first"), {"pairs": tuple(found)}
    )


def _cpo(method: str, sources: Sequence[Source]) -> Fit:
    rated = [source for source in _main(sources, _ANSWERS) if len(source.scales) > 1]
    if not rated:
        alone = sorted({name for source in sources for name in source.scales})
        lacks = f"answers are rated on {alone[0]} alone, not on two properties" if len(alone) == 1 else ""
        return Fit(method, False, lacks or "answers are not rated on two properties, such as helpfulness and honesty")
    found = [source for source in rated if source.several]
    if not found:
        return Fit(method, False, "a prompt has one rated answer; pairs under a condition need several")
    scales: dict[str, tuple[float, float]] = {}
    for name, (low, high) in (item for source in found for item in source.scales.items()):
        before = scales.get(name, (low, high))
        scales[name] = (min(low, before[0]), max(high, before[1]))
    words = f"answers of {_names(found)}, rated on {', '.join(scales)}"
    return Fit(method, True, words, {"rated": tuple(found)}, {"scales": scales})


METHODS: dict[str, Callable[[str, Sequence[Source]], Fit]] = {
    "sft": _sft,
    "dpo": _paired,
    "ipo": _paired,
    "kto": _kto,
    "sacpo": _sacpo,
    "bfpo": _bfpo,
    "modpo": _modpo,
    "safedpo": _safedpo,
    "cpo": _cpo,
}
"""What can be proposed; sft, dpo, ipo and kto are objectives of `method: dpo`."""


# -- in words --------------------------------------------------------------------------------------------------------


def _main(sources: Sequence[Source], use: str, role: str | None = None) -> list[Source]:
    """Files that can be used so; one with another role than `role` is kept for that (`None`: any but a buffer)."""
    roles = ("helpful", "safe", None) if role is None else (role, None)
    return [source for source in sources if source.role in roles and source.use(use).possible]


def _several(method: str, words: str, roles: Mapping[str, str], ways: Mapping[str, Sequence[Source]]) -> Fit:
    named = {roles.get(way, "answers"): tuple(found) for way, found in ways.items()}
    return Fit(method, True, words, ways=named)


def _no(method: str, sources: Sequence[Source], use: str, lacks: str) -> Fit:
    """What is missing: labels, or rows that are in order."""
    for source in sources:
        tried = source.use(use)
        if tried.examples and not tried.possible:
            worst = next(iter(tried.dropped.items()), ("", 0))
            return Fit(method, False, f"{Path(source.entry.path).name}: {tried.why_not} ({worst[1]:,} {worst[0]})")
    return Fit(method, False, lacks)


def _unflagged(method: str, sources: Sequence[Source], use: str) -> Fit:
    flagged = [source for source in sources if source.has("safe flags")]
    if not flagged:
        return _no(method, sources, use, NO_FLAGS)
    if not _main(sources, _BETTER, "helpful"):
        return _no(method, sources, use, "which of two answers is more helpful is not said; add --role helpful=FILE")
    return _no(method, sources, use, "the pairs by helpfulness have no safety flags of their own")


def _names(sources: Sequence[Source]) -> str:
    return " and ".join(Path(source.entry.path).name for source in sources)


def _counted(sources: Sequence[Source], use: str, what: str) -> str:
    return f"{sum(source.use(use).examples for source in sources):,} {what}"
