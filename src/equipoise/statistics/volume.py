"""What a set of points dominates: the hypervolume of safety and helpfulness, in two dimensions an area."""

from __future__ import annotations

from collections.abc import Sequence

from equipoise.errors import DataError


def volume(points: Sequence[tuple[float, float]], *, floor: float = 0.0) -> float:
    """The area that points (unsafe rate, reward) dominate, from unsafe in every answer and a reward of `floor`.

    Zitzler and Thiele 1998, the S-metric. Rates lie in [0, 1]; a point below the floor adds nothing. A model that is
    never unsafe at a reward of 1 above the floor has volume 1.
    """
    for rate, _ in points:
        if not 0 <= rate <= 1:
            raise DataError(f"an unsafe rate lies between 0 and 1, got {rate:g}")
    area, best = 0.0, floor
    # From the safest on: each more helpful one adds a strip above what safer ones have.
    for rate, reward in sorted(points, key=lambda point: (point[0], -point[1])):
        if reward > best:
            area += (1 - rate) * (reward - best)
            best = reward
    return area
