"""Bounds for differences: of paired rates with few prompts on which two models differ, and of figures not paired."""

from __future__ import annotations

import math

from scipy.special import ndtri  # type: ignore[import-untyped]

from equipoise.errors import DataError, SettingError

_HALVINGS = 60


def apart(
    first: float, first_ends: tuple[float, float], second: float, second_ends: tuple[float, float]
) -> tuple[float, float]:
    """Ends of first - second where the two are independent and each has ends of its own.

    Newcombe 1998 (method 10): the distances to both ends add as squares.
    """
    gap = first - second
    return (
        gap - math.hypot(first - first_ends[0], second_ends[1] - second),
        gap + math.hypot(first_ends[1] - first, second - second_ends[0]),
    )


def score_bounds(only_first: float, only_second: float, n: int, *, confidence: float = 0.95) -> tuple[float, float]:
    """One-sided lower and upper bound for the difference of two rates on the same `n` prompts, first - second.

    Tango 1998 (doi:10.1002/(SICI)1097-0258(19980430)17:8<891::AID-SIM780>3.0.CO;2-B), score interval. `only_first`
    prompts have a hit of the first model alone, `only_second` of the second alone; a bootstrap over prompts sees too
    little where these are few.
    Deviates: counts may be shares of a prompt's answers, for which the bounds are too wide rather than too narrow.
    """
    if not 0.5 < confidence < 1:
        raise SettingError(f"confidence must lie between 0.5 and 1, got {confidence:g}")
    if n < 1 or min(only_first, only_second) < 0 or only_first + only_second > n + 1e-9:
        raise DataError(
            f"a paired difference needs counts within the number of prompts, got {only_first:g} and {only_second:g} "
            f"of {n}"
        )
    reach = float(ndtri(confidence))
    upper = _upper(only_first, only_second, n, reach)
    return -_upper(only_second, only_first, n, reach), upper


def _upper(first: float, second: float, n: int, reach: float) -> float:
    """The largest difference whose score is still within `reach`, by bisection: the score falls with the difference."""
    low, high = (first - second) / n, 1.0
    for _ in range(_HALVINGS):
        middle = (low + high) / 2
        low, high = (middle, high) if _score(first, second, n, middle) > -reach else (low, middle)
    return high


def _score(first: float, second: float, n: int, difference: float) -> float:
    """How many standard errors the observed difference lies above `difference`, the errors being those under it."""
    b = (2 * n - first + second) * difference - first - second
    c = -second * difference * (1 - difference)
    share = (math.sqrt(max(b * b - 8 * n * c, 0.0)) - b) / (4 * n)  # most likely share of "only second" under it
    variance = n * (2 * share + difference * (1 - difference))
    return 0.0 if variance <= 0 else (first - second - n * difference) / math.sqrt(variance)
