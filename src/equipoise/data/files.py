"""Files -> records: JSON, JSON lines, CSV, Parquet and text, plain or gzipped, alone or in a folder.

A record is what stood in the file, with the place it stood at; what it means is decided in `formats`.
"""

from __future__ import annotations

import csv
import gzip
import io
import json
import re
import zlib
from collections.abc import Iterator, Mapping
from itertools import chain, islice
from pathlib import Path
from typing import BinaryIO, NamedTuple

from equipoise.data.columns import is_known
from equipoise.errors import DataError, SettingError, nearest

SUFFIXES = (".jsonl", ".ndjson", ".json", ".csv", ".tsv", ".parquet", ".txt")
SEPARATOR = "<|endoftext|>"
_SPLITS = {"train": "train", "test": "test", "validation": "validation", "valid": "validation", "val": "validation"}
_NOTES = {"LICENSE", "LICENCE", "NOTICE", "README", "SOURCE"}
_LONGEST_CELL = 1 << 30


class Record(NamedTuple):
    """One entry of a file and where it begins (`line` counts from 1; rows where a format has no lines)."""

    file: str
    line: int
    value: object

    @property
    def where(self) -> str:
        """`pairs.jsonl line 3`."""
        return f"{self.file} line {self.line}"


def kind_of(path: Path) -> str | None:
    """Return the suffix that says how `path` is read, without `.gz`; `None` where no reader takes it."""
    name = path.name.lower().removesuffix(".gz")
    return next((suffix for suffix in SUFFIXES if name.endswith(suffix)), None)


def read_files(path: Path, *, split: str | None = None) -> Iterator[Record]:
    """Yield the records of a file, or of every data file in a folder in the order of their names."""
    if path.is_dir():
        for file in folder_files(path, split=split):
            yield from read_file(file, shown=file.relative_to(path).as_posix())
        return
    if split is not None:
        raise SettingError(f"split: {split} was given for the single file {path}, which has no splits")
    yield from read_file(path, shown=path.name)


def folder_files(folder: Path, *, split: str | None = None) -> list[Path]:
    """Return the data files below `folder`; several splits in one folder are refused unless one is named."""
    found = sorted(p for p in folder.rglob("*") if p.is_file() and kind_of(p) and not p.name.startswith("."))
    # Licences and notes are text files too: text counts only where there is nothing else, and never under these names.
    found = [p for p in found if kind_of(p) != ".txt" or p.stem.upper() not in _NOTES]
    found = [p for p in found if kind_of(p) != ".txt"] or found
    by_split: dict[str, list[Path]] = {}
    for path in found:
        by_split.setdefault(_split_of(path.relative_to(folder)), []).append(path)
    if split is not None:
        wanted = _SPLITS.get(split, split)
        if wanted not in by_split:
            raise SettingError(f"{folder} has no files of the split {split}{nearest(split, filter(None, by_split))}")
        return by_split[wanted]
    if len(by_split) > 1:
        names = ", ".join(name or "files of no split" for name in sorted(by_split))
        raise SettingError(f"{folder} holds {names}, which must not be mixed: name one with `split:` or give one file")
    if not found:
        raise DataError(f"{folder} holds no data files (expected {', '.join(SUFFIXES)}, plain or .gz)")
    return found


def _split_of(path: Path) -> str:
    words = re.split(r"[^a-z]+", path.as_posix().lower())
    return next((_SPLITS[word] for word in words if word in _SPLITS), "")


def read_file(path: Path, *, shown: str | None = None) -> Iterator[Record]:
    """Yield the records of one file; raises DataError where the content is not what the name says."""
    shown = shown or path.name
    kind = kind_of(path)
    if kind is None:
        raise DataError(f"{path} has a suffix that no reader takes (expected {', '.join(SUFFIXES)}, plain or .gz)")
    _check_head(path, kind, shown)
    reader = {".csv": _csv, ".tsv": _csv, ".parquet": _parquet, ".txt": _text}.get(kind, _json)
    try:
        for line, value in reader(path, shown):
            yield Record(shown, line, value)
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise DataError(f"{shown} is a damaged gzip file: {error}") from None


def _check_head(path: Path, kind: str, shown: str) -> None:
    """Compare the first bytes with the name, so that a mix-up is named instead of met as garbage."""
    with path.open("rb") as stream:
        head = stream.read(64)
    zipped = head.startswith(b"\x1f\x8b")
    if not head:
        raise DataError(f"{shown} is empty")
    if head.startswith(b"version https://git-lfs"):
        raise DataError(f"{shown} is a Git LFS pointer, not the data: fetch it with `git lfs pull`")
    if path.name.lower().endswith(".gz") != zipped:
        raise DataError(f"{shown} is {'gzip but its name does not end in .gz' if zipped else 'not gzip'}")
    if not zipped and (kind == ".parquet") != head.startswith(b"PAR1"):
        raise DataError(f"{shown} is {'not Parquet' if kind == '.parquet' else f'Parquet, not {kind}'}")


def _open(path: Path) -> BinaryIO:
    # GzipFile reads like a binary file; typeshed does not say so.
    return gzip.open(path, "rb") if path.name.lower().endswith(".gz") else path.open("rb")  # type: ignore[return-value]


def _lines(path: Path, shown: str) -> Iterator[tuple[int, str]]:
    """Yield (number, text) of the lines that are not blank.

    Binary files end a line at "\\n" only: U+2028 and its like occur inside JSON strings, where `str.splitlines` cuts.
    """
    with _open(path) as stream:
        for number, raw in enumerate(stream, 1):
            text = _decoded(raw, shown, before=number - 1).rstrip("\r\n")
            if number == 1:
                text = text.removeprefix("\ufeff")
            if text.strip():
                yield number, text


def _decoded(raw: bytes, shown: str, *, before: int = 0) -> str:
    try:
        return raw.decode("utf-8")
    except UnicodeDecodeError as error:
        line = before + 1 + raw.count(b"\n", 0, error.start)
        raise DataError(f"{shown} line {line} is not UTF-8 text: {error.reason}") from None


def _json(path: Path, shown: str) -> Iterator[tuple[int, object]]:
    """Read JSON lines as a stream, or else a whole document; the content decides, not `.json` against `.jsonl`."""
    lines = _lines(path, shown)
    head = list(islice(lines, 2))
    try:
        first = json.loads(head[0][1]) if head else None
    except json.JSONDecodeError:
        first = None  # a document of several lines, or damaged: the reader of documents says where
    is_lines = isinstance(first, str | dict) and (len(head) == 2 or not isinstance(first, dict))
    if not is_lines:
        with _open(path) as stream:
            yield from _json_documents(_decoded(stream.read(), shown).removeprefix("\ufeff"), shown)
        return
    for number, text in chain(head, lines):
        try:
            yield number, json.loads(text)
        except json.JSONDecodeError as error:
            raise DataError(f"{shown} line {number} is not JSON: {error.msg} at column {error.colno}") from None


def _json_documents(text: str, shown: str) -> Iterator[tuple[int, object]]:
    """Read an array, an object, or several of them one after another."""
    items: list[tuple[int, object]] = []
    documents = 0
    cursor = _Cursor(text, shown)
    while cursor.peek():
        documents += 1
        if cursor.peek() != "[":
            items.append(cursor.value())
            continue
        cursor.expect("[")
        while cursor.peek() != "]":
            items.append(cursor.value())
            if cursor.peek() != "]":
                cursor.expect(",")
        cursor.expect("]")
    if documents == 1 and len(items) == 1 and isinstance(items[0][1], dict) and not text.lstrip().startswith("["):
        yield from _one_object(items[0][1], items[0][0], shown)
    else:
        yield from items


class _Cursor:
    """Walks over JSON values in a text and knows the line of each."""

    _space = re.compile(r"[ \t\r\n]*")

    def __init__(self, text: str, shown: str) -> None:
        self._text, self._shown = text, shown
        self._at, self._counted, self._line = 0, 0, 1
        self._decode = json.JSONDecoder().raw_decode

    def peek(self) -> str:
        """The next character that is not space; empty at the end."""
        self._at = self._space.match(self._text, self._at).end()  # type: ignore[union-attr]
        return self._text[self._at : self._at + 1]

    def expect(self, character: str) -> None:
        if self.peek() != character:
            got = repr(self.peek()) if self.peek() else "the end of the file"
            raise DataError(f"{self._shown} line {self.line()} is not JSON: expected '{character}', got {got}")
        self._at += 1

    def line(self) -> int:
        self._line += self._text.count("\n", self._counted, self._at)
        self._counted = self._at
        return self._line

    def value(self) -> tuple[int, object]:
        self.peek()
        line = self.line()
        try:
            value, self._at = self._decode(self._text, self._at)
        except json.JSONDecodeError as error:
            raise DataError(
                f"{self._shown} line {error.lineno} is not JSON: {error.msg} at column {error.colno}"
            ) from None
        return line, value


def _one_object(value: Mapping[str, object], line: int, shown: str) -> Iterator[tuple[int, object]]:
    """Unfold a file that is one object: columns of values, prompts under categories, or a single row."""
    lists = {name: cells for name, cells in value.items() if isinstance(cells, list)}
    if len(lists) == len(value) > 0 and any(map(is_known, lists)) and not _is_dialogue(lists):
        lengths = {name: len(cells) for name, cells in lists.items()}
        if len(set(lengths.values())) > 1:
            raise DataError(f"{shown} holds columns of different lengths: {lengths}")
        for number, cells in enumerate(zip(*lists.values(), strict=True), 1):
            yield number, dict(zip(lists, cells, strict=True))
    elif _only_text_below(value):
        for number, (keys, prompt) in enumerate(_leaves(value), 1):
            yield number, {"prompt": prompt, "category": keys[0], "subcategory": " / ".join(keys[1:])}
    elif len(value) == 1 and lists.keys() <= {"data", "rows"} and lists:
        yield from enumerate(next(iter(lists.values())), 1)
    else:
        yield line, value


def _is_dialogue(lists: Mapping[str, list[object]]) -> bool:
    """True for a single row such as {"prompt": [{"role": ...}, ...], "completion": [...]}."""
    cells = (cell for column in lists.values() for cell in column if isinstance(cell, dict))
    return any("role" in cell or "from" in cell for cell in cells)


def _only_text_below(value: object) -> bool:
    if isinstance(value, dict):
        return len(value) > 0 and all(isinstance(v, dict | list) and _only_text_below(v) for v in value.values())
    return isinstance(value, list) and all(isinstance(item, str) for item in value)


def _leaves(value: object, keys: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], str]]:
    if isinstance(value, dict):
        for key, below in value.items():
            yield from _leaves(below, (*keys, key))
    elif isinstance(value, list):
        for text in value:
            yield keys, text


def _csv(path: Path, shown: str) -> Iterator[tuple[int, object]]:
    """Read comma- or tab-separated rows; a cell may hold newlines inside quotes, an empty cell is absent (None)."""
    csv.field_size_limit(_LONGEST_CELL)  # the default of 128 KiB is shorter than some answers
    with _open(path) as raw, io.TextIOWrapper(raw, encoding="utf-8-sig", newline="") as stream:
        reader = csv.reader(stream, delimiter="\t" if kind_of(path) == ".tsv" else ",", strict=True)
        begins = 1
        header: list[str] = []
        try:
            for cells in reader:
                line, begins = begins, reader.line_num + 1
                if not cells:
                    continue
                if not header:
                    header = _header(cells, shown)
                    continue
                if len(cells) != len(header):
                    raise DataError(f"{shown} line {line} has {len(cells)} cells where the header has {len(header)}")
                yield line, {name: cell or None for name, cell in zip(header, cells, strict=True)}
        except UnicodeDecodeError as error:
            raise DataError(f"{shown} is not UTF-8 text near line {begins}: {error.reason}") from None
        except csv.Error as error:
            raise DataError(f"{shown} line {begins} is not CSV: {error}") from None


def _header(cells: list[str], shown: str) -> list[str]:
    names = [cell.strip() for cell in cells]
    if len(set(names)) < len(names) or not all(names):
        raise DataError(f"{shown} line 1 is not a header: names of columns must be given once each, got {names}"[:300])
    if any(len(name) > 64 or "\n" in name for name in names):
        raise DataError(f"{shown} line 1 is not a header but text: the first line of a CSV file names its columns")
    return names


def _parquet(path: Path, shown: str) -> Iterator[tuple[int, object]]:
    try:
        import pyarrow
        import pyarrow.parquet as parquet
    except ModuleNotFoundError:
        raise SettingError(f"reading {shown} needs pyarrow: pip install 'equipoise[parquet]'") from None
    with _open(path) as stream:
        # Parquet is read from its end: a gzipped one has to be unpacked first.
        source = io.BytesIO(stream.read()) if path.name.lower().endswith(".gz") else stream
        try:
            batches = parquet.ParquetFile(source).iter_batches(batch_size=512)
            rows = chain.from_iterable(batch.to_pylist() for batch in batches)
            yield from enumerate(rows, 1)
        except (pyarrow.ArrowInvalid, OSError) as error:
            raise DataError(f"{shown} is not a readable Parquet file: {str(error).splitlines()[0]}") from None


def _text(path: Path, shown: str) -> Iterator[tuple[int, object]]:
    """Read documents between marks where the file has any, otherwise one document a line."""
    with _open(path) as stream:
        marked = any(SEPARATOR.encode() in line for line in stream)
    if not marked:
        yield from ((number, {"text": text}) for number, text in _lines(path, shown))
        return
    parts: list[str] = []
    begins = 1
    with _open(path) as stream:
        for number, raw in enumerate(stream, 1):
            text = _decoded(raw, shown, before=number - 1)
            *ended, rest = text.removeprefix("\ufeff").split(SEPARATOR)
            for piece in ended:
                document = "".join([*parts, piece]).strip()
                if document:
                    yield begins, {"text": document}
                parts, begins = [], number
            if not parts and not rest.strip():
                begins = number + 1
            else:
                parts.append(rest)
    document = "".join(parts).strip()
    if document:
        yield begins, {"text": document}
