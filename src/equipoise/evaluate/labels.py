"""Where the names of points go so that none covers another: used by the page's plot and by the picture alike."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

SWEEPS = 8
DIRECTIONS = ((1, 0), (-1, 0), (0, -1), (0, 1), (1, -1), (-1, -1), (1, 1), (-1, 1))
DISTANCES = (11.0, 19.0, 30.0, 44.0, 60.0)


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
    radius: float = 8.0,
) -> list[Placed]:
    """Place one label of the given (width, height) beside each point, as close as the others let it.

    Labels avoid each other, the points, `bars` (error bars) and `lines` (curves), and stay inside `frame`. Every label
    takes the cheapest of its candidate places in turn, until no one moves.
    """
    options = [_candidates(point, size, radius=radius) for point, size in zip(points, sizes, strict=True)]
    fixed = [
        [reach + _obstacles(box, own, points, frame, bars, lines, radius) for box, reach in boxes]
        for own, boxes in enumerate(options)
    ]
    taken = [min(range(len(costs)), key=costs.__getitem__) for costs in fixed]
    for _ in range(SWEEPS):
        moved = False
        for own, boxes in enumerate(options):
            others = [options[i][taken[i]][0].grown(2.0) for i in range(len(options)) if i != own]
            costs = [
                cost + 6.0 * sum(box.overlap(other) for other in others)
                for (box, _), cost in zip(boxes, fixed[own], strict=True)
            ]
            best = min(range(len(costs)), key=costs.__getitem__)
            moved |= best != taken[own]
            taken[own] = best
        if not moved:
            break
    chosen = [boxes[i][0] for boxes, i in zip(options, taken, strict=True)]
    return [Placed(box, _leader(point, box, radius=radius)) for point, box in zip(points, chosen, strict=True)]


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


def _obstacles(
    box: Box,
    own: int,
    points: Sequence[tuple[float, float]],
    frame: Box,
    bars: Sequence[Segment],
    lines: Sequence[Segment],
    radius: float,
) -> float:
    cost = 40.0 * box.outside(frame)
    for i, (x, y) in enumerate(points):
        if i != own:
            cost += 5.0 * box.overlap(Box(x - radius, y - radius, x + radius, y + radius))
    cost += sum(1.6 * _crossing(box, bar) for bar in bars)
    return cost + sum(2.4 * _crossing(box, line) for line in lines)


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
