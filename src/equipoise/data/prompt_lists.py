"""Lists of prompts whose shapes are their own: red-team dialogues, questions under topics or categories.

    {"transcript": "\\n\\nHuman: ...\\n\\nAssistant: ...", "task_description": ..., "tags": [...], ...}   HH's attempts
    {"question": ..., "topic": ..., "subtopic": ..., "blue_conversations": ..., ...}            HarmfulQA
    {"Question": ..., "Category": ..., "Subcategory": ...}                                      CatQA
    {"prompt": ..., "type": ..., "label": "safe" | "unsafe", "focus": ..., ...}                   XSTest

Ganguli et al. 2022, arXiv:2209.07858; Bhardwaj and Poria 2023, arXiv:2308.09662; Bhardwaj et al. 2024,
arXiv:2402.11746; Röttger et al. 2024, arXiv:2308.01263.
Answers in these files were given to show what goes wrong, or by other models: they are left out.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import NamedTuple

from equipoise.data.columns import BadRow, Reason
from equipoise.data.values import categories, text, transcript
from equipoise.types import Message, SourceRow


def read_attempt(cells: Mapping[str, object], axis: object = None) -> SourceRow:
    """The first turn of a person who tried to lead an assistant astray; the first of its tags is the category."""
    turns = transcript(cells["transcript"], "transcript")
    if turns[0]["role"] != "user":
        raise BadRow(Reason.BAD_TURNS, "transcript does not begin with a turn of Human")
    tags = categories(cells.get("tags"), "tags")
    return _prompt(turns[0]["content"], "transcript", tags[0] if tags else "")


def read_topic(cells: Mapping[str, object], axis: object = None) -> SourceRow:
    """A question under a topic, which is its category."""
    return _prompt(text(cells["question"], "question"), "question", text(cells["topic"], "topic"))


def read_category(cells: Mapping[str, object], axis: object = None) -> SourceRow:
    """A question under a category."""
    return _prompt(text(cells["Question"], "Question"), "Question", text(cells["Category"], "Category"))


XSTEST, CONTRAST = "xstest", "contrast_"


def read_xstest(cells: Mapping[str, object], axis: object = None) -> SourceRow:
    """A prompt with its type as the category: types of unsafe prompts, made for contrast, begin with `contrast_`.

    A label, where there is one, must agree with the type.
    """
    kind = text(cells["type"], "type")
    if not kind:
        raise BadRow(Reason.BAD_LABEL, "type is empty, and it says whether a prompt is safe")
    said = cells.get("label")
    expected = "unsafe" if kind.startswith(CONTRAST) else "safe"
    if said is not None and said != expected:
        raise BadRow(Reason.BAD_LABEL, f"label is {said!r} where type {kind} is one of {expected} prompts")
    return _prompt(text(cells["prompt"], "prompt"), "prompt", kind)


def _prompt(said: str, column: str, category: str) -> SourceRow:
    if not said.strip():
        raise BadRow(Reason.EMPTY_PROMPT, f"{column} is empty")
    return SourceRow(id="", prompt=(Message(role="user", content=said),), category=category or None)


class PromptList(NamedTuple):
    """The name of a layout, the columns that its rows have, and what makes a row of their cells."""

    name: str
    needs: frozenset[str]
    read: Callable[[Mapping[str, object], object], SourceRow]


PROMPT_LISTS = (
    PromptList("red-team", frozenset({"transcript", "task_description"}), read_attempt),
    PromptList("questions-by-topic", frozenset({"question", "topic", "subtopic"}), read_topic),
    PromptList("questions-by-category", frozenset({"Question", "Category"}), read_category),
    PromptList(XSTEST, frozenset({"prompt", "type", "focus"}), read_xstest),
)
