"""Memory of the CPU: given back to the system while training goes on."""

from __future__ import annotations

import ctypes
import sys
from typing import Any

from transformers import TrainerCallback, TrainingArguments

EVERY = 32  # steps; the call takes milliseconds


class GiveBack(TrainerCallback):
    """Returns freed pages of the C library's heap to the system every `EVERY` steps.

    Rows of ever different lengths leave glibc's heap full of holes that no later tensor fits into: a run of an hour on
    CPU grew by 10 GB. On a GPU, and without glibc, there is nothing to do.
    """

    def __init__(self) -> None:
        self._trim = _malloc_trim()

    def on_step_end(self, args: TrainingArguments, state: Any, control: Any, **kwargs: Any) -> None:
        if self._trim is not None and state.global_step % EVERY == 0:
            self._trim(0)


def _malloc_trim() -> Any:
    """glibc's `malloc_trim`, or None where there is none."""
    if sys.platform != "linux":
        return None
    try:
        return ctypes.CDLL("libc.so.6").malloc_trim
    except (OSError, AttributeError):  # another C library
        return None
