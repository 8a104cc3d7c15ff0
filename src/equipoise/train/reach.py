"""Whether the margins that a squared loss pulls to can be reached at all, from the reference's log-probabilities."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch

from equipoise.objectives import Objective
from equipoise.train.offline import Rows

_RARE = 0.05  # share of rows that may be out of reach without a word: there are always some one-word answers
_SHARE = 0.2  # of an answer's own nats that a target may comfortably ask for


def out_of_reach(chosen: Objective, settings: Mapping[str, float], rows: Rows) -> str | None:
    """What to say where targets ask an answer to rise by more than it can; None where they do not.

    A log-ratio is at most -log pi_ref of the answer: a 20-nat answer cannot rise by 50, so a larger margin can only
    come from crushing the other one.
    """
    if chosen.target is None or rows.reference is None or "tau" not in settings:
        return None
    everything, cpu = range(len(rows.table)), torch.device("cpu")
    target = chosen.target(*(rows.column(name, everything, cpu) for name in chosen.columns), **settings).numpy()
    nats = -np.where(target > 0, rows.reference[:, 0], rows.reference[:, 1])  # of the answer that is to rise
    far = np.abs(target) > nats
    if far.mean() <= _RARE:
        return None
    sizes = np.unique(np.abs(target[target != 0]).round(6))
    label = sizes[0] * settings["tau"]
    return (
        f"{chosen.name}: tau {settings['tau']:g} asks for margins of {', '.join(f'{size:g}' for size in sizes)} nats, "
        f"but the answers that are to rise hold {nats.mean():.3g} nats on average, and none can rise by more than it "
        f"holds: in {far.mean():.0%} of the pairs only crushing the other answer gets there; a tau of "
        f"{label / (_SHARE * nats.mean()):.2g} or more asks for a fifth"
    )
