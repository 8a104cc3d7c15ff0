"""`equipoise data show`: training rows token by token, as the model will read them, and which tokens are trained."""

from __future__ import annotations

import re
import sys
import unicodedata
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING, Any, NamedTuple

from rich.console import RenderableType
from rich.padding import Padding
from rich.text import Text

from equipoise.data.instructions import instruction_rows
from equipoise.data.relabel import count_reasons, pairs, sft_targets, unpaired
from equipoise.data.sources import DataEntry
from equipoise.data.templates import ensure_template
from equipoise.data.tokens import Encoded, encode_rows, encode_texts, end_ids, render
from equipoise.errors import DataError
from equipoise.preparing import document
from equipoise.types import Dropped, SourceRow

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_LOOKED_AT = 200  # rows of a file that are read to find some that can be used
_HEAD, _TAIL = 120, 40  # tokens of a long stretch that are printed
_SHADES = {
    "read": ("#dbeafe on #1e3a5f", "#dbeafe on #2f5785"),
    "trained": ("#052e16 on #86efac", "#052e16 on #4ade80"),
    "end": ("#422006 on #fbbf24", "#422006 on #fbbf24"),
}
_BORDER, _OPEN, _CLOSE, _END = "│", "⟦", "⟧", "▸"


class Piece(NamedTuple):
    """The text of a token, or of several that make up one character, and what it is: read, trained or end."""

    text: str
    tokens: int
    kind: str


@dataclass(frozen=True)
class Found:
    """Rows to train on, what they are in words, and the reasons for which others of the file are not used."""

    rows: list[dict[str, Any]]
    what: str
    dropped: dict[str, int]


def show(
    entry: DataEntry, *, rows: int = 3, model: str | None = None, chat_template: str | None = None, full: bool = False,
    plain: bool = False,
) -> Iterator[RenderableType]:  # fmt: skip
    """Yield what to print about the first usable rows of an entry; SettingError or DataError where there are none.

    Without a model words stand in for tokens. `plain` marks borders of tokens by a line, where shades cannot. Marks of
    what is trained are there in either case. Long stretches are cut in the middle unless `full`.
    """
    found = training_rows(entry)
    shown = found.rows[:rows]
    tokenizer, whose = _tokenizer(shown, model, chat_template)
    yield Text(f"{entry.path}: {found.what}; {whose}")
    if found.dropped:
        lost = ", ".join(f"{reason} {count:,}" for reason, count in found.dropped.items())
        yield Text(f"not used, of the first {_LOOKED_AT} rows: {lost}")
    counts = dict.fromkeys(("read", "trained", "end"), 0)
    for number, (row, encoded) in enumerate(_encoded(tokenizer, shown), start=1):
        yield Text(f"\nrow {number}, {row['id']}", style="bold")
        for heading, stretch in _stretches(tokenizer, row, encoded):
            for piece in stretch:
                counts[piece.kind] += piece.tokens
            yield Text(f"  {heading}")
            yield Padding(drawn(stretch if full else _cut(stretch), plain=plain), (0, 0, 0, 4), expand=False)
    yield _legend(counts, len(shown), plain=plain)


# -- rows ------------------------------------------------------------------------------------------------------------


def training_rows(entry: DataEntry) -> Found:
    """Return what the first rows of an entry give: pairs where answers are ordered, labels, or answers to imitate."""
    unreadable: list[Dropped] = []
    source = list(islice(instruction_rows(entry, dropped=unreadable), _LOOKED_AT))
    used, dropped, what = _derived(source)
    lost = count_reasons([*unreadable, *dropped])
    if not used:
        why = ", ".join(f"{reason} {count:,}" for reason, count in lost.items()) or "no rows"
        raise DataError(f"{entry.shown}: none of the first {_LOOKED_AT} rows can be trained on ({why})")
    return Found([dict(row) for row in used], what, lost)


def _derived(source: Sequence[SourceRow]) -> tuple[Sequence[Mapping[str, Any]], list[Dropped], str]:
    several = [row for row in source if len(row.responses) > 1]
    if any(row.better is not None for row in several):
        both = any(row.safer is not None for row in several)
        other = " (the other order of the file: --axis safer)" if both else ""
        return *pairs(source, prefer="better"), f"pairs by better{other}"
    if any(row.safer is not None for row in several):
        return *pairs(source, prefer="safer"), "pairs by safer"
    if any(row.desirable is not None for row in source):
        return *unpaired(source, prefer="better"), "labelled answers"
    if source and all(not row.prompt and len(row.responses) == 1 and not row.responses[0].lead for row in source):
        return [{"id": row.id, "text": document(row)} for row in source], [], "documents without turns"
    return *sft_targets(source, choose="all"), "answers to imitate"


def _encoded(
    tokenizer: PreTrainedTokenizerBase, rows: Sequence[dict[str, Any]]
) -> Iterator[tuple[dict[str, Any], Encoded]]:
    whole = sys.maxsize
    encode = encode_texts(tokenizer, rows, max_length=whole) if "text" in rows[0] else None
    found = encode or encode_rows(tokenizer, rows, max_length=whole, truncation="drop")
    for row, encoded in found:
        if isinstance(encoded, Dropped):
            raise DataError(f"row {encoded.id}: {encoded.reason}, so the chat template leaves nothing to train on")
        yield row, encoded


# -- tokens ----------------------------------------------------------------------------------------------------------


def _tokenizer(
    rows: Sequence[Mapping[str, Any]], model: str | None, chat_template: str | None
) -> tuple[PreTrainedTokenizerBase, str]:
    """A tokenizer with a template, and what it is in words."""
    if model is not None:
        from equipoise.models.load import load_tokenizer

        own = f"chat template {chat_template}" if chat_template else "its own chat template"
        return load_tokenizer(model, chat_template), f"tokens of {model}, {own}"
    template = chat_template or "chatml"
    return words(rows, template), f"words stand in for tokens (--model shows a model's own), chat template {template}"


def words(rows: Sequence[Mapping[str, Any]], chat_template: str) -> PreTrainedTokenizerBase:
    """A tokenizer that knows the words of `rows` and the marks of the named templates, for whoever has no model yet."""
    blank = _of_words((), chat_template)
    marks = re.compile("|".join(map(re.escape, _MARKS)))
    texts: list[str] = []
    for row in rows:
        answers = [row[side] for side in ("chosen", "rejected", "completion") if side in row]
        texts += [render(blank, [*row["prompt"], *answer], prompt=False) for answer in answers] or [row["text"]]
    between = (piece for text in texts for piece in marks.split(text))
    split = blank.backend_tokenizer.pre_tokenizer
    return _of_words(
        dict.fromkeys(word for piece in between for word, _ in split.pre_tokenize_str(piece)), chat_template
    )


_MARKS = ("<s>", "</s>", "<|im_start|>", "<|im_end|>", "<unk>")


def _of_words(known: Iterable[str], chat_template: str) -> PreTrainedTokenizerBase:
    from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    table = {word: number for number, word in enumerate(dict.fromkeys((*_MARKS, *known)))}
    core = Tokenizer(models.WordLevel(table, unk_token="<unk>"))
    core.pre_tokenizer = pre_tokenizers.Split(Regex(r" ?[\p{L}\p{N}_']+| ?[^\s\p{L}\p{N}_']+|\s"), "isolated")
    core.decoder = decoders.Fuse()
    tokenizer = PreTrainedTokenizerFast(  # type: ignore[no-untyped-call]
        tokenizer_object=core,
        bos_token="<s>",
        eos_token="</s>",
        unk_token="<unk>",
        extra_special_tokens=["<|im_start|>", "<|im_end|>"],
        clean_up_tokenization_spaces=False,
    )
    ensure_template(tokenizer, chat_template, "these words")
    return tokenizer


def pieces(tokenizer: PreTrainedTokenizerBase, ids: Sequence[int], kinds: Sequence[str]) -> list[Piece]:
    """Return the text of each token; tokens that hold parts of one character are one piece.

    A token is decoded behind the piece before it, because some tokenizers drop the space of a text's first token.
    """
    found: list[Piece] = []
    before = start = 0
    for end in range(1, len(ids) + 1):
        ahead, both = (_decode(tokenizer, ids[before:stop]) for stop in (start, end))
        text = both[len(ahead) :] if both.startswith(ahead) else _decode(tokenizer, ids[start:end])
        partial = text.endswith("\ufffd") and end < min(len(ids), start + 8) and kinds[end] == kinds[start]
        if not partial:
            found.append(Piece(text, end - start, kinds[start]))
            before, start = start, end
    return found


def _decode(tokenizer: PreTrainedTokenizerBase, ids: Sequence[int]) -> str:
    return str(tokenizer.decode(list(ids), skip_special_tokens=False, clean_up_tokenization_spaces=False))


def _stretches(
    tokenizer: PreTrainedTokenizerBase, row: Mapping[str, Any], encoded: Encoded
) -> Iterator[tuple[str, list[Piece]]]:
    """The shared part and every answer, each with its heading."""
    enders = end_ids(tokenizer)
    sides = [side for side in ("chosen", "rejected") if side in row] or ["answer" if "completion" in row else "text"]
    read = "read once for both answers, not trained" if len(sides) > 1 else "read, not trained"
    if encoded.shared:
        yield (
            f"prompt: {_tokens(len(encoded.shared))}, {read}",
            pieces(tokenizer, encoded.shared, ["read"] * len(encoded.shared)),
        )
    for side, (ids, lead) in zip(sides, encoded.branches, strict=True):
        ended = ids[-1] in enders
        kinds = ["read"] * lead + ["trained"] * (len(ids) - lead - ended) + ["end"] * ended
        after = f", after {_tokens(lead)} that are only read" if lead else ""
        yield f"{side}: {_tokens(len(ids) - lead)} trained{after}{_facts(row, side)}", pieces(tokenizer, ids, kinds)


def _facts(row: Mapping[str, Any], side: str) -> str:
    """What the labels say about an answer, as it would reach an objective."""
    if side in ("chosen", "rejected"):
        known = {name.removeprefix(f"{side}_"): value for name, value in row.items() if name.startswith(f"{side}_")}
    else:
        known = {name: value for name, value in row.items() if name not in ("id", "prompt", "completion", "text")}
    said = {True: "yes", False: "no"}
    facts = [f"{name} {said[v] if isinstance(v, bool) else f'{v:g}'}" for name, v in known.items()]
    return f" ({', '.join(facts)})" if facts else ""


# -- drawing ---------------------------------------------------------------------------------------------------------


def drawn(stretch: Sequence[Piece], *, plain: bool) -> Text:
    """Return tokens as text: brackets around what is trained, a mark at its end, shades or lines between tokens."""
    out = Text()
    inside = broken = False
    for number, (text, tokens, kind) in enumerate(stretch):
        opens = not inside and kind != "read"
        if plain and number and not opens:
            out.append(_BORDER)
        if broken:
            out.append("\n")
        if opens:
            inside = True
            out.append(_OPEN, style="bold green")
        if kind == "end":
            out.append(_END, style="bold green")
        shown = visible(text) if text else f" … {_tokens(tokens)} … "
        broken = shown.endswith("\n")  # the line ends behind the border, and not at all where nothing follows
        out.append(shown.removesuffix("\n"), style=_SHADES[kind][number % 2])
    if inside:
        out.append(_CLOSE, style="bold green")
    return out


def visible(text: str) -> str:
    """Return text with a mark for each newline and tab; other characters that draw nothing are written as escapes.

    So a token is seen whatever it holds, and a file cannot send commands to the terminal.
    """
    return "".join(_MARK.get(c) or (c if _draws(c) else c.encode("unicode_escape").decode("ascii")) for c in text)


_MARK = {"\n": "↵\n", "\t": "⇥\t"}


def _draws(character: str) -> bool:
    return unicodedata.category(character) not in ("Cc", "Cf", "Zl", "Zp")


def _cut(stretch: Sequence[Piece]) -> list[Piece]:
    """Leave out the middle of a long stretch, within one kind."""
    if len(stretch) <= _HEAD + _TAIL + 20:
        return list(stretch)
    middle = stretch[_HEAD:-_TAIL]
    kind = middle[0].kind
    if any(piece.kind != kind for piece in middle):
        return list(stretch)
    return [*stretch[:_HEAD], Piece("", sum(piece.tokens for piece in middle), kind), *stretch[-_TAIL:]]


def _legend(counts: Mapping[str, int], rows: int, *, plain: bool) -> Text:
    trained = counts["trained"] + counts["end"]
    total = counts["read"] + trained
    borders = f"{_BORDER}  border of two tokens" if plain else "the shade changes with the token"
    legend = Text("\n")
    if not plain:
        for kind in ("read", "trained", "end"):
            legend.append(f" {kind} ", style=_SHADES[kind][0])
            legend.append("  ")
        legend.append("\n")
    legend.append(
        f"{_OPEN} {_CLOSE} trained: the loss is on these tokens alone   {_END} end token: trained, so that the "
    )
    legend.append(f"model stops\n{borders}   ↵ newline\n")
    shown = "1 row" if rows == 1 else f"{rows} rows"
    legend.append(f"{shown}: {_tokens(total)}, {counts['read']:,} read and {trained:,} trained, of these ")
    legend.append(f"{counts['end']:,} end tokens")
    return legend


def _tokens(count: int) -> str:
    return "1 token" if count == 1 else f"{count:,} tokens"
