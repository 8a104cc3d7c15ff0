"""How results are told apart: a color and a shape for each curve or method, and the names a legend gives them."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

Result = Mapping[str, Any]

_FORMS = (
    "circle",
    "square",
    "diamond",
    "up",
    "down",
    "hexagon",
    "pentagon",
    "left",
    "right",
    "plus",
    "star",
    "cross",
)
SHAPES = (*_FORMS, *_FORMS[1:])
"""The shape of each look. Look 0 is the base's; the others take seven colors (style.css, picture.py) and eleven shapes
in turn, so that none of the 22 is like another."""

CROWDED = 12
"""With more points than this, a plot has a legend, and labels on a curve leave out the curve's name."""

_CORNERS = {
    "square": (4, 45, 1.22),
    "diamond": (4, 0, 1.25),
    "up": (3, -90, 1.36),
    "down": (3, 90, 1.36),
    "left": (3, 180, 1.36),
    "right": (3, 0, 1.36),
    "hexagon": (6, 0, 1.1),
    "pentagon": (5, -90, 1.16),
}
_ARM, _WAIST = 1.3, 0.45  # a plus: how far its arms reach and half their width
_TIP, _NOTCH = 1.5, 0.65  # a star: its corners, outer and inner


class Entry(NamedTuple):
    """One entry of a legend: the look, its shape and what it stands for."""

    look: int
    shape: str
    name: str


def looks(results: Sequence[Result]) -> list[int]:
    """Number the look (color and shape) of each result: one per curve or method, 0 for the base."""
    known: dict[str, int] = {}
    found = []
    for result in results:
        if result["method"] == "base":
            found.append(0)
            continue
        found.append(known.setdefault(_group(result), len(known) % (len(SHAPES) - 1) + 1))
    return found


def legend(results: Sequence[Result]) -> list[Entry]:
    """Name every curve and method once, in order of appearance; empty when the labels in the plot say it all."""
    if len(results) <= CROWDED:
        return []
    groups: dict[tuple[int, str], list[Result]] = {}
    for look, result in zip(looks(results), results, strict=True):
        groups.setdefault((look, _group(result)), []).append(result)
    return [Entry(look, SHAPES[look], _name(group)) for (look, _), group in groups.items()]


def spoken(results: Sequence[Result]) -> list[str]:
    """Return what the plot writes beside each point: its label, on a crowded curve without the curve's name.

    The chosen result, which people speak of, keeps its whole name.
    """
    sizes: dict[str, int] = {}
    for result in results:
        sizes[_group(result)] = sizes.get(_group(result), 0) + 1
    short = len(results) > CROWDED
    return [
        result["label"].removeprefix(f"{result['line']} ")
        if short and result.get("line") and sizes[_group(result)] > 2 and not result.get("chosen")
        else result["label"]
        for result in results
    ]


def outline(shape: str, x: float, y: float, radius: float) -> str:
    """SVG path of a mark of about the same area whatever its shape."""
    if shape == "circle":
        arc = f"a{radius:.2f},{radius:.2f} 0 1 0"
        return f"M{x - radius:.2f},{y:.2f}{arc} {2 * radius:.2f},0{arc} {-2 * radius:.2f},0z"
    spots = [f"{x + radius * across:.1f},{y + radius * down:.1f}" for across, down in _corners(shape)]
    return f"M{'L'.join(spots)}z"


def _corners(shape: str) -> list[tuple[float, float]]:
    """Corners around 0 for a radius of 1, y downwards."""
    if shape in ("plus", "cross"):
        turn = 0 if shape == "plus" else 45
        reach, angle = math.hypot(_ARM, _WAIST), math.degrees(math.atan2(_WAIST, _ARM))
        inner = math.hypot(_WAIST, _WAIST)
        polar = [
            spot
            for quarter in range(0, 360, 90)
            for spot in ((reach, quarter - angle), (reach, quarter + angle), (inner, quarter + 45))
        ]
        return [_around(size, turn + degrees) for size, degrees in polar]
    if shape == "star":
        return [_around(_NOTCH if k % 2 else _TIP, -90 + 36 * k) for k in range(10)]
    corners, turn, size = _CORNERS[shape]
    return [_around(size, turn + 360 * k / corners) for k in range(corners)]


def _around(radius: float, degrees: float) -> tuple[float, float]:
    return radius * math.cos(math.radians(degrees)), radius * math.sin(math.radians(degrees))


def method_of(result: Result) -> str:
    """The method a result belongs to; a model that was only evaluated (method `model`) stands for itself."""
    return str(result["label"] if result["method"] == "model" else result["method"])


def _group(result: Result) -> str:
    return str(result.get("line") or method_of(result))


def _name(group: Sequence[Result]) -> str:
    """The curve's name, or the words with which all labels of a method begin, or the method."""
    first = group[0]
    if first.get("line"):
        return str(first["line"])
    words = zip(*(result["label"].replace(",", "").split() for result in group), strict=False)
    shared = itertools.takewhile(lambda column: len(set(column)) == 1, words)
    return " ".join(column[0] for column in shared) or str(first["method"])
