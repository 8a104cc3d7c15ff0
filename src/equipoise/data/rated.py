"""Prompts with several rated answers in one record: UltraFeedback, UltraSafety, and their flattened form.

    {"instruction": ..., "completions": [{"response": ..., "annotations": {"honesty": {"Rating": "4", ...}}}]}
    {"instruction": ..., "responses":   [{"response": ..., "Honesty_Rating": "4"}]}

Cui et al. 2023, arXiv:2310.01377 (UltraFeedback); Guo et al. 2024, arXiv:2402.19085 (UltraSafety).
"""

from __future__ import annotations

import re
from collections.abc import Mapping

from equipoise.data.columns import BadRow, Reason
from equipoise.data.values import messages, number, text
from equipoise.types import Message, Response, SourceRow

_FLAT = re.compile(r"(?P<aspect>\w+)_rating", re.IGNORECASE)
_RENAMED = {"helpful": "helpfulness"}  # both spellings occur
_NO_RATING = frozenset(("n/a", "na", "none", "nan", ""))


def read_rated(cells: Mapping[str, object], axis: object = None) -> SourceRow:
    """Return the row of an instruction (text or messages) and its answers, each with ratings by aspect (small letters).

    A rating of "N/A" is absent. The system prompts that the answers were sampled under are left out, as in the paper's
    code: they differ from answer to answer.
    """
    column = "completions" if "completions" in cells else "responses"
    answers = cells[column]
    if not isinstance(answers, list | tuple):
        raise BadRow(Reason.NO_ANSWER, f"{column} is not a list of answers")
    asked = cells.get("instruction")
    if isinstance(asked, list):
        prompt = messages(asked, "instruction")
    else:
        prompt = (Message(role="user", content=text(asked, "instruction")),)
    found = tuple(_answer(answer, f"{column}[{i}]") for i, answer in enumerate(answers))
    return SourceRow(id="", prompt=prompt, responses=found)


def _answer(answer: object, where: str) -> Response:
    if not isinstance(answer, Mapping):
        raise BadRow(Reason.NOT_TEXT, f"{where} is not an object with response and ratings")
    ratings: dict[str, object] = {}
    for name, held in answer.items():
        if found := _FLAT.fullmatch(str(name)):
            ratings[found["aspect"]] = held
    annotations = answer.get("annotations")
    if isinstance(annotations, Mapping):
        ratings |= {str(aspect): _rating(held) for aspect, held in annotations.items()}
    elif annotations is not None:
        raise BadRow(Reason.BAD_LABEL, f"{where}.annotations is not an object of aspects")
    read = {_aspect(name): _number(rated, f"{where}: the rating of {name}") for name, rated in ratings.items()}
    return Response(
        text=text(answer.get("response"), f"{where}.response"),
        ratings={aspect: rated for aspect, rated in read.items() if rated is not None},
    )


def _rating(held: object) -> object:
    """Return the rating in an annotation: `{"Rating": "4", ...}`, or a list that holds one such object."""
    if isinstance(held, list | tuple):
        held = held[0] if len(held) == 1 else None
    return held.get("Rating") if isinstance(held, Mapping) else held


def _number(value: object, where: str) -> float | None:
    if isinstance(value, str) and value.strip().lower() in _NO_RATING:
        return None
    return number(value, where)


def _aspect(name: str) -> str:
    return _RENAMED.get(name.lower(), name.lower())
