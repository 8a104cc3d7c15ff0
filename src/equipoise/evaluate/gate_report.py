"""What a gate found, for people and for machines: a table, Markdown for a comment, JUnit XML for a CI system."""

from __future__ import annotations

import html
import json
import math
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

from rich.box import SIMPLE_HEAD
from rich.table import Table
from rich.text import Text

from equipoise.evaluate.gate import Finding, GateVerdict, Rule
from equipoise.evaluate.gate_sides import SAME, Side
from equipoise.evaluate.results import replace_file
from equipoise.evaluate.words import UNKNOWN, number, percent, rounded_up

HEADINGS = ("Rule", "Verdict", "Measured", "Bounds", "Prompts")
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
    of = f" on {rule.suite}" if rule.suite else ""
    if rule.compares:
        way = "above" if rule.lower_is_better else "below"
        return f"{rule.metric}{of} no more than {rule.limit:g} {way} the baseline"
    return f"{rule.metric}{of} {'at most' if rule.lower_is_better else 'at least'} {rule.limit:g}"


def measured_words(finding: Finding) -> str:
    """What was measured: the figure, or the difference with both figures behind it."""
    own = _number(finding.candidate, finding)
    if finding.baseline is None:
        return own
    return f"{_signed(finding.value, finding)} ({own}, baseline {_number(finding.baseline, finding)})"


def bounds_words(finding: Finding) -> str:
    """Both one-sided bounds, ``[0.4, 2.1]``."""
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
    sure = f"with {percent(confidence)} confidence"
    lower = finding.rule.lower_is_better
    subject = "the difference to the baseline" if finding.rule.compares else finding.rule.metric
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
        shown.add_column(heading, justify="right" if heading == "Prompts" else "left")
    for finding in verdict.findings:
        cells = (measured_words(finding), bounds_words(finding), f"{finding.n_prompts:,}")
        shown.add_row(
            Text(rule_words(finding.rule)),
            Text(finding.status, STYLES[finding.status]),
            *(Text(cell) for cell in cells),
        )
    return shown


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
        cells = (measured_words(finding), bounds_words(finding), f"{finding.n_prompts:,}")
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
    for suite, result in verdict.candidate.results.items():
        for field in SAME[1:]:
            if field in result:
                yield f"{suite}, {field.replace('_', ' ')}", _plain(result[field])


def _side(side: Side) -> str:
    models = ", ".join(dict.fromkeys(str(result["model"]) for result in side.results.values()))
    return f"{side.label} ({models}), {side.where}"


def _plain(value: Any) -> str:
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
        said = _xml(reason(finding, verdict.confidence))
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
