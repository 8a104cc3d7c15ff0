"""Where the names of points go so that none covers another: used by the page's plot and by the picture alike."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

SWEEPS = 8
DIRECTIONS = ((1, 0), (-1, 0), (0, -1), (0, 1), (1, -1), (-1, -1), (1, 1), (-1, 1))
DISTANCES = (11.0, 19.0, 30.0, 44.0, 60.0)
TOLERATED = 12.0  # square pixels that a label may share with others: a corner


class Box(NamedTuple):
    """A rectangle in pixels, y downwards."""

    left: float
    top: float
    right: float
    bottom: float

    def overlap(self, other: Box) -> float:
        """Area shared with another box."""
        wide = min(self.right, other.right) - max(self.left, other.left)
        tall = min(self.bottom, other.bottom) - max(self.top, other.top)
        return wide * tall if wide > 0 and tall > 0 else 0.0

    def outside(self, frame: Box) -> float:
        """Area that lies beyond `frame`."""
        return (self.right - self.left) * (self.bottom - self.top) - self.overlap(frame)

    def grown(self, by: float) -> Box:
        """The box with a margin."""
        return Box(self.left - by, self.top - by, self.right + by, self.bottom + by)


@dataclass(frozen=True, slots=True)
class Axes:
    """What every plot in pixels has: its size, the size of its letters, the frame, and (place, text) of its ticks."""

    width: float
    height: float
    font: float
    frame: Box
    x_ticks: list[tuple[float, str]]
    y_ticks: list[tuple[float, str]]


class Placed(NamedTuple):
    """A label's box and, when it had to move away from its point, the line that leads back to it."""

    box: Box
    leader: tuple[float, float, float, float] | None


Segment = tuple[float, float, float, float]


def place(
    points: Sequence[tuple[float, float]],
    sizes: Sequence[tuple[float, float]],
    *,
    frame: Box,
    bars: Sequence[Segment] = (),
    lines: Sequence[Segment] = (),
    others: Sequence[tuple[float, float]] = (),
    keep: Sequence[bool] | None = None,
    radius: float = 8.0,
) -> list[Placed | None]:
    """Place one label of the given (width, height) beside each point, as close as the others let it.

    Labels avoid each other, the points and those of `others`, which have no label, `bars` (error bars) and `lines`
    (curves), and stay inside `frame`. Every label takes the cheapest of its candidate places in turn, until no one
    moves. A label that then still lies on another one, on a point or on the frame's edge, or whose leader crosses a
    point, is None where `keep` (by default all) does not ask for it.
    """
    marks = [Box(x - radius, y - radius, x + radius, y + radius) for x, y in (*points, *others)]
    options = [_candidates(point, size, radius=radius) for point, size in zip(points, sizes, strict=True)]
    reaches = [_hull([box for box, _ in boxes]) for boxes in options]
    near = [  # the points that a label could meet at all, without its own
        [mark for i, mark in enumerate(marks) if i != own and mark.overlap(reach)] for own, reach in enumerate(reaches)
    ]
    fixed = [
        [cost + _obstacles(box, points[own], near[own], frame, bars, lines, radius) for box, cost in boxes]
        for own, boxes in enumerate(options)
    ]
    present = list(range(len(points)))
    while True:
        taken = _settle(present, options, fixed, reaches)
        worst, dropped = 0.0, None
        for own in present:
            if keep is None or keep[own]:
                continue
            box = options[own][taken[own]][0]
            clash = sum(box.overlap(options[i][taken[i]][0]) for i in present if i != own)
            clash += _on_points(box, points[own], near[own], radius) + 0.5 * box.outside(frame)
            if clash > max(worst, TOLERATED):
                worst, dropped = clash, own
        if dropped is None:
            break
        present.remove(dropped)
    found: list[Placed | None] = [None] * len(points)
    for own in present:
        box = options[own][taken[own]][0]
        found[own] = Placed(box, _leader(points[own], box, radius=radius))
    return found


def _settle(
    present: Sequence[int],
    options: Sequence[Sequence[tuple[Box, float]]],
    fixed: Sequence[Sequence[float]],
    reaches: Sequence[Box],
) -> dict[int, int]:
    """Choose a candidate for every label that is present: {label: its candidate}."""
    rivals = {own: [i for i in present if i != own and reaches[own].overlap(reaches[i].grown(2.0))] for own in present}
    taken = {own: min(range(len(fixed[own])), key=fixed[own].__getitem__) for own in present}
    for _ in range(SWEEPS):
        moved = False
        for own in present:
            near = [options[i][taken[i]][0].grown(2.0) for i in rivals[own]]
            costs = [
                cost + 6.0 * sum(box.overlap(other) for other in near)
                for (box, _), cost in zip(options[own], fixed[own], strict=True)
            ]
            best = min(range(len(costs)), key=costs.__getitem__)
            moved |= best != taken[own]
            taken[own] = best
        if not moved:
            break
    return taken


def _candidates(point: tuple[float, float], size: tuple[float, float], *, radius: float) -> list[tuple[Box, float]]:
    (x, y), (wide, tall) = point, size
    found = []
    for distance in DISTANCES:
        for rank, (dx, dy) in enumerate(DIRECTIONS):
            reach = distance / math.hypot(dx, dy)
            middle_x = x + dx * (reach + wide / 2)
            middle_y = y + dy * (reach + tall / 2)
            box = Box(middle_x - wide / 2, middle_y - tall / 2, middle_x + wide / 2, middle_y + tall / 2)
            found.append((box, 3.0 * (distance - DISTANCES[0]) + 2.0 * rank))
    return found


def _hull(boxes: Sequence[Box]) -> Box:
    return Box(
        min(box.left for box in boxes),
        min(box.top for box in boxes),
        max(box.right for box in boxes),
        max(box.bottom for box in boxes),
    )


def _obstacles(
    box: Box,
    point: tuple[float, float],
    marks: Sequence[Box],
    frame: Box,
    bars: Sequence[Segment],
    lines: Sequence[Segment],
    radius: float,
) -> float:
    cost = 40.0 * box.outside(frame) + 5.0 * _on_points(box, point, marks, radius)
    cost += sum(1.6 * _crossing(box, bar) for bar in bars)
    return cost + sum(2.4 * _crossing(box, line) for line in lines)


def _on_points(box: Box, point: tuple[float, float], marks: Sequence[Box], radius: float) -> float:
    """By how much a label and its leader cover points, those of others."""
    leader = _leader(point, box, radius=radius)
    return sum(box.overlap(mark) + (0.0 if leader is None else 3.0 * _crossing(mark, leader)) for mark in marks)


def _crossing(box: Box, segment: Segment) -> float:
    """Length of a segment inside a box (Liang and Barsky's clipping)."""
    x0, y0, x1, y1 = segment
    enter, leave = 0.0, 1.0
    for start, step, low, high in ((x0, x1 - x0, box.left, box.right), (y0, y1 - y0, box.top, box.bottom)):
        if step == 0:
            if not low <= start <= high:
                return 0.0
            continue
        ends = sorted(((low - start) / step, (high - start) / step))
        enter, leave = max(enter, ends[0]), min(leave, ends[1])
    return max(0.0, leave - enter) * math.hypot(x1 - x0, y1 - y0)


def _leader(point: tuple[float, float], box: Box, *, radius: float) -> Segment | None:
    x, y = point
    near_x = min(max(x, box.left), box.right)
    near_y = min(max(y, box.top), box.bottom)
    gap = math.hypot(near_x - x, near_y - y)
    if gap < radius + 5:
        return None
    share = radius / gap
    return x + (near_x - x) * share, y + (near_y - y) * share, near_x, near_y
