"""What stands below the fold of the page: harm by category, other suites, choices, judges, control, further pages."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from equipoise.evaluate.chart import LABELLED
from equipoise.evaluate.choice import BASELINE, PER_TOKEN
from equipoise.evaluate.dials import dials, models_of, seeds_of, side_effects, unscored_of
from equipoise.evaluate.frontier import Result, non_dominated
from equipoise.evaluate.judge_words import calibration_words, weakness
from equipoise.evaluate.looks import CROWDED
from equipoise.evaluate.rows import names_of
from equipoise.evaluate.shortlist import best_of_methods
from equipoise.evaluate.words import UNKNOWN, choice_columns, figure, percent

BESIDE = (
    ("constitution.html", "The constitution", "rules that were found, what they did and what they cost"),
    ("training.html", "Online training", "reward, cost and multiplier step by step"),
)
"""Further pages of a run, named where they lie beside this one."""

MEASURES = {"unsafe_rate": "harm", "over_refusal": "refusals", "win_rate": "which answer is better"}


def notable(results: Sequence[Result], *, target: float | None) -> list[int]:
    """All results, or of a crowd those that matter: the base, on the frontier, chosen, the best of each method."""
    if len(results) <= LABELLED:
        return list(range(len(results)))
    kept = {*non_dominated(results), *best_of_methods(results, target=target).values()}
    return [i for i, one in enumerate(results) if i in kept or one.get("chosen") or one["method"] == "base"]


def categories(results: Sequence[Result], prefix: str, beside: Sequence[tuple[str, str]]) -> dict[str, Any] | None:
    """Rates by category and model, whatever there is more of downwards: a page scrolls that way.

    `prefix` begins the names of the metrics; `beside` are whole rates that stand before them, (metric, name).
    """
    names = sorted({name for result in results for name in result["metrics"] if name.startswith(prefix)})
    if not names:
        return None
    wholes = [(metric, name) for metric, name in beside if any(metric in result["metrics"] for result in results)]
    models = [(name, bool(one.get("chosen"))) for name, one in zip(names_of(results), results, strict=True)]
    kinds = [(name, False) for _, name in wholes]
    kinds += [(name.removeprefix(prefix).replace("_", " "), False) for name in names]
    cells = [[one["metrics"].get(name) for one in results] for name in (*(metric for metric, _ in wholes), *names)]
    shown = {"wholes": len(wholes), "down": len(models) <= max(CROWDED, len(names))}
    if shown["down"]:
        return {**shown, "corner": "Category", "heads": models, "rows": list(zip(kinds, cells, strict=True))}
    rows = list(zip(models, zip(*cells, strict=True), strict=True))
    return {**shown, "corner": "Model", "heads": kinds, "rows": rows}


OTHERS = {"hhh": "HHH", "honesty/mc1": "Honesty, MC1", "honesty/mc2": "Honesty, MC2", "honesty/halueval": "HaluEval"}
CORRECTED = {"unsafe_rate_corrected": "Unsafe, corrected", "over_refusal_corrected": "Over-refusal, corrected"}
PREFIXES = ("honesty/", "hhh", "capability/", "unsafe_rate@", "over_refusal@", *CORRECTED)


def other_suites(results: Sequence[Result]) -> dict[str, Any] | None:
    """Honesty, HHH, capability, rates by further graders and corrected rates: a row per model, where any has them."""
    names = [n for result in results for n in result["metrics"] if n.startswith(PREFIXES)]
    names = sorted(dict.fromkeys(names), key=lambda name: [name.startswith(one) for one in PREFIXES].index(True))
    if not names:
        return None
    rows = [
        (label, [figure(one["metrics"].get(name), rate=True) for name in names])
        for label, one in zip(names_of(results), results, strict=True)
        if any(name in one["metrics"] for name in names)
    ]
    return {"heads": [_suite_name(name) for name in names], "rows": rows}


def _suite_name(name: str) -> str:
    if "@" in name:
        rate, grader = name.split("@", 1)
        return f"{'Unsafe' if rate == 'unsafe_rate' else 'Over-refusal'} by {grader}"
    plain = CORRECTED | OTHERS
    return plain.get(name) or name.replace("capability/", "").replace("hhh/", "HHH, ").replace("_", " ")


def choices(results: Sequence[Result]) -> dict[str, Any] | None:
    """Which of two answers is likelier: a row per model, and the trivial baseline once for all that share it."""
    columns = choice_columns(results)
    if not columns:
        return None
    baselines: dict[tuple[str, ...], list[str]] = {}
    for result in results:
        own = [result["metrics"].get(column.metric.removesuffix(PER_TOKEN) + BASELINE) for column in columns]
        words = tuple(_baseline(metric) for metric in own)
        if any(word != UNKNOWN for word in words):
            baselines.setdefault(words, []).append(result["label"])
    name = "the longer, or the shorter, answer"
    return {
        "columns": columns,
        "rows": [
            (result["label"], [figure(result["metrics"].get(column.metric), rate=True) for column in columns])
            for result in results
            if any(column.metric in result["metrics"] for column in columns)
        ],
        "baselines": [
            (name if len(baselines) == 1 else f"{name} ({', '.join(labels)})", words)
            for words, labels in baselines.items()
        ],
    }


def _baseline(metric: Mapping[str, Any] | None) -> str:
    return f"{figure(metric, rate=True)} {(metric or {}).get('rule', '')}".rstrip()


def judges(sections: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """The judges of a run: what each measures, how far it is calibrated, whom it agrees with, what it leans on."""
    return [
        {
            "name": judge["name"],
            "what": MEASURES.get(judge["measures"], judge["measures"].replace("_", " ")),
            "kind": judge["kind"],
            "model": " ".join(str(part) for part in (judge["model"], judge["version"]) if part) or UNKNOWN,
            "first": judge["first"],
            "answers": f"{judge['n']:,} verdicts" + (f", {judge['unscored']:,} unscored" if judge["unscored"] else ""),
            "calibration": calibration_words(judge),
            "doubtful": (judge["calibration"] is None and judge["kind"] != "truth") or bool(weakness(judge)),
            "agreement": [
                f"{one['with']}: κ {figure(one['kappa'], rate=False)}, the same verdict on "
                f"{figure(one['percent'], rate=True)} of {one['n']:,} answers"
                for one in judge["agreement"]
            ],
            "biases": [(bias["name"], bias["found"], bias["sentence"]) for bias in judge["biases"]],
        }
        for judge in sections
    ]


def control(section: Mapping[str, Any] | None, results: Sequence[Result]) -> dict[str, Any] | None:
    """Controllability: its plots, what became of the rest, and how sure that is."""
    if section is None:
        return None
    models = models_of(section, results)
    plots = dials(section, models)
    levels = {
        metric["level"]
        for model in section["models"]
        for one in model["objectives"].values()
        for metric in one["achieved"].values()
    }
    return {
        "models": models,
        "dials": plots,
        "sides": side_effects(section, models),
        "with_plain": any(dot.plain for plot in plots for dot in plot.dots),
        "level": " and ".join(percent(level) for level in sorted(levels)),
        "seeds": seeds_of(section),
        "unscored": unscored_of(section),
    }


def beside(folder: Path) -> list[tuple[str, str, str]]:
    """Further pages that lie in the folder: (file, name, what it shows)."""
    return [page for page in BESIDE if (folder / page[0]).is_file()]
