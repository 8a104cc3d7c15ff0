"""One scale for several models, from who beat whom: Bradley and Terry's, and Elo as papers compute it."""

from __future__ import annotations

import math
from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Literal, NamedTuple

import numpy as np
from scipy.sparse.csgraph import connected_components  # type: ignore[import-untyped]

from equipoise.errors import DataError, SettingError, nearest
from equipoise.statistics.intervals import Array, Estimate
from equipoise.statistics.resampling import redrawn_totals
from equipoise.statistics.wins import SCORES, Judgement, by_order, checked

ELO = 400 / math.log(10)
"""Elo points per unit of log-odds."""


@dataclass(frozen=True, slots=True)
class Ratings:
    """Ratings by model (kind "rating"), best first, and how surely they have an interval.

    `low` and `high` are None for the anchor, with one prompt, where no draw differs, and where more draws than a tail
    holds give no finite rating (`infinite`, a share of the draws).
    """

    models: dict[str, Estimate]
    anchor: str
    scale: Literal["elo", "log-odds"]
    unscored: int
    infinite: float


class EloRating(NamedTuple):
    """Mean over the trials and their standard deviation: how much the order of the games matters, not an interval."""

    mean: float
    sd: float


def bradley_terry(
    judgements: Sequence[Judgement],
    *,
    anchor: str,
    anchor_at: float | None = None,
    scale: Literal["elo", "log-odds"] = "elo",
    prior: float = 0.0,
    level: float = 0.95,
    seed: int = 0,
) -> Ratings:
    """Most likely ratings under P(a beats b) = sigmoid(a - b), ties as half a win each (Bradley and Terry 1952).

    `anchor` keeps the rating `anchor_at` (1000 on the Elo scale of 400 / ln 10 points per log-odds, 0 in log-odds);
    intervals are bootstrapped over prompts. `prior` imagined ties between every two models (0.1, say) give finite
    ratings where a model won or lost everything, and pull all ratings together; the default 0 refuses such data.
    Deviates: the judgements of one prompt and pair, both orders averaged, count as one game.
    """
    if scale not in ("elo", "log-odds"):
        raise SettingError(f"scale '{scale}' is unknown{nearest(scale, ('elo', 'log-odds'))}")
    if not (prior >= 0 and math.isfinite(prior)):
        raise SettingError(f"prior must be at least 0 and finite, got {prior:g}")
    if not 0 < level < 1:
        raise SettingError(f"level must lie between 0 and 1, got {level:g}")
    names, features, games = _games(judgements, anchor)
    size = len(names)
    imagined = prior / 2 * (1 - np.eye(size))
    wins = features.sum(axis=0).reshape(size, size) + imagined
    _finite_or_refuse(names, wins)
    unit = ELO if scale == "elo" else 1.0
    start = anchor_at if anchor_at is not None else (1000.0 if scale == "elo" else 0.0)
    found = _fit(wins[None])[0]
    lows, highs, infinite = _ends(features, imagined, found, level=level, seed=seed)
    models = {}
    for i in sorted(range(size), key=lambda i: (-found[i], names[i])):
        played = games[i]
        low, high = lows[i], highs[i]
        wide = i > 0 and high - low > 1e-12  # the anchor is fixed; nan compares false
        models[names[i]] = Estimate(
            start + unit * float(found[i]),
            start + unit * float(low) if wide else None,
            start + unit * float(high) if wide else None,
            sum(j.verdict is not None and names[i] in (j.first, j.second) for j in judgements),
            played,
            "rating",
            level,
            float(played),
        )
    return Ratings(models, anchor, scale, sum(j.verdict is None for j in judgements), infinite)


def elo(
    judgements: Sequence[Judgement],
    *,
    anchor: str,
    anchor_at: float = 1000.0,
    k: float = 32.0,
    start: float = 1200.0,
    scale: float = 400.0,
    trials: int = 50,
    epochs: int = 10,
    seed: int = 0,
) -> dict[str, EloRating]:
    """Elo ratings, mean over `trials` of `epochs` passes over the shuffled verdicts, best first (SACPO, Safe RLHF).

    Every model starts at `start`; a tie scores 0.5; unscored verdicts are left out. Afterwards all ratings of a trial
    are moved so that `anchor` has `anchor_at`. Deviates: the papers leave open whether every pass is shuffled anew
    (here it is) and how they rescale (here by a shift, which keeps every expected score). `bradley_terry` has no such
    choices, and intervals.
    """
    for name, value in (("k", k), ("scale", scale), ("trials", trials), ("epochs", epochs)):
        if not value > 0:
            raise SettingError(f"{name} must be above 0, got {value:g}")
    scored = [j for j in checked(judgements) if j.verdict is not None]
    names = list(dict.fromkeys(name for j in scored for name in (j.first, j.second)))
    _anchored(anchor, names)
    place = {name: i for i, name in enumerate(names)}
    games = [(place[j.first], place[j.second], SCORES[j.verdict]) for j in scored if j.verdict is not None]
    generator = np.random.default_rng(seed)
    finals = np.empty((trials, len(names)))
    for trial in range(trials):
        own = [start] * len(names)
        for _ in range(epochs):
            for g in generator.permutation(len(games)).tolist():
                a, b, score = games[g]
                gain = k * (score - 1 / (1 + 10 ** ((own[b] - own[a]) / scale)))
                own[a] += gain
                own[b] -= gain
        finals[trial] = np.array(own) - own[place[anchor]] + anchor_at
    found = {name: EloRating(float(finals[:, i].mean()), float(finals[:, i].std())) for name, i in place.items()}
    return dict(sorted(found.items(), key=lambda item: (-item[1].mean, item[0])))


def _games(judgements: Sequence[Judgement], anchor: str) -> tuple[list[str], Array, list[int]]:
    """Models with the anchor first, wins of each over each per prompt (C, M * M), and prompts per model."""
    orders = by_order(checked(judgements))
    names = list(dict.fromkeys(name for j in judgements if j.verdict is not None for name in (j.first, j.second)))
    _anchored(anchor, names)
    names = [anchor, *(name for name in names if name != anchor)]
    place = {name: i for i, name in enumerate(names)}
    prompts: dict[Hashable, int] = {}
    for prompt, _ in orders:
        prompts.setdefault(prompt, len(prompts))
    wins = np.zeros((len(prompts), len(names), len(names)))
    for (prompt, pair), found in orders.items():
        a, b = sorted(pair, key=place.__getitem__)
        share = fmean(fmean(scores) if first == a else 1 - fmean(scores) for first, scores in found.items())
        wins[prompts[prompt], place[a], place[b]] = share
        wins[prompts[prompt], place[b], place[a]] = 1 - share
    played = ((wins + wins.transpose(0, 2, 1)).sum(axis=2) > 0).sum(axis=0)
    return names, wins.reshape(len(prompts), -1), played.tolist()


def _anchored(anchor: str, names: Sequence[str]) -> None:
    if not names:
        raise DataError("ratings need at least one scored judgement, got none")
    if anchor not in names:
        raise DataError(f"anchor '{anchor}' has no scored judgement{nearest(anchor, names)}")


def _finite_or_refuse(names: Sequence[str], wins: Array) -> None:
    """Ratings are finite when every model can be reached from every other along wins (Ford 1957)."""
    if connected_components(wins > 0, directed=True, connection="strong")[0] == 1:
        return
    parts, part = connected_components(wins > 0, directed=False)
    cure = "; give more judgements or prior=0.1"
    if parts > 1:
        apart = next(name for name, p in zip(names, part, strict=True) if p != part[0])
        raise DataError(f"ratings have no common scale: no chain of judgements joins '{names[0]}' and '{apart}'{cure}")
    sides = ((wins.sum(axis=0) == 0, "won"), (wins.sum(axis=1) == 0, "lost"))
    extreme = [f"'{n}' {word} everything" for side, word in sides for n, yes in zip(names, side, strict=True) if yes]
    if extreme:
        raise DataError(f"no finite ratings: {', '.join(extreme)}{cure}")
    _, group = connected_components(wins > 0, directed=True, connection="strong")
    top = next(g for g in set(group.tolist()) if not (wins[group != g][:, group == g] > 0).any())
    best = ", ".join(f"'{name}'" for name, g in zip(names, group, strict=True) if g == top)
    raise DataError(f"no finite ratings: the group of {best} won every comparison with the other models{cure}")


def _ends(features: Array, imagined: Array, found: Array, *, level: float, seed: int) -> tuple[Array, Array, float]:
    """Quantiles of the ratings over redrawn prompts, each (M,), nan without any, and the share of infinite draws."""
    clusters, size = len(features), len(found)
    nothing = np.full(size, np.nan)
    if clusters == 1:
        return nothing, nothing, 0.0
    draws = redrawn_totals(features, seed=seed).reshape(-1, size, size) + imagined
    finite = np.array([connected_components(w > 0, directed=True, connection="strong")[0] == 1 for w in draws])
    infinite = 1 - float(finite.mean())
    tail = (1 - level) / 2
    if infinite > tail:
        return nothing, nothing, infinite
    fits = found + (_fit(draws[finite], found) - found) * math.sqrt(clusters / (clusters - 1))
    low, high = np.quantile(fits, (tail, 1 - tail), axis=0)
    return low, high, infinite


def _fit(wins: Array, start: Array | None = None) -> Array:
    """Log-odds of the models with the first at 0, (D, M), by Newton's method on D tables of wins (D, M, M) at once."""
    depth, size = wins.shape[:2]
    own = np.zeros((depth, size)) if start is None else np.tile(start, (depth, 1))
    games = wins + wins.transpose(0, 2, 1)
    eye = np.eye(size - 1, dtype=bool)
    for _ in range(200):
        chance = 1 / (1 + np.exp(np.clip(own[:, None, :] - own[:, :, None], -700, 700)))
        slope = (wins - games * chance).sum(axis=2)[:, 1:]
        bend = games * chance * (1 - chance)
        curve = np.where(eye, bend.sum(axis=2)[:, 1:, None] + 1e-12, -bend[:, 1:, 1:])
        step = np.linalg.solve(curve, slope[:, :, None])[:, :, 0]
        # A long step would overshoot where curves are flat.
        own[:, 1:] += step / np.maximum(1.0, np.abs(step).max(axis=1, keepdims=True) / 2)
        if np.abs(step).max() < 1e-9:
            return own
    raise DataError("ratings did not settle within 200 steps: prior=0.1 keeps them closer together")
