"""The frontier as a still picture (frontier.png), for a paper, a slide or a pull request."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from typing import Any

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from matplotlib.patheffects import Normal, Stroke

from equipoise.evaluate.advice_plots import Plot
from equipoise.evaluate.chart import Bound, Chart, Mark, lay_out
from equipoise.evaluate.looks import Entry, legend

COLORS = ("#5b6570", "#0b62b0", "#b8430b", "#08734f", "#7a45a8", "#a8246c", "#6d6200", "#0a7480")
"""Those of the looks 0 to 7; look 8 has the color of look 1, and so on."""
INK, MUTED, GRID, KEEP = "#16191d", "#5b6570", "#e4e7eb", "#e9f4ee"
QUIET, DOT = "#8b939c", "#b9bfc6"  # marks that another result beats, and dots in a crowd
MARKERS = {
    "circle": "o",
    "square": "s",
    "diamond": "D",
    "up": "^",
    "down": "v",
    "hexagon": "h",
    "pentagon": "p",
    "left": "<",
    "right": ">",
    "plus": "P",
    "star": "*",
    "cross": "X",
}
WIDTH, HEIGHT, HEAD, DPI = 1040, 640, 62, 200
LINE, LETTER, CAPITAL = 20, 6.7, 9.0  # of a legend: height of a line, widths of letters


def draw(
    results: Sequence[Mapping[str, Any]],
    *,
    title: str,
    subtitle: str,
    target: float | None,
    optimum: Mapping[str, Any] | None = None,
) -> bytes:
    """Draw the frontier of `results`, with the optimum of results.json where there is one, and return the PNG."""
    entries = _legend_places(legend(results))
    head = max([HEAD, *(y + 16 for _, _, y in entries)])
    height = HEIGHT + head - HEAD
    chart = lay_out(
        results, width=WIDTH, height=height, font=13, target=target, optimum=optimum, head=head, letter=0.62
    )
    figure = Figure(figsize=(WIDTH / 100, height / 100), dpi=DPI, facecolor="white")
    FigureCanvasAgg(figure)
    axes = figure.add_axes((0, 0, 1, 1))
    axes.set_xlim(0, WIDTH)
    axes.set_ylim(height, 0)
    axes.axis("off")
    axes.text(chart.frame.left, 30, title, fontsize=13, fontweight="bold", color=INK, va="center", parse_math=False)
    axes.text(chart.frame.left, 54, subtitle, fontsize=9, color=MUTED, va="center", parse_math=False)
    for entry, x, y in entries:
        color = _color(entry.look) if entry.look in chart.lively else QUIET
        axes.plot(x, y, marker=MARKERS[entry.shape], ms=7, mfc=color, mec=color, mew=1.2)
        axes.text(x + 11, y, entry.name, fontsize=8.8, color=INK, ha="left", va="center", parse_math=False)
    _backdrop(axes, chart)
    if chart.bound is not None:
        _bound(axes, chart.bound)
    for look, _, points in chart.curves:
        axes.plot(
            *zip(*points, strict=True),
            color=_color(look) if look in chart.lively else QUIET,
            lw=1.4,
            alpha=0.5,
            zorder=3,
        )
    for mark in chart.marks:
        _mark(axes, mark)
    content = io.BytesIO()
    figure.savefig(content, format="png", metadata={"Software": "equipoise"})
    return content.getvalue()


def _color(look: int) -> str:
    return COLORS[0] if look == 0 else COLORS[(look - 1) % (len(COLORS) - 1) + 1]


def _legend_places(entries: Sequence[Entry]) -> list[tuple[Entry, float, float]]:
    """Put a legend's entries side by side under the subtitle, in as many lines as they need: (entry, x, y)."""
    left, x, y = 66.0, 66.0, 80.0
    found = []
    for entry in entries:
        wide = 34 + sum(CAPITAL if letter.isupper() else LETTER for letter in entry.name)
        if x + wide > WIDTH and x > left:
            x, y = left, y + LINE
        found.append((entry, x, y))
        x += wide
    return found


def draw_scales(axes: Axes, plot: Chart | Plot) -> None:
    """Grid, axes, their ticks and the title below."""
    frame = plot.frame
    for at, text in plot.y_ticks:
        axes.plot([frame.left, frame.right], [at, at], color=GRID, lw=0.8, zorder=1)
        axes.text(frame.left - 8, at, text, fontsize=8.5, color=MUTED, ha="right", va="center")
    axes.plot([frame.left, frame.right], [frame.bottom] * 2, color=MUTED, lw=0.9, zorder=2)
    for at, text in plot.x_ticks:
        axes.plot([at, at], [frame.bottom, frame.bottom + 4], color=MUTED, lw=0.9)
        axes.text(at, frame.bottom + 16, text, fontsize=8.5, color=MUTED, ha="center", va="center")
    middle = (frame.left + frame.right) / 2
    axes.text(middle, plot.height - 14, plot.x_title, fontsize=9.5, color=INK, ha="center", va="center")


def _backdrop(axes: Axes, chart: Chart) -> None:
    frame = chart.frame
    if chart.target is not None:
        size = (chart.target - frame.left, frame.bottom - frame.top)
        axes.add_patch(Rectangle((frame.left, frame.top), *size, color=KEEP, lw=0, zorder=0))
        axes.plot([chart.target] * 2, [frame.top, frame.bottom], color="#08734f", lw=1.2, ls=(0, (5, 3)), zorder=2)
        axes.text(
            chart.target + 5, frame.top - 9, chart.target_text, fontsize=8.5, color="#08734f", va="center", ha="left"
        )
    draw_scales(axes, chart)
    axes.text(frame.left, frame.top - 9, chart.y_title, fontsize=9.5, color=INK, ha="left", va="center")
    if len(chart.steps) > 1:
        axes.plot(*zip(*chart.steps, strict=True), color=MUTED, lw=1, ls=(0, (1, 2.5)), alpha=0.8, zorder=2)


def _bound(axes: Axes, bound: Bound) -> None:
    if bound.band:
        axes.fill(*zip(*bound.band, strict=True), color=INK, alpha=0.06, lw=0, zorder=1.5)
    for thin, points in bound.pieces:
        style = (0, (5, 3.5)) if thin else "-"
        axes.plot(*zip(*points, strict=True), color=INK, lw=1.1, ls=style, alpha=0.75, zorder=2.5)
    box, leader = bound.placed
    if leader is not None:
        axes.plot(leader[0::2], leader[1::2], color=MUTED, lw=0.7, zorder=3)
    middle = ((box.left + box.right) / 2, (box.top + box.bottom) / 2)
    halo = [Stroke(linewidth=3, foreground="white", alpha=0.85), Normal()]
    axes.text(*middle, bound.label, fontsize=8.5, color=MUTED, ha="center", va="center", zorder=7, path_effects=halo)


def _mark(axes: Axes, mark: Mark) -> None:
    if mark.small:
        axes.plot(mark.x, mark.y, marker="o", ms=3.4, mfc=DOT, mec="white", mew=0.4, zorder=3.5)
        return
    color = QUIET if mark.quiet else _color(mark.look)
    axes.plot([mark.left, mark.right], [mark.y] * 2, color=color, lw=1.3, alpha=0.55, zorder=4)
    axes.plot([mark.x] * 2, [mark.top, mark.bottom], color=color, lw=1.3, alpha=0.55, zorder=4)
    if mark.chosen:
        axes.plot(mark.x, mark.y, marker="o", ms=15, mfc="none", mec=INK, mew=1.4, zorder=5)
    face = color if mark.frontier else "white"
    shape = MARKERS[mark.shape]
    axes.plot(mark.x, mark.y, marker=shape, ms=7.5, mfc=face, mec=color, mew=1.6, zorder=6)
    if mark.placed is None:
        return
    box, leader = mark.placed
    if leader is not None:
        axes.plot(leader[0::2], leader[1::2], color=MUTED, lw=0.7, zorder=3)
    middle = ((box.left + box.right) / 2, (box.top + box.bottom) / 2)
    axes.text(
        *middle,
        mark.text,
        fontsize=8.8,
        color=MUTED if mark.quiet else INK if mark.text == mark.label else color,
        ha="center",
        va="center",
        fontweight="bold" if mark.chosen else "normal",
        zorder=7,
        parse_math=False,
        path_effects=[Stroke(linewidth=3, foreground="white", alpha=0.85), Normal()],
    )
