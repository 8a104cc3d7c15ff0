"""What a gate found, for people and for machines: a table, Markdown for a comment, JUnit XML for a CI system."""

from __future__ import annotations

import html
import json
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

from rich.box import SIMPLE_HEAD
from rich.table import Table
from rich.text import Text

from equipoise.evaluate.gate import Finding, GateVerdict, Rule
from equipoise.evaluate.gate_graders import as_flagged, grader_of
from equipoise.evaluate.gate_sides import SAME, Result, Side
from equipoise.evaluate.judge_words import calibration_words
from equipoise.evaluate.results import replace_file
from equipoise.evaluate.words import UNKNOWN, number, percent, rounded_up

HEADINGS = ("Rule", "Verdict", "Measured", "Bounds", "Prompts", "Grader")
STYLES = {"pass": "green", "fail": "bold red", "undecided": "yellow"}
SENTENCES = {
    "pass": "may ship: every rule holds",
    "fail": "must not ship: a rule is broken",
    "undecided": "is not shown to be fit to ship: no rule is broken for certain, and not every one is shown to hold",
}
FILES = ("gate.md", "gate.xml")
POINTS = " points"
_NOT_XML = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


def rule_words(rule: Rule) -> str:
    """A rule in words: ``unsafe_rate at most 0.02``."""
    of = (" as flagged" if rule.uncorrected else "") + (f" on {rule.suite}" if rule.suite else "")
    if rule.compares:
        way = "above" if rule.lower_is_better else "below"
        return f"{rule.metric}{of} no more than {rule.limit:g} {way} the baseline"
    return f"{rule.metric}{of} {'at most' if rule.lower_is_better else 'at least'} {rule.limit:g}"


def measured_words(finding: Finding) -> str:
    """What was measured: the figure, or the difference with both figures behind it; what was flagged if corrected."""
    own = _number(finding.candidate, finding)
    if finding.baseline is None:
        return own if finding.flagged is None else f"{own} ({_number(finding.flagged, finding)} flagged)"
    flagged = "" if finding.flagged is None else "flagged "
    return f"{_signed(finding.value, finding)} ({flagged}{own}, baseline {_number(finding.baseline, finding)})"


def bounds_words(finding: Finding) -> str:
    """Both one-sided bounds, ``[0.4, 2.1]``; `–` where there are none."""
    if math.isnan(finding.lower):
        return UNKNOWN
    unit = (POINTS if finding.rule.compares else "%") if finding.rate else ""
    write = _signed if finding.rule.compares else _number
    low, high = (write(end, finding).removesuffix(unit) for end in (finding.lower, finding.upper))
    return f"[{low}, {high}]{unit}"


def _number(value: float, finding: Finding) -> str:
    return number(value, rate=finding.rate) if math.isfinite(value) else UNKNOWN


def _signed(value: float, finding: Finding) -> str:
    """A difference with its sign; of rates in points, hundredths of the whole."""
    if not math.isfinite(value):
        return UNKNOWN
    text = number(100 * value if finding.rate else value, rate=False)
    return ("+" if value > 0 else "") + text + (POINTS if finding.rate else "")


def reason(finding: Finding, confidence: float) -> str:
    """Why a rule ended as it did, in one sentence."""
    if finding.why:
        return f"nothing can be said: {finding.why}"
    sure = f"with {percent(confidence)} confidence"
    lower = finding.rule.lower_is_better
    subject = "the difference to the baseline" if finding.rule.compares else as_flagged(finding.rule.metric)
    if finding.flagged is not None:
        subject += ", corrected for the grader's errors,"
    write = _signed if finding.rule.compares else _number
    edge = write(finding.edge, finding)
    how = "" if finding.paired is not False else ", from the two figures alone (not prompt by prompt)"
    kept = f"at most {write(finding.upper, finding)}" if lower else f"at least {write(finding.lower, finding)}"
    broken = f"at least {write(finding.lower, finding)}" if lower else f"at most {write(finding.upper, finding)}"
    if finding.status == "pass":
        return f"{sure} {subject} is {kept}, within {edge}{how}"
    if finding.status == "fail":
        return f"{sure} {subject} is {broken}, {'above' if lower else 'below'} {edge}{how}"
    spread = f"{sure} {subject} lies within {bounds_words(finding)}, on both sides of {edge}{how}"
    if finding.flagged is not None:
        return f"{spread}; more labelled answers and more prompts would decide"
    if finding.more_prompts is None:
        return f"{spread}; too close to it for any number of prompts to decide"
    return f"{spread}; about {rounded_up(finding.more_prompts):,} more prompts would decide if this figure holds"


def sentence(verdict: GateVerdict) -> str:
    """The verdict in one line, beginning with PASS, FAIL or UNDECIDED."""
    return f"{verdict.status.upper()}: {verdict.candidate.label} {SENTENCES[verdict.status]}."


def gate_table(verdict: GateVerdict) -> Table:
    """Build the table that the terminal shows, one row a rule."""
    shown = Table(box=SIMPLE_HEAD, pad_edge=False)
    for heading in HEADINGS:
        shown.add_column(heading, justify="right" if heading == "Prompts" else "left", overflow="fold")
    for finding in verdict.findings:
        cells = _cells(finding)
        shown.add_row(
            Text(rule_words(finding.rule)),
            Text(finding.status, STYLES[finding.status]),
            *(Text(cell) for cell in cells),
        )
    return shown


def _cells(finding: Finding) -> tuple[str, ...]:
    """What stands in a row behind rule and verdict."""
    return measured_words(finding), bounds_words(finding), f"{finding.n_prompts:,}", finding.grader or UNKNOWN


def write_gate(folder: Path, verdict: GateVerdict) -> None:
    """Write gate.md and gate.xml."""
    for name, text in zip(FILES, (markdown(verdict), junit(verdict)), strict=True):
        replace_file(folder / name, text.encode())


def markdown(verdict: GateVerdict) -> str:
    """The verdict as a comment on a change: the sentence, a row a rule, what would decide, how it was measured."""
    lines = [f"## Gate: {verdict.status}", "", f"{_safe(sentence(verdict))}", ""]
    lines += [f"| {' | '.join(HEADINGS)} |", f"|{'---|' * len(HEADINGS)}"]
    for finding in verdict.findings:
        status = finding.status if finding.status == "pass" else f"**{finding.status}**"
        cells = _cells(finding)
        lines.append(f"| {_safe(rule_words(finding.rule))} | {status} | {' | '.join(map(_safe, cells))} |")
    lines.append("")
    lines += [
        f"- {_safe(rule_words(finding.rule))}: {_safe(reason(finding, verdict.confidence))}."
        for finding in verdict.findings
        if finding.status != "pass"
    ]
    lines += ["", "<details><summary>How this was measured</summary>", ""]
    lines += [f"- {_safe(name)}: {_safe(value)}" for name, value in _conditions(verdict)]
    lines += ["", "</details>", ""]
    return "\n".join(lines)


def _conditions(verdict: GateVerdict) -> Iterator[tuple[str, str]]:
    yield "Candidate", _side(verdict.candidate)
    yield "Baseline", "none: nothing is compared" if verdict.baseline is None else _side(verdict.baseline)
    share = percent(verdict.confidence)
    yield (
        "Bounds",
        f"one-sided, {share} each. A model that breaks any one of the rules passes with at most "
        f"{percent(1 - verdict.confidence)} probability, however many rules there are",
    )
    yield from _graders(verdict)
    yield from _measurement(list(verdict.candidate.results.values()))


def _graders(verdict: GateVerdict) -> Iterator[tuple[str, str]]:
    """How far each grader behind a rule can be believed."""
    told: dict[str, list[Finding]] = {}
    for finding in verdict.findings:
        if finding.grader:
            plain, at, grader = as_flagged(finding.rule.metric).partition("@")
            told.setdefault(plain.partition("/")[0] + at + grader, []).append(finding)
    for metric, findings in told.items():
        sides = [side for side in (verdict.candidate, verdict.baseline) if side is not None]
        sections = [section for side in sides for section in (grader_of(side, metric),) if section is not None]
        calibrated = (one for one in sections if one["calibration"] is not None)
        found = next(calibrated, sections[0] if sections else None)
        if found is None:
            name, words = verdict.candidate.holding(findings[0].rule.metric, suite=findings[0].rule.suite)["judge"], ""
        else:
            corrected = any(finding.flagged is not None and not finding.why for finding in findings)
            if found["calibration"] is not None:
                found = {**found, "calibration": {**found["calibration"], "corrected": corrected}}
            name, words = found["name"], calibration_words(found)
        yield f"Grader of {metric}", f"{name}, {words or findings[0].grader}"


def _measurement(results: Sequence[Result]) -> Iterator[tuple[str, str]]:
    """Suites by number where there are several, and under which conditions; what all share is told once."""
    marks = [""] if len(results) == 1 else [f" {place}" for place in range(1, len(results) + 1)]
    for mark, result in zip(marks, results, strict=True):
        yield f"Suite{mark}", str(result["suite"])
    for field in SAME[1:]:
        name = field.replace("_", " ").capitalize()
        values = [_plain(result[field]) if field in result else None for result in results]
        if len(set(values)) == 1 and values[0] is not None:
            yield name, values[0]
            continue
        for mark, value in zip(marks, values, strict=True):
            if value is not None:
                yield f"{name} of suite{mark}", value


def _side(side: Side) -> str:
    models = ", ".join(dict.fromkeys(str(result["model"]) for result in side.results.values()))
    label = f"chosen, {side.label}" if side.chosen else side.label
    return f"{label} ({models}), {side.where}"


def _plain(value: Any) -> str:
    if value is None:
        return "none"
    if isinstance(value, Mapping) and value.keys() == {"n", "digest"}:
        return f"{value['n']:,}, digest {value['digest']}"
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, sort_keys=True)


def _safe(text: str) -> str:
    """Text as text inside a Markdown table: no tags, no cells, no emphasis, no links, no mentions, one line."""
    flat = html.escape(" ".join(text.split()), quote=False)
    return re.sub(r"([\\`*_\[\]|#~])", r"\\\1", flat).replace("@", "&#64;")


def junit(verdict: GateVerdict) -> str:
    """The verdict as JUnit XML: a rule is a test case, a broken one a failure, an undecided one an error.

    CI systems show errors in red and end the job; a skipped test case would count as fine.
    """
    counts = {status: sum(f.status == status for f in verdict.findings) for status in STYLES}
    numbers = {
        "tests": str(len(verdict.findings)),
        "failures": str(counts["fail"]),
        "errors": str(counts["undecided"]),
        "skipped": "0",
    }
    root = ElementTree.Element("testsuites", {"name": "equipoise gate", **numbers})
    suite = ElementTree.SubElement(
        root, "testsuite", {"name": f"equipoise gate: {_xml(verdict.candidate.label)}", **numbers}
    )
    properties = ElementTree.SubElement(suite, "properties")
    for name, value in _conditions(verdict):
        ElementTree.SubElement(properties, "property", {"name": _xml(name), "value": _xml(value)})
    for finding in verdict.findings:
        named = {"classname": "equipoise.gate", "name": _xml(rule_words(finding.rule)), "time": "0"}
        case = ElementTree.SubElement(suite, "testcase", named)
        said = _xml(reason(finding, verdict.confidence) + (f"; grader: {finding.grader}" if finding.grader else ""))
        if finding.status == "fail":
            ElementTree.SubElement(case, "failure", {"type": "broken", "message": said}).text = said
        elif finding.status == "undecided":
            ElementTree.SubElement(case, "error", {"type": "undecided", "message": said}).text = said
        else:
            ElementTree.SubElement(case, "system-out").text = said
    ElementTree.indent(root)
    text: bytes = ElementTree.tostring(root, encoding="utf-8", xml_declaration=True)
    return text.decode() + "\n"


def _xml(text: str) -> str:
    """Text without characters that XML 1.0 cannot hold."""
    return _NOT_XML.sub("\ufffd", text)
