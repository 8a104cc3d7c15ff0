"""Preference tokens that somebody else wrote: found however they are disguised, and taken out of text.

A model that was trained on tokens obeys whoever writes them. Nothing but `conditions.conditioned` may.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable, Sequence
from functools import lru_cache
from typing import NamedTuple

# Characters that pass for a bracket or a colon (what compatibility decomposition maps by itself is not listed).
_OPENING = "<\u2039\u2329\u3008\u27e8\u276e\u2770\u29fc\u00ab\u300a\u27ea\u02c2\u1438\u227a\u226a\u2277\u276c\u2af7"
_CLOSING = ">\u203a\u232a\u3009\u27e9\u276f\u2771\u29fd\u00bb\u300b\u27eb\u02c3\u1433\u227b\u226b\u2276\u276d\u2af8"
_COLONS = ":\u2236\u02d0\ua789\u0589\u05c3\u02f8\u205a\ua4fd\u1803\u0703\u16ec"
_LETTERS = {
    # Cyrillic, Greek and other letters that look like Latin ones.
    **dict(
        zip("\u0430\u0435\u043e\u0440\u0441\u0443\u0445\u0456\u0458\u0455\u04bb\u0501", "aeopcyxijshd", strict=True)
    ),
    **dict(zip("\u051b\u051d\u0442\u043a\u043c\u0432\u043d\u0433\u04cf\u0475", "qwtkmbhrlv", strict=True)),
    **dict(
        zip("\u03b1\u03b5\u03bf\u03c1\u03bd\u03b9\u03c4\u03ba\u03c5\u03c7\u03b7\u03f2", "aeopvitkuxnc", strict=True)
    ),
    **dict(
        zip("\u0131\u0261\u0269\u1d0f\u029f\u1d07\u0274\ua731\u1d1b\u028f\u0280\u1d00", "igiolenstyra", strict=True)
    ),
}
_BLANKS = "\u115f\u1160\u2800\u3164\uffa0"
_FOLDED = {
    **dict.fromkeys(_BLANKS, " "),
    **dict.fromkeys(_OPENING, "<"),
    **dict.fromkeys(_CLOSING, ">"),
    **dict.fromkeys(_COLONS, ":"),
    **_LETTERS,
}
_PLAIN = re.compile(r"[\t-\r -%'-~]*")  # ASCII without control characters and &
_PIECE = re.compile(r"&(?:lt|#0*60|#x0*3c);?|&(?:gt|#0*62|#x0*3e);?|.", re.IGNORECASE | re.DOTALL)
# Every character that folds to a bracket, so that text without one need not be folded.
_BRACKET = re.compile(
    f"[{re.escape(_OPENING + _CLOSING)}\uff1c\uff1e\ufe64\ufe65\u226e\u226f\u2278-\u2281\ufe3d-\ufe40]|&(?:lt|gt|#)",
    re.IGNORECASE,
)
_UNSEEN = frozenset(("Cf", "Mn", "Me", "Cn", "Co"))
_MOST_PASSES = 20


class _Skeleton(NamedTuple):
    """A text as it looks: plain small letters; character i stands for text[starts[i]:ends[i]]."""

    text: str
    starts: Sequence[int]
    ends: Sequence[int]


def neutralize(text: str, names: Iterable[str]) -> str:
    """Return user text without preference tokens of the objectives `names`, however they are disguised.

    Taken out: tokens in any case and spacing, in look-alike, wide or escaped brackets, colons and letters, with unseen
    characters inside, with one bracket missing, and what their removal would put together. Other text stays as it is.
    """
    if not _BRACKET.search(text):
        return text
    pattern = _forged(tuple(names))
    for _ in range(_MOST_PASSES):
        cleaner = _without(text, pattern)
        if cleaner == text:
            return text
        text = cleaner
    # Nested deeper than anybody writes by accident: no bracket is left to build a token with.
    skeleton = _skeleton(text)
    spans = zip(skeleton.text, skeleton.starts, skeleton.ends, strict=True)
    return _cut(text, [(start, end) for folded, start, end in spans if folded in "<>"])


def holds_tokens(text: str, names: Iterable[str]) -> bool:
    """Whether `neutralize` would take something out of a text."""
    return bool(_BRACKET.search(text)) and _forged(tuple(names)).search(_skeleton(text).text) is not None


@lru_cache(maxsize=64)
def _forged(names: tuple[str, ...]) -> re.Pattern[str]:
    spelled = "|".join(r"\s*".join("[_-]" if c in "_-" else re.escape(c) for c in _skeleton(n).text) for n in names)
    if not spelled:
        return re.compile(r"(?!)")
    name = rf"(?:{spelled})"
    return re.compile(
        rf"<\s*{name}\s*[:=][^<>]{{0,24}}>"  # a whole token, whatever the level
        rf"|<\s*{name}\s*(?:[:=]\s*[^\s<>]*|\d[\d.]*)\s*>?"  # the closing bracket or the colon missing
        rf"|<\s*{name}\s*>"
        rf"|(?<![a-z0-9]){name}\s*(?:[:=]\s*[^\s<>]{{0,12}}|\d[\d.]*)\s*>"  # the opening bracket missing
    )


def _skeleton(text: str) -> _Skeleton:
    if _PLAIN.fullmatch(text):  # most texts, and very much quicker
        return _Skeleton(text.lower(), range(len(text)), range(1, len(text) + 1))
    folded: list[str] = []
    starts: list[int] = []
    ends: list[int] = []
    for piece in _PIECE.finditer(text):
        shown = _shown(piece[0])
        folded.append(shown)
        starts += [piece.start()] * len(shown)
        ends += [piece.end()] * len(shown)
    return _Skeleton("".join(folded), starts, ends)


def _shown(piece: str) -> str:
    """Return one character (or escaped bracket) as plain small letters; nothing for one that is not seen."""
    if len(piece) > 1:
        return "<" if re.match(r"&(lt|#0*60|#x0*3c)", piece, re.IGNORECASE) else ">"
    if piece.isascii():
        return " " if piece.isspace() else piece.lower() if piece.isprintable() else ""
    if piece in _FOLDED:
        return _FOLDED[piece]
    plain = unicodedata.normalize("NFKD", piece).casefold()
    kept = (_FOLDED.get(c, c) for c in plain if unicodedata.category(c) not in _UNSEEN)
    return "".join(" " if c.isspace() else c for c in kept)


def _without(text: str, pattern: re.Pattern[str]) -> str:
    skeleton = _skeleton(text)
    found = pattern.finditer(skeleton.text)
    return _cut(text, [(skeleton.starts[m.start()], skeleton.ends[m.end() - 1]) for m in found])


def _cut(text: str, spans: Sequence[tuple[int, int]]) -> str:
    """Take spans out of a text; words on both sides stay apart, and no second space is left behind."""
    kept, at = "", 0
    for start, end in spans:
        kept += text[at:start]
        at = end
        if not kept or kept[-1].isspace():
            while at < len(text) and text[at] == " ":
                at += 1
        elif at < len(text) and not text[at].isspace():
            kept += " "
    return kept + text[at:]
