"""The frontier plot as values: scales, ticks, marks and label places in pixels, for the page and the picture alike."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from equipoise.evaluate.frontier import axis_of, non_dominated, require_verdict
from equipoise.evaluate.labels import Axes, Box, Placed, Segment, place
from equipoise.evaluate.looks import CROWDED, SHAPES, looks, outline, spoken
from equipoise.evaluate.shortlist import best_of_methods
from equipoise.evaluate.words import axis_title

Result = Mapping[str, Any]

RATES = (0.0, 0.1, 0.5, 0.05, 0.01, 0.2, 1.0, 0.02, 0.3, 0.4, 0.7, 0.8, 0.6, 0.9, 0.005, 0.002, 0.001)
"""Where ticks may stand on the axis of rates, the ones to keep first."""

POINT_ENDS = ("reward_high", "reward_low")
LABELLED = 30
"""With more points than this, only those on the frontier, the chosen one, the base and the best of each method are
named in the plot, and the others are small dots."""


@dataclass(frozen=True, slots=True)
class Scale:
    """Maps a value to a pixel, linearly or by its square root (which keeps 0 and opens up the small rates)."""

    low: float
    high: float
    start: float
    end: float
    root: bool = False

    def __call__(self, value: float) -> float:
        low, high, value = (math.sqrt(max(v, 0.0)) if self.root else v for v in (self.low, self.high, value))
        return self.start + (self.end - self.start) * (value - low) / (high - low)


@dataclass(frozen=True, slots=True)
class Mark:
    """One result in the plot, in pixels: its point, the ends of both intervals, its look and its label.

    `text` is what is written at `placed`; where there was no room, that is None. A `quiet` mark is grey: another result
    beats it. A `small` one is a dot in a crowd.
    """

    index: int
    label: str
    text: str
    x: float
    y: float
    left: float
    right: float
    top: float
    bottom: float
    look: int
    shape: str
    frontier: bool
    chosen: bool
    quiet: bool
    small: bool
    placed: Placed | None

    def path(self, radius: float) -> str:
        """The mark's outline as an SVG path."""
        return outline("circle" if self.small else self.shape, self.x, self.y, radius)


@dataclass(frozen=True, slots=True)
class Bound:
    """The curve no policy within a KL can lie above: its pieces in pixels, (thin or not, points), and its label.

    `band` is the outline of its interval.
    """

    label: str
    pieces: list[tuple[bool, list[tuple[float, float]]]]
    band: list[tuple[float, float]]
    placed: Placed


@dataclass(frozen=True, slots=True)
class Chart(Axes):
    """Everything needed to draw the plot at one size; `target` is the pixel of the target line, `axis` the metric of y.

    `steps` are the corners of the staircase through the points on the frontier, safest first; `unnamed` counts the
    points without a label.
    """

    x_title: str
    y_title: str
    axis: str
    marks: list[Mark]
    curves: list[tuple[int, str, list[tuple[float, float]]]]
    steps: list[tuple[float, float]]
    target: float | None
    target_text: str
    hidden: int
    unnamed: int
    bound: Bound | None

    @property
    def lively(self) -> set[int]:
        """The looks of which not every mark is grey; a curve of the others is grey, too."""
        return {mark.look for mark in self.marks if not mark.quiet}


def lay_out(
    results: Sequence[Result],
    *,
    width: float,
    height: float,
    font: float = 13.0,
    target: float | None = None,
    optimum: Mapping[str, Any] | None = None,
    head: float = 0.0,
    letter: float = 0.56,
) -> Chart:
    """Place the frontier of `results` in a picture of width x height pixels; `head` is kept free for a title.

    `optimum` is that of results.json; what of it lies beyond the axis of rates is cut off.

    `letter` is the mean width of a letter as a share of the font size. Results without both figures are counted in
    `hidden`.
    """
    require_verdict(results)
    axis = axis_of(results)
    shown = [i for i, r in enumerate(results) if _known(r, "unsafe_rate") and _known(r, axis)]
    frame = Box(4.6 * font, head + 1.9 * font, width - 1.2 * font, height - 3.9 * font)
    x = _x_scale([results[i]["metrics"]["unsafe_rate"] for i in shown], target, frame)
    limits = _within(optimum["points"], x.high) if optimum is not None and axis == "reward" else []
    ends = [0.0, 0.05] if axis == "over_refusal" else [p["reward"] for p in limits]
    y = _y_scale([results[i]["metrics"][axis] for i in shown], ends, frame)
    look, best = looks(results), set(non_dominated(results))
    points = [(x(_mean(results[i], "unsafe_rate")), y(_mean(results[i], axis))) for i in shown]
    spans = [(_ends(results[i], "unsafe_rate", x), _ends(results[i], axis, y)) for i in shown]
    crowd = len(shown) > LABELLED
    curves = [] if crowd else _curves(results, shown, points, look)
    lines = [(*a, *b) for _, _, curve in curves for a, b in itertools.pairwise(curve)]
    steps = _steps([points[n] for n, i in enumerate(shown) if i in best])
    lines += [(*a, *b) for a, b in itertools.pairwise(steps)]
    at = None if target is None else x(target)
    if at is not None:
        lines.append((at, frame.top, at, frame.bottom))
    bound = [(x(p["unsafe_rate"]), y(p["reward"])) for p in limits]
    lines += [(*a, *b) for a, b in itertools.pairwise(bound)]
    texts = [result["label"] for result in results] if crowd else spoken(results)
    firsts = set(best_of_methods(results, target=target).values())
    needed = [i in best or bool(results[i].get("chosen")) for i in shown]
    told = [not crowd or needed[n] or i in firsts or results[i]["method"] == "base" for n, i in enumerate(shown)]
    named = [n for n, one in enumerate(told) if one]
    bars = [(spans[n][0][0], points[n][1], spans[n][0][1], points[n][1]) for n in named]
    bars += [(points[n][0], spans[n][1][1], points[n][0], spans[n][1][0]) for n in named]
    words = [(texts[shown[n]], 1.1 if results[shown[n]].get("chosen") else 1.0) for n in named]
    spots = [points[n] for n in named]
    limit = "" if optimum is None else f"optimum, KL ≤ {optimum['kl']:.3g}"
    if bound:
        words.append((limit, 0.95))
        spots.append(bound[-1])
    # In a crowd a name that would lie on others is left out; a legend, the table and the pointer still give it.
    keep = [len(shown) <= CROWDED or needed[n] for n in named] + [True] * (len(spots) - len(named))
    others = [spot for n, spot in enumerate(points) if n not in set(named)]
    labels = _labels(spots, words, frame, bars, lines, font, letter, keep, others)
    placed = dict(zip(named, labels, strict=False))
    end = labels[-1] if bound else None
    marks = [
        Mark(
            index=i,
            label=results[i]["label"],
            text=texts[i],
            x=points[n][0],
            y=points[n][1],
            left=spans[n][0][0],
            right=spans[n][0][1],
            top=spans[n][1][1],
            bottom=spans[n][1][0],
            look=look[i],
            shape=SHAPES[look[i]],
            frontier=i in best,
            chosen=bool(results[i].get("chosen")),
            quiet=not needed[n] and results[i]["method"] != "base",
            small=not told[n],
            placed=placed.get(n),
        )
        for n, i in enumerate(shown)
    ]
    return Chart(
        width=width,
        height=height,
        font=font,
        frame=frame,
        x_ticks=rate_ticks(x, gap=3.3 * font),
        y_ticks=_y_ticks(y, frame, rate=axis != "reward"),
        x_title="Unsafe answers to harmful prompts" + (" (square-root scale)" if x.root else ""),
        y_title=axis_title(results),
        axis=axis,
        marks=marks,
        curves=curves,
        steps=steps,
        target=at,
        target_text="" if target is None else f"target {100 * target:.3g}%",
        hidden=len(results) - len(shown),
        unnamed=sum(mark.placed is None and not mark.small for mark in marks),
        bound=None if end is None else Bound(limit, pieces(limits, bound), _band(limits, x, y), end),
    )


def _x_scale(metrics: Sequence[Mapping[str, Any]], target: float | None, frame: Box) -> Scale:
    highest = max([_high(m) for m in metrics] + [1.4 * target if target is not None else 0.0, 0.01])
    smallest = min([m["mean"] for m in metrics] + [target if target is not None else 1.0])
    high = min(1.0, 1.04 * highest)
    return Scale(0.0, high, frame.left + 8, frame.right, root=smallest < 0.12 * high)


def _y_scale(metrics: Sequence[Mapping[str, Any]], bound: Sequence[float], frame: Box) -> Scale:
    low = min([*(m["mean"] if m["low"] is None else m["low"] for m in metrics), *bound], default=0.0)
    high = max([*(_high(m) for m in metrics), *bound], default=1.0)
    margin = 0.07 * (high - low) or 0.5
    return Scale(low - margin, high + margin, frame.bottom, frame.top)


def _y_ticks(y: Scale, frame: Box, *, rate: bool) -> list[tuple[float, str]]:
    scale = 100 if rate else 1
    ticks = nice_ticks(scale * y.low, scale * y.high, most=max(3, int((frame.bottom - frame.top) / 60)))
    return [(y(value / scale), f"{text}%" if rate else text) for value, text in ticks]


def rate_ticks(scale: Scale, *, gap: float) -> list[tuple[float, str]]:
    """Ticks of an axis of rates, at least `gap` pixels apart: (pixel, text)."""
    found: list[tuple[float, str]] = []
    for value in RATES:
        at = scale(value)
        if value <= scale.high and all(abs(at - other) >= gap for other, _ in found):
            found.append((at, f"{100 * value:.3g}%"))
    return sorted(found)


def nice_ticks(low: float, high: float, *, most: int) -> list[tuple[float, str]]:
    """Round values between low and high, at most `most` + 1 of them."""
    raw = (high - low) / most
    power = 10.0 ** math.floor(math.log10(raw))
    step = next(power * factor for factor in (1, 2, 2.5, 5, 10) if power * factor >= raw * 0.999)
    decimals = max(0, -math.floor(math.log10(step) + 1e-9) + (1 if round(step / power, 3) == 2.5 else 0))
    first = math.ceil(low / step - 1e-9)
    values = [k * step for k in range(first, math.floor(high / step + 1e-9) + 1)]
    return [(value, f"{value + 0.0:.{decimals}f}".replace("-", "−")) for value in values]


def _curves(
    results: Sequence[Result], shown: Sequence[int], points: Sequence[tuple[float, float]], look: Sequence[int]
) -> list[tuple[int, str, list[tuple[float, float]]]]:
    named: dict[str, list[int]] = {}
    for n, i in enumerate(shown):
        if results[i].get("line"):
            named.setdefault(results[i]["line"], []).append(n)
    return [(look[shown[ns[0]]], name, [points[n] for n in ns]) for name, ns in named.items() if len(ns) > 1]


def _steps(best: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    corners: list[tuple[float, float]] = []
    for x, y in sorted(best, key=lambda spot: (spot[0], -spot[1])):
        if corners:
            corners.append((x, corners[-1][1]))
        corners.append((x, y))
    return corners


def _labels(
    points: Sequence[tuple[float, float]],
    words: Sequence[tuple[str, float]],
    frame: Box,
    bars: Sequence[Segment],
    lines: Sequence[Segment],
    font: float,
    letter: float,
    keep: Sequence[bool],
    others: Sequence[tuple[float, float]],
) -> list[Placed | None]:
    sizes = [(letter * font * len(text) * factor, 1.2 * font) for text, factor in words]
    return place(points, sizes, frame=frame, bars=bars, lines=lines, others=others, keep=keep, radius=0.62 * font)


def _within(points: Sequence[Mapping[str, Any]], high: float) -> list[dict[str, Any]]:
    """The points of a curve up to the rate `high`, the last one interpolated when the curve goes on."""
    kept = [dict(p) for p in points if p["unsafe_rate"] <= high]
    if not kept or len(kept) == len(points):
        return kept
    before, after = kept[-1], points[len(kept)]
    share = (high - before["unsafe_rate"]) / (after["unsafe_rate"] - before["unsafe_rate"])
    cut = {**after, "unsafe_rate": high}
    for key in ("reward", "reward_low", "reward_high"):
        if before[key] is not None and after[key] is not None:
            cut[key] = before[key] + share * (after[key] - before[key])
    return [*kept, cut]


def pieces(
    points: Sequence[Mapping[str, Any]], spots: Sequence[tuple[float, float]]
) -> list[tuple[bool, list[tuple[float, float]]]]:
    """Cut a curve where it turns thin or stops being so; a stretch is thin when either of its ends is."""
    found: list[tuple[bool, list[tuple[float, float]]]] = []
    for (a, here), (b, there) in itertools.pairwise(zip(points, spots, strict=True)):
        thin = bool(a["thin"] or b["thin"])
        if found and found[-1][0] == thin:
            found[-1][1].append(there)
        else:
            found.append((thin, [here, there]))
    return found


def _band(points: Sequence[Mapping[str, Any]], x: Scale, y: Scale) -> list[tuple[float, float]]:
    """Outline of a curve's interval, inside the frame; empty when there is none."""
    if any(p["reward_low"] is None or p["reward_high"] is None for p in points):
        return []
    ends = [[(x(p["unsafe_rate"]), y(min(max(p[end], y.low), y.high))) for p in points] for end in POINT_ENDS]
    return [*ends[0], *reversed(ends[1])]


def _ends(result: Result, name: str, scale: Scale) -> tuple[float, float]:
    metric = result["metrics"][name]
    low, high = (metric["mean"] if metric[end] is None else metric[end] for end in ("low", "high"))
    return scale(low), scale(min(high, scale.high))


def _known(result: Result, name: str) -> bool:
    metric = result["metrics"].get(name)
    return metric is not None and metric["mean"] is not None


def _mean(result: Result, name: str) -> float:
    return float(result["metrics"][name]["mean"])


def _high(metric: Mapping[str, Any]) -> float:
    return float(metric["mean"] if metric["high"] is None else metric["high"])
