"""What the papers claim against what the playground shows: docs/claims.yaml decided, as tables for docs/results.md.

    equipoise --store runs/store frontier recipes/playground/claims.yaml
    python benchmarks/claims.py --write docs/results.md

The first command runs what is missing; this one takes a second. With `--write` the tables replace what stands between
`<!-- claims -->` and `<!-- /claims -->` there. The last line is JSON.
"""

from __future__ import annotations

import argparse
import datetime
import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from machine import description

from equipoise.errors import DataError
from equipoise.evaluate.register import Outcome, decided, read_register
from equipoise.evaluate.words import figure
from equipoise.grid_page import over, settings_volume
from equipoise.store import write_text

COLUMNS = (
    ("unsafe", "unsafe_rate", True),
    ("over-refusal", "over_refusal", True),
    ("reward", "reward", False),
    ("KL", "kl", False),
    ("gap", "gap", False),
    ("shortfall", "shortfall", False),
    ("volume", "volume", False),
)
MARKS = "<!-- claims -->", "<!-- /claims -->"


def claims_table(outcomes: Sequence[Outcome]) -> list[str]:
    """A row per claim: what the paper says and measured, what was measured here, the ruling."""
    lines = ["| claim | the paper's figure | here | ruling |", "|---|---|---|---|"]
    for one in outcomes:
        claim = one.claim
        said = f"**{claim.id}**: {claim.says} ({claim.paper})"
        lines.append(f"| {said} | {claim.number} | {_measured(one)} | **{one.ruling}** |")
    return lines


def _measured(one: Outcome) -> str:
    if one.value is None:
        return one.why
    claim = one.claim
    kind, *_ = [name for name in claim.statistic if name in ("level", "difference", "ratio", "order", "off_target")]
    what = f"{kind.replace('_', ' ')} of {claim.statistic[kind].replace('_', ' ')}"
    ends = "" if one.low is None or one.high is None else f" [{one.low:.3f}, {one.high:.3f}]"
    side = "above" if claim.above else "below"
    p = "" if one.adjusted is None else f", Holm's p {one.adjusted:.2g}"
    return f"{what} {one.value:.3f}{ends}, wanted {side} {claim.threshold:g}{p}"


def methods_table(found: Mapping[str, Any]) -> list[str]:
    """A row per method: its chosen setting over seeds, and what its settings dominate together."""
    heads = ["method, setting chosen", "seeds", *(name for name, _, _ in COLUMNS), "volume of all settings", "seconds"]
    lines = ["| " + " | ".join(heads) + " |", "|" + "---|" * len(heads)]
    for method in found["methods"].values():
        cells = [figure(over(method, metric), rate=rate) for _, metric, rate in COLUMNS]
        seconds = over(method, "train_seconds")
        took = "–" if seconds is None else f"{seconds['mean']:.0f}"
        name = method["seeds"][0][0]["label"]
        row = [name, str(len(method["seeds"])), *cells, f"{settings_volume(method):.2f}", took]
        lines.append("| " + " | ".join(row) + " |")
    return lines


def noise_table(found: Mapping[str, Any]) -> list[str]:
    """A row per method: unsafe rate and reward of its chosen setting by the share of labels turned round."""
    shares = sorted({share for method in found["methods"].values() for share in method["flipped"]}, key=float)
    if not shares:
        return []
    heads = ["method", *(f"{float(share):.0%}" for share in ("0", *shares)), "volume lost at the most"]
    lines = ["| " + " | ".join(heads) + " |", "|" + "---|" * len(heads)]
    for method in found["methods"].values():
        if not method["flipped"]:
            continue
        pairs = [method["seeds"][0], *(method["flipped"].get(share) for share in shares)]
        verdicts = [_verdict(pair) for pair in pairs]
        lost = "–" if verdicts[-1] is None else f"{_volume(verdicts[0]) - _volume(verdicts[-1]):.2f}"
        lines.append(f"| {method['title']} | " + " | ".join(map(_both, verdicts)) + f" | {lost} |")
    return lines


def _verdict(pair: Sequence[Mapping[str, Any]] | None) -> Mapping[str, Any] | None:
    return next((one["metrics"] for one in pair or () if one["split"] == "verdict"), None)


def _volume(metrics: Mapping[str, Any]) -> float:
    return float(metrics["volume"]["mean"])


def _both(metrics: Mapping[str, Any] | None) -> str:
    if metrics is None:
        return "failed"
    return f"{figure(metrics['unsafe_rate'], rate=True)}, {figure(metrics['reward'], rate=False)}"


def section(found: Mapping[str, Any], outcomes: Sequence[Outcome]) -> str:
    """The part of docs/results.md."""
    rulings = [one.ruling for one in outcomes]
    counts = ", ".join(f"{rulings.count(r)} {r}" for r in ("holds", "not shown", "does not hold", "not run"))
    config = found["config"]
    noise = noise_table(found)
    parts = [
        f"World {found['world']}; target {config['target']['unsafe_rate']:.0%} unsafe; at most "
        f"{config['settings']} settings a method, {config['seeds']} seeds. Of {len(rulings)} claims: {counts}.",
        "\n".join(claims_table(outcomes)),
        "The chosen setting of every method, over its seeds (intervals cover prompts and seeds, those of shortfall and "
        "volume seeds alone):",
        "\n".join(methods_table(found)),
        *(
            ["Labels turned round beyond the annotators' own mistakes, first seed (unsafe, reward):", "\n".join(noise)]
            * bool(noise)
        ),
        *(
            ["Failed: " + "; ".join(f"{one['name']}: {one['why']}" for one in found["failed"]) + "."]
            * bool(found["failed"])
        ),
    ]
    return "\n\n".join(parts)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true", help="print only the last line")
    parser.add_argument("--register", type=Path, default=Path("docs/claims.yaml"))
    parser.add_argument("--found", type=Path, default=Path("runs/claims/comparison.json"))
    parser.add_argument("--write", type=Path, help="a file in which to replace the tables")
    args = parser.parse_args()
    claims, level = read_register(args.register)
    found = json.loads(args.found.read_text(encoding="utf-8"))
    outcomes = decided(claims, found, world=found["config"]["playground"], level=level)
    text = section(found, outcomes)
    if args.write:
        before = args.write.read_text(encoding="utf-8")
        pattern = re.compile(f"{re.escape(MARKS[0])}.*?{re.escape(MARKS[1])}", re.DOTALL)
        if not pattern.search(before):
            raise DataError(f"{args.write} has no place for the tables: {MARKS[0]} and {MARKS[1]}")
        write_text(args.write, pattern.sub(lambda _: f"{MARKS[0]}\n{text}\n{MARKS[1]}", before))
    if not args.json:
        print(text)
    rulings = {one.claim.id: {"ruling": one.ruling, "value": one.value, "p": one.adjusted} for one in outcomes}
    outcome = {"claims": rulings, "machine": description(), "date": datetime.date.today().isoformat()}
    print(json.dumps(outcome, ensure_ascii=False))


if __name__ == "__main__":
    main()
