"""Names that data files may use for their columns, and the fixed reasons for which a row is not used."""

from __future__ import annotations

import re
from collections.abc import Iterable
from enum import StrEnum

from equipoise.errors import DataError

PROMPTS = ("prompt", "question", "goal", "query", "instruction")
"""Columns that hold a prompt in a list of prompts."""

COLUMNS = frozenset(
    {
        *PROMPTS,
        *("system", "input", "output", "history", "kto_tag"),
        *("messages", "conversations"),
        *("chosen", "rejected", "score_chosen", "score_rejected"),
        *("completion", "label", "safe", "severity", "harm_category", "reward", "cost"),
        *("response_0", "response_1", "better_response_id", "safer_response_id"),
        *(f"is_response_{i}_safe" for i in (0, 1)),
        *("modeloutput1", "modeloutput2", "better_modelout", "is_modelout1_safe", "is_modelout2_safe"),
        *(f"response_{i}_{what}" for i in (0, 1) for what in ("harm_category", "severity_level", "reward", "cost")),
        *("category", "labelled_by", "text", "completions", "responses"),
    }
)
"""Columns the reader knows by name, besides those of `RATING`."""

FLAGS = frozenset(
    {"safe", "chosen_safe", "rejected_safe"}
    | {f"is_response_{i}_safe" for i in (0, 1)}
    | {f"is_modelout{i}_safe" for i in (1, 2)}
)
"""Columns that say whether an answer is safe."""

RATING = re.compile(
    r"(?P<side>chosen|rejected)_(?P<of_side>\w+)|(?P<of_pair>\w+)_score_(?P<index>[01])|(?P<single>\w+)_score"
)
"""Names of rated aspects: `chosen_honesty`, `honesty_score_0` (first response), `honesty_score` (single answer)."""


def is_known(column: str) -> bool:
    """True where the reader knows what a column of this name holds."""
    return column in COLUMNS or RATING.fullmatch(column) is not None


class Reason(StrEnum):
    """Why a row is not used; the only phrases that `Dropped.reason` takes."""

    IDENTICAL = "identical answers"
    EMPTY_COMPLETION = "empty completion"
    EMPTY_PROMPT = "empty prompt"
    CONTRADICTORY = "contradictory labels"
    NO_ORDER = "missing order"
    NO_SAFETY_FLAG = "missing safety flag"
    BOTH_UNSAFE = "both answers unsafe"
    NO_ANSWER = "no answer"
    NO_TRAINED_TOKEN = "no trained token"
    DUPLICATE = "duplicate"
    NEAR_DUPLICATE = "near-duplicate of a training prompt"
    NOT_TEXT = "not text"
    BAD_LABEL = "unreadable label"
    BAD_TURNS = "unreadable dialogue"
    TOO_LONG = "too long for max_length"
    NO_RATING = "missing rating"
    OFF_SCALE = "rating outside the scale"
    HOLDS_TOKENS = "holds a preference token"
    TIED = "all answers tie"
    NO_CONDITION = "no condition fits"
    ASKS_FOR_HARM = "its condition would ask for harm"


NO_FAULT = frozenset({Reason.BOTH_UNSAFE, Reason.TIED, Reason.NO_CONDITION, Reason.ASKS_FOR_HARM})
"""Reasons that are counted and written down but are nothing wrong with a row: `max_dropped` does not count them."""


class BadRow(DataError):
    """One row of a file cannot be read: `reason` is a fixed phrase, the message says which column and why."""

    def __init__(self, reason: Reason, detail: str) -> None:
        super().__init__(detail)
        self.reason = reason


class UnknownLayout(DataError):
    """The rows have `columns` of no known layout; `answers` are those that may hold answers to known prompts."""

    def __init__(self, message: str, columns: Iterable[str], answers: Iterable[str] = ()) -> None:
        super().__init__(message)
        self.columns, self.answers = tuple(sorted(columns)), tuple(answers)
