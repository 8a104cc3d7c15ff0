"""Evaluation prompts that are near-duplicates of training prompts: which ones, of what, how near. Exact, no sampling.

Two prompts are compared by the pairs of neighbouring words on the user's side. scipy's sparse product counts what they
share, block by block. MinHash (datasketch) would miss some by chance, and edit distances (rapidfuzz) would compare each
prompt with each other one letter by letter; with word pairs the exact answer is cheap, and needs no further library.
"""

from __future__ import annotations

import itertools
import re
import unicodedata
from array import array
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple, TypeVar

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_array  # type: ignore[import-untyped]

from equipoise.data.columns import Reason
from equipoise.errors import DataError, SettingError
from equipoise.types import Dropped, Message, SourceRow

Row = SourceRow | Mapping[str, Any]
RowType = TypeVar("RowType", SourceRow, Mapping[str, Any])
Counts = NDArray[np.int64]

THRESHOLD = 0.8
"""What counts as near unless said otherwise: one word of 19 exchanged in the middle, or of 11 at an end."""

FORGIVING = 4  # word pairs from which on a prompt is long enough to be recognised inside a longer one
_BLOCK = 4_000_000  # multiply-adds, and so at most as many counts, held at a time: about 0.2 GB

# Scripts written without spaces: each sign counts as a word, or a whole sentence would be one.
_SIGN = "\u0e00-\u0eff\u3040-\u30ff\u3400-\u9fff\uf900-\ufaff"
_WORD = re.compile(f"[{_SIGN}]|[^\\W{_SIGN}]+")
_APOSTROPHE = re.compile("['\u2019\u02bc`]")


class Near(NamedTuple):
    """The nearest training prompt: its row's id, and the similarity in (0, 1]."""

    id: str
    similarity: float


def words(text: str) -> list[str]:
    """What is compared of a text: its words without case, punctuation, white space and letter variants."""
    return _WORD.findall(_APOSTROPHE.sub("", unicodedata.normalize("NFKC", text).casefold()))


def asked(prompt: Iterable[Message]) -> str:
    """The user's side of a dialogue: all user turns, no system prompt, no answers."""
    return "\n".join(turn["content"] for turn in prompt if turn["role"] == "user")


def asked_words(prompt: Iterable[Message]) -> list[str]:
    """What is compared of a prompt: the words of all that the user said."""
    return words(asked(prompt))


def similarity(first: str, second: str) -> float:
    """Similarity of two texts in [0, 1]: the Jaccard index of their word pairs, the excess of the longer one forgiven.

    With s word pairs shared and a <= b of them in the two texts: s / (2a - s) if a >= b/2 and a >= 4, which is the
    index if the longer were cut to the length of the shorter (a short wrapper around the same prompt gives 1); else
    s / (a + b - s). For a = b both are the same.
    """
    one, two = _pairs(words(first)), _pairs(words(second))
    if not one or not two:
        return 0.0
    found = _similarity(*(np.array([n]) for n in (len(one & two), len(one), len(two))))
    return float(found[0])


def near_duplicates(
    prompts: Sequence[Row], against: Iterable[Row], *, threshold: float = THRESHOLD
) -> list[Near | None]:
    """For each row of `prompts` the nearest one of `against`, or None where none reaches the threshold.

    Rows hold `id` and `prompt` (messages). Ties go to the earlier row of `against`. Memory: the words of `prompts` and
    what `against` shares with them; 5,000 against 100,000 prompts take seconds.
    """
    if not 0 < threshold <= 1:
        raise SettingError(f"near_duplicates is {threshold:g}, expected a similarity above 0 and up to 1, or off")
    texts = [" ".join(asked_words(_prompt(row))) for row in prompts]
    place = {text: i for i, text in enumerate(dict.fromkeys(texts))}
    columns: dict[str, int] = {}
    left = _Matrix.of((_pairs(text.split()) for text in place), columns, grow=True)
    ids: list[str] = []
    right = _Matrix.of(_distinct(against, ids), columns, grow=False)
    nearest = _nearest(left, right, threshold)
    found = [None if best is None else Near(ids[best[0]], best[1]) for best in nearest]
    return [found[place[text]] for text in texts]


def exclude_near_duplicates(
    rows: Iterable[RowType], against: Iterable[Row], *, threshold: float | None = THRESHOLD
) -> tuple[list[RowType], list[Dropped]]:
    """Part evaluation rows into those that may be used and those that are near to a prompt of `against`, with which.

    `threshold` None leaves everything in: for sets whose prompts are made to differ in a word.
    """
    rows = list(rows)
    if threshold is None:
        return rows, []
    kept: list[RowType] = []
    excluded: list[Dropped] = []
    for row, near in zip(rows, near_duplicates(rows, against, threshold=threshold), strict=True):
        if near is None:
            kept.append(row)
        else:
            detail = f"similarity {near.similarity:.2f} to training prompt {near.id}"
            excluded.append(Dropped(_id(row), Reason.NEAR_DUPLICATE, detail))
    return kept, excluded


class _Matrix(NamedTuple):
    """Word pairs by prompt: which of the known columns each has, and how many distinct ones in all."""

    cells: csr_array
    sizes: Counts

    @classmethod
    def of(cls, prompts: Iterable[set[str]], columns: dict[str, int], *, grow: bool) -> _Matrix:
        """Count prompts; with `grow` unknown pairs get a column, without they only count towards the size."""
        indices, ends, sizes = array("q"), array("q", [0]), array("q")
        for pairs in prompts:
            known = (columns.setdefault(p, len(columns)) for p in pairs) if grow else map(columns.get, pairs)
            indices.extend(sorted(column for column in known if column is not None))
            ends.append(len(indices))
            sizes.append(len(pairs))
        ones = np.ones(len(indices), dtype=np.int32)
        columns_of, rows_of = (np.array(values, dtype=np.int32) for values in (indices, ends))
        return cls(csr_array((ones, columns_of, rows_of), shape=(len(sizes), len(columns))), np.array(sizes, np.int64))


def _nearest(left: _Matrix, right: _Matrix, threshold: float) -> list[tuple[int, float] | None]:
    """The row of `right` most similar to each row of `left`, with the similarity."""
    best: list[tuple[int, float] | None] = [None] * len(left.sizes)
    across = right.cells.T.tocsr()
    costs = left.cells @ np.diff(across.indptr).astype(np.int64)
    for start, stop in _blocks(costs):
        shared = left.cells[start:stop] @ across
        rows = start + np.repeat(np.arange(stop - start), np.diff(shared.indptr))
        found = _similarity(shared.data, left.sizes[rows], right.sizes[shared.indices])
        near = found >= threshold
        rows, others, found = rows[near], shared.indices[near], found[near]
        order = np.lexsort((others, -found, rows))
        _, first = np.unique(rows[order], return_index=True)
        for k in order[first]:
            best[rows[k]] = (int(others[k]), float(found[k]))
    return best


def _similarity(shared: Counts, first: Counts, second: Counts) -> NDArray[np.float64]:
    short, long = np.minimum(first, second), np.maximum(first, second)
    inside = (2 * short >= long) & (short >= FORGIVING)
    return np.asarray(shared / (np.where(inside, 2 * short, short + long) - shared), dtype=np.float64)


def _blocks(costs: Counts) -> Iterator[tuple[int, int]]:
    """Cut rows into runs of at most `_BLOCK` multiply-adds; a row that alone needs more is a run of its own."""
    start, total = 0, 0
    for i, cost in enumerate(costs.tolist()):
        if i > start and total + cost > _BLOCK:
            yield start, i
            start, total = i, 0
        total += cost
    if start < len(costs):
        yield start, len(costs)


def _pairs(found: Sequence[str]) -> set[str]:
    """Pairs of neighbouring words; a single word stands for itself."""
    return {f"{a} {b}" for a, b in itertools.pairwise(found)} if len(found) != 1 else set(found)


def _distinct(rows: Iterable[Row], ids: list[str]) -> Iterator[set[str]]:
    """Word pairs of each different prompt; the id of the first row that has it goes to `ids`."""
    seen: set[str] = set()
    for row in rows:
        found = asked_words(_prompt(row))
        text = " ".join(found)
        if text not in seen:
            seen.add(text)
            ids.append(_id(row))
            yield _pairs(found)


def _prompt(row: Row) -> Iterable[Message]:
    if isinstance(row, SourceRow):
        return row.prompt
    prompt = row.get("prompt")
    if not isinstance(prompt, Sequence) or isinstance(prompt, str):
        raise DataError(f"row {_id(row)!r} has no list of messages under 'prompt', so nothing can be compared")
    return prompt


def _id(row: Row) -> str:
    return row.id if isinstance(row, SourceRow) else str(row.get("id", ""))
