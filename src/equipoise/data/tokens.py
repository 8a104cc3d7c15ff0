"""Text becomes token ids here and nowhere else.

Each dialogue is rendered by the chat template and tokenized once, as a whole; the trained span is found in that one
tokenization. The two answers of a pair are stored as `shared + branch + branch`, where `shared` is the longest common
token prefix of the two, capped before the first trained token of either.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from equipoise.errors import DataError, SettingError
from equipoise.types import Dropped, Message

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

Truncation = Literal["drop", "keep_end", "keep_start"]
TOO_LONG = "too long for max_length"
NO_TRAINED_TOKEN = "no trained token"


class Span(NamedTuple):
    """One tokenized dialogue: `ids`, of which those from `first` on are trained."""

    ids: list[int]
    first: int


class Branch(NamedTuple):
    """What follows the shared part: `ids`, of which the first `lead` are read but not trained."""

    ids: list[int]
    lead: int


class Encoded(NamedTuple):
    """A row as the model sees it."""

    shared: list[int]
    branches: tuple[Branch, ...]

    @property
    def length(self) -> int:
        """Tokens that go through the model, the shared part once."""
        return len(self.shared) + sum(len(b.ids) for b in self.branches)


def end_ids(tokenizer: PreTrainedTokenizerBase) -> set[int]:
    """Ids that end an answer: the tokenizer's EOS and the end-of-turn markers its template is known to use."""
    ids = {tokenizer.eos_token_id}
    for marker in ("<|im_end|>", "<|eot_id|>", "<|end|>", "<end_of_turn>", "<|endoftext|>"):
        token = tokenizer.convert_tokens_to_ids(marker)
        if token is not None and token != tokenizer.unk_token_id:
            ids.add(token)
    return ids - {None}


def render(tokenizer: PreTrainedTokenizerBase, messages: Sequence[Message], *, prompt: bool) -> str:
    """Text of a dialogue; with `prompt`, up to where the assistant's answer begins."""
    return tokenizer.apply_chat_template(list(messages), tokenize=False, add_generation_prompt=prompt)


def spans(
    tokenizer: PreTrainedTokenizerBase, prompts: Sequence[Sequence[Message]], answers: Sequence[Sequence[Message]]
) -> list[Span]:
    """Tokenize `prompt + answer` dialogues; the trained span is the last assistant turn including its end token.

    No special tokens are added by the tokenizer (the template writes them); padding is never looked at.
    """
    texts, starts = [], []
    for prompt, answer in zip(prompts, answers, strict=True):
        if not answer or answer[-1]["role"] != "assistant":
            raise DataError("an answer must end with an assistant turn")
        before = [*prompt, *answer[:-1]]
        head = render(tokenizer, before, prompt=True)
        whole = render(tokenizer, [*before, answer[-1]], prompt=False)
        # Some templates trim or re-space turns: the trained text starts where the generation prompt ends.
        head = head if whole.startswith(head) else head.rstrip()
        if not whole.startswith(head):
            raise SettingError(
                "the chat template renders a dialogue differently with and without its last answer, so the trained "
                "tokens cannot be found: use a template whose generation prompt is a prefix of the full dialogue"
            )
        texts.append(whole)
        starts.append(len(head))
    if not texts:
        return []
    enders = end_ids(tokenizer)
    if tokenizer.is_fast:
        coded = tokenizer(texts, add_special_tokens=False, return_offsets_mapping=True)
        # A token belongs to the answer when it ends after the prompt's last character.
        firsts = [
            next((i for i, (_, end) in enumerate(offsets) if end > start), len(offsets))
            for offsets, start in zip(coded["offset_mapping"], starts, strict=True)
        ]
        ids = coded["input_ids"]
    else:
        ids = tokenizer(texts, add_special_tokens=False)["input_ids"]
        heads = tokenizer([t[:s] for t, s in zip(texts, starts, strict=True)], add_special_tokens=False)["input_ids"]
        firsts = [common_prefix(a, b) for a, b in zip(ids, heads, strict=True)]
    return [Span(_close(list(i), first, enders, tokenizer), first) for i, first in zip(ids, firsts, strict=True)]


def _close(ids: list[int], first: int, enders: set[int], tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """Make the answer end with its end token: cut what a template writes after it, or append EOS."""
    for position in range(len(ids) - 1, first - 1, -1):
        if ids[position] in enders:
            if tokenizer.decode(ids[position + 1 :], skip_special_tokens=True).strip() == "":
                return ids[: position + 1]
            break
    if tokenizer.eos_token_id is None:
        raise SettingError("the tokenizer has no EOS token, so a model could never learn to stop: set eos_token")
    return [*ids, tokenizer.eos_token_id]


def common_prefix(a: Sequence[int], b: Sequence[int]) -> int:
    """Length of the longest common prefix."""
    for i, (x, y) in enumerate(zip(a, b, strict=False)):
        if x != y:
            return i
    return min(len(a), len(b))


def join(parts: Sequence[Span]) -> Encoded:
    """One row from one or several tokenizations, sharing their longest common untrained prefix."""
    shared = min(span.first for span in parts)
    for span in parts[1:]:
        shared = min(shared, common_prefix(parts[0].ids, span.ids))
    return Encoded(parts[0].ids[:shared], tuple(Branch(s.ids[shared:], s.first - shared) for s in parts))


def fit(
    row: Encoded, *, max_length: int, truncation: Truncation, max_prompt_length: int | None = None
) -> Encoded | str:
    """Apply the length limits to one row; a `str` is the reason it is dropped.

    `keep_end` cuts the start of the shared prompt, `keep_start` cuts the end of the answers (their end token with it).
    `max_prompt_length` cuts the start of the shared prompt first.
    """
    if any(len(b.ids) <= b.lead for b in row.branches):
        return NO_TRAINED_TOKEN
    shared, branches = row
    if max_prompt_length is not None:
        shared = shared[-max_prompt_length:]
    excess = len(shared) + max(len(b.ids) for b in branches) - max_length
    if excess > 0:
        if truncation == "drop":
            return TOO_LONG
        if truncation == "keep_end":
            if excess >= len(shared):
                return TOO_LONG
            shared = shared[excess:]
        else:
            branches = tuple(Branch(b.ids[: max_length - len(shared)], b.lead) for b in branches)
            if len(shared) >= max_length or any(len(b.ids) <= b.lead for b in branches):
                return TOO_LONG
    if not shared and any(b.lead == 0 for b in branches):
        return TOO_LONG  # the first trained token needs something to be predicted from
    return Encoded(shared, branches)


def encode_rows(
    tokenizer: PreTrainedTokenizerBase,
    rows: Iterable[dict[str, Any]],
    *,
    max_length: int,
    truncation: Truncation,
    max_prompt_length: int | None = None,
    chunk: int = 512,
) -> Iterator[tuple[dict[str, Any], Encoded | Dropped]]:
    """Tokenize training rows (pairs or completions) in order; rows that do not fit come back as `Dropped`."""
    for block in _chunks(rows, chunk):
        sides = ("chosen", "rejected") if "chosen" in block[0] else ("completion",)
        coded = [spans(tokenizer, [r["prompt"] for r in block], [r[side] for r in block]) for side in sides]
        for row, *parts in zip(block, *coded, strict=True):
            fitted = fit(join(parts), max_length=max_length, truncation=truncation, max_prompt_length=max_prompt_length)
            yield row, Dropped(row["id"], fitted) if isinstance(fitted, str) else fitted


def encode_texts(
    tokenizer: PreTrainedTokenizerBase, rows: Iterable[dict[str, Any]], *, max_length: int, chunk: int = 512
) -> Iterator[tuple[dict[str, Any], Encoded | Dropped]]:
    """Cut documents (`text`) into pieces of at most `max_length` tokens, each after BOS, the last one ended by EOS."""
    if tokenizer.bos_token_id is None or tokenizer.eos_token_id is None:
        raise SettingError("training on plain text needs a tokenizer with BOS and EOS tokens")
    for block in _chunks(rows, chunk):
        coded = tokenizer([row["text"] for row in block], add_special_tokens=False)["input_ids"]
        for row, ids in zip(block, coded, strict=True):
            ids = [*ids, tokenizer.eos_token_id]
            for part, start in enumerate(range(0, len(ids), max_length - 1)):
                piece = Branch(list(ids[start : start + max_length - 1]), 0)
                yield {"id": f"{row['id']}-{part}"}, Encoded([tokenizer.bos_token_id], (piece,))


def _chunks(rows: Iterable[dict[str, Any]], size: int) -> Iterator[list[dict[str, Any]]]:
    block: list[dict[str, Any]] = []
    for row in rows:
        block.append(row)
        if len(block) == size:
            yield block
            block = []
    if block:
        yield block


class TokenTable:
    """Tokenized rows on disk, mapped into memory: 100 rows or a million cost the same resident memory.

    `tokens.npy` (int32) holds all ids, row after row, shared part first; `layout.npy` (N, 2 + 2K) holds per row its
    offset, the length of the shared part, and per branch (length, lead); `columns.npz` holds numbers per row.
    """

    def __init__(self, path: Path) -> None:
        self._tokens: NDArray[np.int32] = np.load(path / "tokens.npy", mmap_mode="r")
        self._layout: NDArray[np.int64] = np.load(path / "layout.npy")
        with np.load(path / "columns.npz") as columns:
            self.columns: dict[str, NDArray[Any]] = {name: columns[name] for name in columns.files}

    def __len__(self) -> int:
        return len(self._layout)

    @property
    def n_branches(self) -> int:
        """Answers per row."""
        return (self._layout.shape[1] - 2) // 2

    @property
    def lengths(self) -> NDArray[np.int64]:
        """(N,) tokens per row, the shared part counted once."""
        return self._layout[:, 1] + self._layout[:, 2::2].sum(1)

    @property
    def trained(self) -> NDArray[np.int64]:
        """(N, K) trained tokens per answer."""
        return self._layout[:, 2::2] - self._layout[:, 3::2]

    @property
    def shared_lengths(self) -> NDArray[np.int64]:
        """(N,) tokens of the shared part."""
        return self._layout[:, 1]

    def __getitem__(self, row: int) -> Encoded:
        offset, shared, *rest = self._layout[row].tolist()
        at = offset + shared
        branches = []
        for length, lead in zip(rest[::2], rest[1::2], strict=True):
            branches.append(Branch(self._tokens[at : at + length].tolist(), lead))
            at += length
        return Encoded(self._tokens[offset : offset + shared].tolist(), tuple(branches))

    @staticmethod
    def write(path: Path, rows: Sequence[Encoded], columns: dict[str, NDArray[Any]]) -> None:
        """Write `rows` (all with equally many branches) and `columns` (N, ...) to the directory `path`."""
        total = sum(row.length for row in rows)
        tokens = np.zeros(max(total, 1), dtype=np.int32)  # not a memory map: on a full disk that ends the process
        layout = np.empty((len(rows), 2 + 2 * len(rows[0].branches)), dtype=np.int64)
        at = 0
        for index, row in enumerate(rows):
            flat = [*row.shared, *(i for b in row.branches for i in b.ids)]
            tokens[at : at + len(flat)] = flat
            layout[index] = [at, len(row.shared), *(v for b in row.branches for v in (len(b.ids), b.lead))]
            at += len(flat)
        np.save(path / "tokens.npy", tokens)
        np.save(path / "layout.npy", layout)
        np.savez(path / "columns.npz", **columns)


def with_mismatched(rows: Sequence[Encoded], seed: int) -> list[Encoded]:
    """Give each single-answer row a second branch: the completion of another row, for KTO's KL baseline.

    The partner comes from one seeded cyclic permutation, so nobody is its own partner and the reference log-probability
    of the mismatched pair is a fixed column.
    """
    if len(rows) < 2:
        raise DataError("kto needs at least two rows to estimate its KL baseline, got 1")
    order = np.random.default_rng([seed, 0x6B746F]).permutation(len(rows))
    partner = np.empty(len(rows), dtype=np.int64)
    partner[order] = np.roll(order, -1)
    out = []
    for index, row in enumerate(rows):
        other = rows[int(partner[index])].branches[0]
        own = row.branches[0]
        # The prompt's untrained tokens may sit in the branch (a truncated share); the partner follows all of them.
        out.append(Encoded(row.shared, (own, Branch([*own.ids[: own.lead], *other.ids[other.lead :]], own.lead))))
    return out
