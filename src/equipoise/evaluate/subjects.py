"""What is evaluated: a model with its label, and what led to it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any, NamedTuple

from equipoise.generate import Sampling
from equipoise.store import Input
from equipoise.types import Artefact


class Subject(NamedTuple):
    """A model as results name it; `line` is the curve that it belongs to, `method` is `base` for the one before all.

    Where a server that runs already answers in its place, `answers` gives completions to prompts, and `served` is what
    results say of the model; `model` then is whose tokenizer and template the server is to have.
    """

    label: str
    model: Input
    method: str = "model"
    setting: Mapping[str, Any] = MappingProxyType({})
    seed: int = 0
    line: str | None = None
    answers: Callable[[Input, Sampling], Artefact] | None = None
    served: str | None = None
