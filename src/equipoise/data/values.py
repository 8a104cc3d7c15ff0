"""Cells -> values: text, flags, numbers, messages; absent stays `None`, what cannot be read raises BadRow."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable

from equipoise.data.columns import BadRow, Reason
from equipoise.types import Message

Dialogue = tuple[Message, ...]

ROLES = {
    "system": "system",
    "user": "user",
    "human": "user",
    "prompter": "user",
    "assistant": "assistant",
    "gpt": "assistant",
    "chatgpt": "assistant",
    "model": "assistant",
}
_TURN = re.compile(r"(?:^|\n\n)(Human|Assistant):")
_FLAGS = {"true": True, "yes": True, "1": True, "false": False, "no": False, "0": False}


def text(value: object, column: str) -> str:
    """Return a text cell; an absent one is empty, so that it is dropped (and counted) as empty later."""
    if value is None:
        return ""
    if not isinstance(value, str):
        raise BadRow(Reason.NOT_TEXT, f"{column} is a {_type(value)}, expected text")
    if not value.isascii() and any("\ud800" <= character <= "\udfff" for character in value):
        raise BadRow(Reason.NOT_TEXT, f"{column} holds half of a surrogate pair, which is not a character")
    return value


def flag(value: object, column: str) -> bool | None:
    """Return a yes/no cell: a boolean, 0/1, or one of the words true/false/yes/no."""
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, float) and math.isnan(value):
        return None
    if isinstance(value, int | float) and value in (0, 1):
        return value == 1
    if isinstance(value, str):
        if not value.strip():
            return None
        if value.strip().lower() in _FLAGS:
            return _FLAGS[value.strip().lower()]
    raise BadRow(Reason.BAD_LABEL, f"{column} is {_shown(value)}, expected true or false")


def number(value: object, column: str) -> float | None:
    """Return a finite number (NaN, as tables write absence, is absent)."""
    if value is None or (isinstance(value, str) and not value.strip()):
        return None
    try:
        result = float(value) if isinstance(value, int | float | str) and not isinstance(value, bool) else math.inf
    except ValueError:
        result = math.inf
    if math.isinf(result):
        raise BadRow(Reason.BAD_LABEL, f"{column} is {_shown(value)}, expected a number")
    return None if math.isnan(result) else result


def whole(value: object, column: str) -> int | None:
    """Return a whole number."""
    result = number(value, column)
    if result is not None and result != int(result):
        raise BadRow(Reason.BAD_LABEL, f"{column} is {_shown(value)}, expected a whole number")
    return None if result is None else int(result)


def response_index(value: object, column: str) -> int | None:
    """Return 0 or 1, the response a column points at."""
    if isinstance(value, bool):
        raise BadRow(Reason.BAD_LABEL, f"{column} is {value}, expected the number of a response: 0 or 1")
    result = whole(value, column)
    if result not in (None, 0, 1):
        raise BadRow(Reason.BAD_LABEL, f"{column} is {_shown(value)}, expected the number of a response: 0 or 1")
    return result


def categories(value: object, column: str) -> tuple[str, ...]:
    """Return the names that are true in {"name": bool}, or a list of names, or one name."""
    if value is None or value == "":
        return ()
    if isinstance(value, dict):
        return tuple(str(name) for name, told in value.items() if flag(told, f"{column}.{name}"))
    if isinstance(value, list):
        return tuple(text(name, column) for name in value)
    return (text(value, column),)


def messages(value: object, column: str) -> Dialogue:
    """Return a list of {role, content} or {from, value} (one such object is a list of one) with standard roles."""
    if isinstance(value, dict):
        value = [value]
    if not isinstance(value, list | tuple):
        raise BadRow(Reason.NOT_TEXT, f"{column} is a {_type(value)}, expected a list of messages")
    return tuple(_message(item, f"{column}[{i}]") for i, item in enumerate(value))


def _message(value: object, where: str) -> Message:
    if not isinstance(value, dict):
        raise BadRow(Reason.NOT_TEXT, f"{where} is a {_type(value)}, expected a message with role and content")
    role = value.get("role") or value.get("from")
    content = value.get("content") if "content" in value else value.get("value")
    if not isinstance(role, str) or role.lower() not in ROLES:
        raise BadRow(Reason.BAD_TURNS, f"{where} has the role {_shown(role)}, expected one of {', '.join(ROLES)}")
    return Message(role=ROLES[role.lower()], content=text(content, where))


def is_transcript(value: object) -> bool:
    """True for HH-RLHF's notation: turns that begin with a blank line and `Human:` or `Assistant:`."""
    return isinstance(value, str) and value.startswith("\n\nHuman:")


def transcript(value: object, column: str) -> Dialogue:
    """Split HH-RLHF's notation into turns; the space around a turn belongs to the notation."""
    whole_text = text(value, column)
    pieces = _TURN.split(whole_text)
    if not whole_text.startswith(("\n\nHuman:", "\n\nAssistant:")):
        raise BadRow(Reason.BAD_TURNS, f"{column} does not begin with a turn (a blank line, then Human: or Assistant:)")
    turns = zip(pieces[1::2], pieces[2::2], strict=True)
    return tuple(Message(role=ROLES[role.lower()], content=said.strip()) for role, said in turns)


def shared_turns(dialogues: Iterable[Dialogue]) -> int:
    """Return how many leading turns all dialogues have in common, leaving each its last turn."""
    first, *others = dialogues
    count = 0
    limit = min(len(first), *(len(other) for other in others)) - 1 if others else len(first) - 1
    while count < limit and all(other[count] == first[count] for other in others):
        count += 1
    return count


def _type(value: object) -> str:
    names = {bool: "boolean", int: "number", float: "number", str: "text", list: "list", dict: "table"}
    return names.get(type(value), type(value).__name__)


def _shown(value: object) -> str:
    written = repr(value)
    return written if len(written) <= 40 else f"{written[:37]}..."
