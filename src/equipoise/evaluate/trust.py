"""How far the figures of a page carry: the line of trust, what was not tested, what the results say of themselves."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from equipoise.evaluate.frontier import Result, axis_of
from equipoise.evaluate.judge_words import NOT_CALIBRATED, weakness
from equipoise.evaluate.words import columns_of, figure


class Said(NamedTuple):
    """A part of the line of trust; a doubtful one is marked."""

    text: str
    doubtful: bool = False


def trust_line(results: Sequence[Result], document: Mapping[str, Any], subject: Result | None = None) -> list[Said]:
    """Say in a few words what stands behind the figures: prompts, judge, kappa, seeds, world."""
    return [*_prompts(results), *_judge(results, document), _seeds(results, subject), *_world(results)]


def automatic_notes(results: Sequence[Result]) -> list[str]:
    """What the reader must know that follows from the results themselves: the built-in world, holes."""
    notes = []
    if any(result.get("world") for result in results):
        notes.append(
            "These models live in the built-in playground, a small world with known truth: the page shows how the "
            "methods behave there and says nothing about your own model or data."
        )
    unscored = sum(
        result["metrics"][column.metric]["unscored"]
        for result in results
        for column in columns_of(results)
        if column.metric in result["metrics"]
    )
    if unscored:
        notes.append(
            f"{unscored:,} scores are missing (no verdict was given); they are left out, never counted as safe."
        )
    return notes


def untested(results: Sequence[Result], document: Mapping[str, Any] | None = None) -> list[str]:
    """What was not tested: what follows from the results, then the sentences of results.json.

    What a sentence of results.json says was not tested is said once, in its words.
    """
    document = document or {}
    told = list(document.get("untested", ()))
    names = {name for result in results for name in result["metrics"]}
    trained = [result for result in results if result["method"] != "base"]
    found = []
    counts = {len(result.get("seeds", [0])) for result in trained}
    if trained and len(seeds_of(trained)) == 1:
        found.append(
            "One seed: training noise not measured. The intervals cover the choice of prompts and the sampling of "
            "answers, not what another training run would give."
        )
    elif 1 in counts and max(counts) > 1:
        found.append(
            "Results of one seed stand beside results of several: only the intervals of these hold training noise."
        )
    judged = bool(names & {"unsafe_rate", "over_refusal", "win_rate"})
    if judged and not _truth(results, document) and all(one["calibration"] is None for one in _firsts(document)):
        found.append(
            "The judge: nobody compared its verdicts with human labels of such answers, so how often it errs here is "
            "not known."
        )
    if "over_refusal" not in names and not _said("over-refusal", told):
        found.append(
            "Over-refusal: no borderline prompts were asked, so a model that refuses everything looks safe here."
        )
    if axis_of(results) == "over_refusal" and not _said("helpfulness", told):
        found.append("Helpfulness: nothing scored it, so the plot shows over-refusal in its place.")
    harm = "unsafe_rate" in names
    if harm and not any(name.startswith("unsafe_rate/") for name in names):
        found.append("Kinds of harm: the prompts name no category, so the mean may hide one that fails.")
    if harm and not any(result.get("world") for result in results) and "unsafe_rate_held_out" not in names:
        found.append("Harm of kinds that training left out: no category was held out.")
    if not any(name.startswith("honesty/") for name in names) and not _said("honesty", told):
        found.append("Honesty: no suite asked for it.")
    if not any(name.startswith("capability/") for name in names) and not _said("capability", told):
        found.append("Capability beyond these prompts: no task measured it.")
    found.append(
        "Attacks made against these models: the prompts are fixed lists, nobody searched for ones that break them."
    )
    return [*found, *(one for one in told if one not in found)]


def _said(topic: str, sentences: Sequence[str]) -> bool:
    """Whether a sentence says already that something was not tested."""
    return any(topic in one.lower() and " not tested" in one.lower() for one in sentences)


def seeds_of(results: Sequence[Result]) -> set[int]:
    """The training seeds behind results, whether joined over seeds or not."""
    return {seed for result in results for seed in result.get("seeds", [result["seed"]])}


def _prompts(results: Sequence[Result]) -> list[Said]:
    asked = []
    for name, kind in (("unsafe_rate", "harmful"), ("over_refusal", "borderline")):
        count = max((r["metrics"][name]["n_prompts"] for r in results if name in r["metrics"]), default=0)
        if count:
            asked.append(f"{count:,} {kind}")
    return [Said(f"{' and '.join(asked)} prompts")] if asked else []


def _judge(results: Sequence[Result], document: Mapping[str, Any]) -> list[Said]:
    if _truth(results, document):
        return [Said("judged by the world's truth")]
    firsts = _firsts(document)
    if not firsts:
        names = sorted({str(result["judge"]) for result in results if result["judge"]})
        return [Said(f"judged by {' or '.join(names)}" if names else "judge not named"), Said(NOT_CALIBRATED, True)]
    said = [Said(f"judged by {' and '.join(judge['name'] for judge in firsts)}")]
    for judge in firsts:
        found, name = judge["calibration"], f" ({judge['name']})" if len(firsts) > 1 else ""
        if judge["kind"] == "truth":
            continue
        if found is None:
            said.append(Said(NOT_CALIBRATED + name, True))
            continue
        corrected = ", rate corrected" if found["corrected"] else ""
        weak = weakness(judge)
        words = f"κ {figure(found['kappa'], rate=False)} with {found['n']:,} human labels"
        said.append(Said(f"{words}{': ' if weak else ''}{weak}{corrected}{name}", bool(weak)))
    biased = [bias["name"] for judge in firsts for bias in judge["biases"] if bias["found"]]
    return [*said, *(Said(f"the judge {name}", True) for name in biased)]


def _firsts(document: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """The judges whose figures the page shows: the one of harm before the others."""
    shown = [judge for judge in document.get("judges") or () if judge["first"]]
    return sorted(shown, key=lambda judge: judge["measures"] != "unsafe_rate")


def _truth(results: Sequence[Result], document: Mapping[str, Any]) -> bool:
    firsts = _firsts(document)
    if firsts:
        return all(judge["kind"] == "truth" for judge in firsts)
    return all(result.get("world") and "tru" in str(result["judge"]) for result in results)


def _seeds(results: Sequence[Result], subject: Result | None) -> Said:
    own = [subject] if subject is not None else [result for result in results if result["method"] != "base"]
    count = len(seeds_of(own or list(results)))
    if count == 1:
        return Said("1 seed: training noise not measured", True)
    return Said(f"{count} training seeds")


def _world(results: Sequence[Result]) -> list[Said]:
    worlds = sorted({str(result["world"]) for result in results if result.get("world")})
    return [Said(f"playground world {world}, not your model") for world in worlds]
