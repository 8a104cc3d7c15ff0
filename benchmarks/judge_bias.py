"""Are the biases of a judge found? Judges with planted ones, on LLMBar's pairs, behind a real endpoint.

    OMP_NUM_THREADS=1 python benchmarks/judge_bias.py --out runs/judge-bias

Every judge is asked over HTTP about all pairs in both orders, by the stage that compares models, and held against
LLMBar's labels: 419 pairs, in most of which the longer answer is the wrong one. A planted judge goes by the place of
the answers in a share of its verdicts, by their length in another, and is otherwise right four times in five, whatever
their place and length. Then, without HTTP, many judges at each strength of bias: how small a one is still found, and
how often one is found that is not there. Writes results.json and a page; the last line is JSON. Exit code 1 unless
every planted bias of the first four judges is found and no other.
"""

from __future__ import annotations

import argparse
import contextlib
import datetime
import json
import os
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from machine import description

from equipoise.data.formats import digest
from equipoise.evaluate.judge_bias import FIRST, LONGER, Contest, biases
from equipoise.evaluate.judge_page import write_judge_page
from equipoise.evaluate.results import write_results
from equipoise.judges import Endpoint
from equipoise.pairwise import PairwiseUse, check_judge
from equipoise.playground.oracle import serving
from equipoise.playground.planted import PlantedJudge, known
from equipoise.records import write_jsonl
from equipoise.store import Store, using_store, versions

PARTS = ("Natural", "Adversarial__GPTInst", "Adversarial__GPTOut", "Adversarial__Manual", "Adversarial__Neighbor")
ERRORS = 0.2
JUDGES = {
    "prefers-first": (0.4, 0.0),
    "prefers-longer": (0.0, 0.4),
    "prefers-both": (0.3, 0.3),
    "unbiased": (0.0, 0.0),
    "weakly-biased": (0.1, 0.1),
}
"""Shares of verdicts that go by the place and by the length."""

STRENGTHS = (0.0, 0.05, 0.1, 0.15, 0.2, 0.3)
NOTES = (
    "These judges are planted: a program that knows LLMBar's labels, errs in a fifth of its verdicts and goes by the "
    "place or the length of the answers in others. They show what the protocol finds, and say nothing of real judges.",
)


def pairs_of(root: Path) -> list[dict[str, Any]]:
    """LLMBar's pairs, the right answer chosen."""
    found = []
    for part in PARTS:
        rows = json.loads((root / "llmbar" / f"Dataset__LLMBar__{part}__dataset.json").read_text(encoding="utf-8"))
        for row in rows:
            right, wrong = (row[f"output_{n}"] for n in (row["label"], 3 - row["label"]))
            prompt = [{"role": "user", "content": row["input"]}]
            found.append({"prompt": prompt, "chosen": right, "rejected": wrong})
    return found


def judge_of(pairs: Sequence[Mapping[str, Any]], name: str, seed: int = 0) -> PlantedJudge:
    """One of `JUDGES`."""
    first, longer = JUDGES[name]
    right = known((pair["prompt"][0]["content"], pair["chosen"]) for pair in pairs)
    return PlantedJudge(seed=seed, errors=ERRORS, first=first, longer=longer, right=right)


def asked(pairs: Sequence[Mapping[str, Any]], file: Path) -> Iterator[dict[str, Any]]:
    """The section of results.json of each judge, asked through the client and the stage."""
    for name in JUDGES:
        with serving(judge_of(pairs, name), model=name) as server:
            use = PairwiseUse(endpoint=Endpoint(base_url=server.base_url, model=name, identity="planted"))
            yield check_judge(use, file, source="LLMBar")


def power(pairs: Sequence[Mapping[str, Any]], judges: int) -> list[dict[str, Any]]:
    """Share of judges of whom each bias is found, by its strength; both are planted at once."""
    plain = judge_of(pairs, "unbiased")
    found = []
    for strength in STRENGTHS:
        counts = {FIRST: 0, LONGER: 0}
        for seed in range(judges):
            judge = replace(plain, seed=1000 + seed, first=strength, longer=strength)
            own = biases([_contest(judge, pair) for pair in pairs], labelled=True)
            for names in counts:
                counts[names] += any(bias["found"] and bias["name"] in names for bias in own)
        found.append({"strength": strength, "first": counts[FIRST] / judges, "longer": counts[LONGER] / judges})
    return found


def _contest(judge: PlantedJudge, pair: Mapping[str, Any]) -> Contest:
    prompt, texts = pair["prompt"][0]["content"], (pair["chosen"], pair["rejected"])
    before, after = judge.verdict(prompt, texts), judge.verdict(prompt, texts[::-1])
    shares = {"1": 1.0, "2": 0.0, "tie": 0.5}
    return Contest(digest(prompt), (len(texts[0]), len(texts[1])), shares[before], 1 - shares[after])


def as_planted(section: Mapping[str, Any]) -> bool:
    """Whether what was found of a judge is what was planted in it."""
    first, longer = JUDGES[section["model"]]
    planted = {names[0] for names, share in ((FIRST, first), (LONGER, longer)) if share}
    return {bias["name"] for bias in section["biases"] if bias["found"]} == planted


def main() -> None:
    here = Path(__file__).resolve().parents[1]
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true", help="print only the last line")
    parser.add_argument("--out", type=Path, default=Path("runs/judge-bias"), help="where results.json and the page go")
    parser.add_argument("--judges", type=int, default=100, help="simulated judges at each strength; 0 leaves it out")
    told = parser.parse_args()
    root = Path(os.environ.get("EQUIPOISE_SHARED_DATA", here.parent / "shared" / "data"))
    if not (root / "llmbar").is_dir():
        print(f"skipped: LLMBar's files are not at {root / 'llmbar'} (set EQUIPOISE_SHARED_DATA)", file=sys.stderr)
        return
    pairs = pairs_of(root)
    started = time.monotonic()
    with tempfile.TemporaryDirectory() as folder, using_store(Store(Path(folder) / "store")):
        file = Path(folder) / "llmbar.jsonl"
        write_jsonl(file, pairs)
        sections = list(asked(pairs, file))
    seconds = time.monotonic() - started
    told.out.mkdir(parents=True, exist_ok=True)
    write_results(told.out / "results.json", [], versions(), judges=sections)
    document = json.loads((told.out / "results.json").read_text(encoding="utf-8"))
    page = write_judge_page(told.out, document, title="Planted judges on LLMBar", notes=NOTES)
    smallest = power(pairs, told.judges) if told.judges else []
    fine = all(as_planted(one) for one in sections if one["model"] != "weakly-biased")
    if not told.json:
        _show(sections, smallest, told.judges, page)
    outcome = {
        "judges": {one["model"]: _figures(one) for one in sections},
        "power": {"judges": told.judges, "strengths": smallest},
        "as_planted": fine,
        "verdicts": sum(one["n"] for one in sections),
        "seconds": round(seconds, 1),
        "machine": description(),
        "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
    }
    print(json.dumps(outcome))
    sys.exit(0 if fine else 1)


def _figures(section: Mapping[str, Any]) -> dict[str, Any]:
    labels = section["labels"]
    shown = {key: _ends(labels[key]) for key in labels if key not in ("source", "n")}
    return {
        "planted": dict(zip(("first", "longer"), JUDGES[section["model"]], strict=True)),
        "pairs": labels["n"],
        "unscored": section["unscored"],
        **shown,
        "consistency": _ends(section["consistency"]),
        "biases": {one["name"]: {**_ends(one["estimate"]), "p": one["p"], "found": one["found"]}
                   for one in section["biases"]},
    }  # fmt: skip


def _ends(metric: Mapping[str, Any]) -> dict[str, Any]:
    return {end: None if metric[end] is None else round(metric[end], 4) for end in ("mean", "low", "high")}


def _show(
    sections: Sequence[Mapping[str, Any]], smallest: Sequence[Mapping[str, Any]], judges: int, page: Path
) -> None:
    with contextlib.suppress(BrokenPipeError):
        print("| judge (first, longer) | right | the longer wins | same in both orders | first wins | longer wins |")
        print("|---|---|---|---|---|---|")
        for one in sections:
            first, longer, *_ = one["biases"]
            cells = [_cell(one["labels"]["accuracy"]), _cell(one["labels"]["longer_wins"]), _cell(one["consistency"])]
            cells += [f"{_cell(bias['estimate'])}{', **found**' if bias['found'] else ''}" for bias in (first, longer)]
            planted = ", ".join(f"{share:.0%}" for share in JUDGES[one["model"]])
            print(f"| {one['model']} ({planted}) | " + " | ".join(cells) + " |")
        print()
        for one in sections:
            print(*(bias["sentence"] for bias in one["biases"]), sep="\n")
        if smallest:
            print(f"\n| share of verdicts, each | first found, of {judges} judges | longer found |\n|---|---|---|")
            for row in smallest:
                print(f"| {row['strength']:.0%} | {row['first']:.0%} | {row['longer']:.0%} |")
        print(f"\n{page}")


def _cell(metric: Mapping[str, Any]) -> str:
    if metric["mean"] is None:
        return "–"
    return f"{100 * metric['mean']:.1f} [{100 * metric['low']:.1f}, {100 * metric['high']:.1f}]"


if __name__ == "__main__":
    main()
