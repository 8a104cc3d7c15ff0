"""A data entry of a config -> SourceRows: what a file holds, and what its labels were said to mean.

Nothing here guesses: pairs without an axis, columns that do not exist and settings without effect are refused.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Iterator, Mapping
from dataclasses import replace
from itertools import chain, islice
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError

from equipoise.data.columns import COLUMNS, FLAGS, RATING, BadRow, is_known
from equipoise.data.files import Record, kind_of, read_files
from equipoise.data.formats import LAYOUTS, Axis, Layout, content_id, digest, read_row, recognise
from equipoise.data.hub import read_hub, read_saved
from equipoise.errors import DataError, SettingError, nearest
from equipoise.types import Dropped, SourceRow

logger = logging.getLogger(__name__)

_PEEK = 100  # records looked at before the first row is read: optional columns need not be in the first of them
_FEW = 20  # values of a column that an error may list
_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[\w.-]+")


Value = str | bool | int | float


def _as_text(path: object) -> object:
    return str(path) if isinstance(path, Path) else path


class DataEntry(BaseModel):
    """Where rows come from and what they mean: one entry under `data:` in a config.

    `axis` says what an order of two answers is about, `flags: order` that the safer of two answers is safe and the
    other is not, `map` which column holds what ({target: column}); `revision`, `split` and `subfolder` belong to sets
    on the hub (`split` and `subfolder` to folders too); `where` takes the records whose columns ({column: value}, as
    the file names them) have a value or one of several; `limit` takes the first of these only.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    path: Annotated[str, BeforeValidator(_as_text), Field(min_length=1)]
    axis: Axis | None = None
    flags: Literal["order"] | None = None
    revision: str | None = None
    split: str | None = None
    subfolder: str | None = None
    map: dict[str, str] = Field(default_factory=dict)
    where: dict[str, Value | tuple[Value, ...]] = Field(default_factory=dict)
    format: str | None = None
    limit: int | None = Field(default=None, ge=1)
    name: str | None = None

    @property
    def shown(self) -> str:
        """How messages name the entry."""
        return f"data entry '{self.name}' ({self.path})" if self.name else self.path

    @property
    def meaning(self) -> dict[str, Any]:
        """What the entry says besides where it lies; a key that came later is there only where it is given."""
        later = {key for key, given in (("flags", self.flags), ("where", self.where)) if not given}
        return self.model_dump(mode="json", exclude={"path", "name"} | later)


class Located(NamedTuple):
    """A row, or why there is none, and the record it was read from."""

    record: Record
    row: SourceRow | Dropped


class Opened(NamedTuple):
    """An entry whose layout is known: `columns` are those of its first records (before `map`)."""

    layout: Layout
    columns: tuple[str, ...]
    rows: Iterator[Located]


def data_entry(value: str | Mapping[str, Any] | DataEntry, *, name: str | None = None) -> DataEntry:
    """Return the entry a config gives as a path or as keys; raises SettingError in one sentence."""
    if isinstance(value, DataEntry):
        return value
    keys = {"path": value} if isinstance(value, str) else dict(value)
    if name is not None:
        keys.setdefault("name", name)
    shown = f"data entry '{name}'" if name else "data entry"
    try:
        return DataEntry(**keys)
    except ValidationError as error:
        first = error.errors()[0]
        key = str(first["loc"][0])
        if first["type"] == "extra_forbidden":
            raise SettingError(f"{shown} has the unknown key {key}{nearest(key, DataEntry.model_fields)}") from None
        raise SettingError(f"{shown}: {key} is {first['input']!r}: {first['msg']}"[:300]) from None


def read_rows(
    entry: DataEntry, *, base_dir: str | Path | None = None, dropped: list[Dropped] | None = None
) -> Iterator[SourceRow]:
    """Yield the rows of an entry as they are read (relative paths are relative to `base_dir`).

    A row that cannot be read is appended to `dropped`; without such a list it raises DataError with file and line.
    """
    for _, row in open_entry(entry, base_dir=base_dir).rows:
        if isinstance(row, SourceRow):
            yield row
        elif dropped is not None:
            dropped.append(row)
        else:
            raise DataError(f"{row.detail} ({row.reason})")


def sniff(entry: DataEntry, *, base_dir: str | Path | None = None) -> str:
    """Return the name of the layout an entry's first records have."""
    return open_entry(entry, base_dir=base_dir).layout.name


def open_entry(entry: DataEntry, *, base_dir: str | Path | None = None) -> Opened:
    """Read as much of an entry as it takes to recognise and refuse it; its rows follow lazily."""
    _check_keys(entry)
    records = read_records(entry, base_dir=base_dir)
    head = list(islice(records, _PEEK))
    if not head:
        raise DataError(f"{entry.shown} holds no rows")
    columns = tuple(dict.fromkeys(str(name) for record in head for name in _cells(record)))
    for target, column in entry.map.items():
        if column not in columns:
            hint = nearest(column, columns)
            raise SettingError(f"{entry.shown}: map: {{{target}: {column}}}: there is no column {column}{hint}")
    first = _mapped(_cells(head[0]), entry.map)
    known = set(_mapped(dict.fromkeys(columns), entry.map))
    layout = LAYOUTS[entry.format] if entry.format else recognise(first, where=head[0].where)
    if not layout.fits(known):
        lacking = ", ".join(sorted(layout.needs - known or layout.prompts))
        has = ", ".join(sorted(known))
        raise SettingError(f"{entry.shown}: format: {layout.name} needs the columns {lacking}; the rows have {has}")
    _check_axis(entry, layout, known)
    _check_flags(entry, known)
    return Opened(layout, columns, _located(chain(head, records), entry, layout))


def read_records(entry: DataEntry, *, base_dir: str | Path | None = None) -> Iterator[Record]:
    """Yield what stands in an entry's files, before anybody says what it means; `where` and `limit` are kept to."""
    records = wanted(_records(entry, Path(base_dir) if base_dir is not None else None), entry)
    return records if entry.limit is None else islice(records, entry.limit)


def wanted(records: Iterator[Record], entry: DataEntry) -> Iterator[Record]:
    """The records that an entry's `where` keeps; raises SettingError where it names no column or keeps nothing."""
    if not entry.where:
        yield from records
        return
    seen: dict[str, set[str]] = {column: set() for column in entry.where}
    columns: dict[str, None] = {}
    kept = 0
    for record in records:
        cells = _cells(record)
        columns.update(dict.fromkeys(map(str, cells)))
        told = {column: _written(cells.get(column)) for column in entry.where}
        for column, value in told.items():
            if len(seen[column]) <= _FEW:
                seen[column].add(value)
        if all(value in _asked_for(entry.where[column]) for column, value in told.items()):
            kept += 1
            yield record
    for column, asked in entry.where.items():
        here = f"{entry.shown}: where: {{{column}: {', '.join(sorted(_asked_for(asked)))}}}"
        if columns and column not in columns:
            raise SettingError(f"{here}: there is no column {column}{nearest(column, columns)}")
        if columns and not kept and not _asked_for(asked) & seen[column]:
            few = sorted(value for value in seen[column] if len(value) <= 40)
            hint = nearest(min(_asked_for(asked)), few) if len(few) <= _FEW else ""
            raise SettingError(f"{here}: no record has this value{hint}")
    if columns and not kept:
        raise SettingError(f"{entry.shown}: where: no record has all of these values together")


def _asked_for(value: Value | tuple[Value, ...]) -> set[str]:
    return {_written(one) for one in (value if isinstance(value, tuple) else (value,))}


def _written(value: object) -> str:
    """A cell as text, so that 4, 4.0 and "4" are one value, and true and "True"."""
    if isinstance(value, str):
        return value.strip().lower() if value.strip().lower() in ("true", "false") else value.strip()
    if isinstance(value, bool):
        return str(value).lower()
    return f"{value:g}" if isinstance(value, int | float) else "" if value is None else str(value)


def _located(records: Iterator[Record], entry: DataEntry, layout: Layout) -> Iterator[Located]:
    for record in records:
        cells = _mapped(_cells(record), entry.map)
        try:
            row = read_row(cells, layout=layout, axis=entry.axis, source=entry.path, revision=entry.revision)
        except BadRow as problem:
            yield Located(record, Dropped(digest(record.value), problem.reason, f"{record.where}: {problem}"))
        else:
            yield Located(record, _flagged_by_order(row) if entry.flags else row)


def _flagged_by_order(row: SourceRow) -> SourceRow:
    """Say of two answers that the safer one is safe and the other is not; where there is no order, nothing is said."""
    if row.safer is None or len(row.responses) != 2:
        return row
    answers = tuple(replace(answer, safe=index == row.safer) for index, answer in enumerate(row.responses))
    row = replace(row, responses=answers)
    return replace(row, id=content_id(row))


def _cells(record: Record) -> Mapping[str, object]:
    """Return a record's cells: a bare string in a list of strings is a prompt."""
    if isinstance(record.value, str):
        return {"prompt": record.value}
    if isinstance(record.value, Mapping):
        return record.value
    kind = type(record.value).__name__
    raise DataError(f"{record.where} is a {kind}, expected an object with named columns or a string")


def _mapped(cells: Mapping[str, object], mapping: Mapping[str, str]) -> dict[str, object]:
    """Rename columns: {target: column}. A mapped column no longer goes by its own name."""
    used = set(mapping.values())
    kept = {name: value for name, value in cells.items() if name not in used}
    return kept | {target: cells[column] for target, column in mapping.items() if column in cells}


def _check_keys(entry: DataEntry) -> None:
    if entry.format is not None and entry.format not in LAYOUTS:
        raise SettingError(f"{entry.shown}: format: {entry.format} is no layout{nearest(entry.format, LAYOUTS)}")
    for target in entry.map:
        if not is_known(target):
            raise SettingError(f"{entry.shown}: map: {target} is no target{nearest(target, COLUMNS)}")


def _check_axis(entry: DataEntry, layout: Layout, columns: set[str]) -> None:
    """Refuse an order without a meaning, and a meaning without an order."""
    if entry.axis is None:
        if layout.needs_axis(columns):
            what = "chosen" if "chosen" in columns else "better_response_id"
            rated = layout.name == "responses" and any(RATING.fullmatch(column) for column in columns)
            ratings = "\n(or `format: rated-pairs`, to read ratings and leave the order)" if rated else ""
            raise SettingError(
                f"{entry.shown} orders answers ({what}) but does not say by what: add one of these two lines to it:\n"
                "    axis: better   # the preferred answer is the more helpful one\n"
                f"    axis: safer    # the preferred answer is the safer one{ratings}"
            )
    elif layout.name == "pku":
        column = f"{entry.axis}_response_id"
        if column not in columns:
            raise SettingError(f"{entry.shown}: axis: {entry.axis} asks for the column {column}, which is missing")
    elif not (layout.order | {"label", "kto_tag", "safe"}) & columns:
        raise SettingError(f"{entry.shown}: axis: {entry.axis} has no effect on a file that orders no answers")


def _check_flags(entry: DataEntry, columns: set[str]) -> None:
    """Refuse to read safety flags off an order that is not one by safety, or over flags that somebody gave."""
    if entry.flags is None:
        return
    if entry.axis != "safer":
        got = "no axis" if entry.axis is None else f"axis: {entry.axis}"
        raise SettingError(
            f"{entry.shown}: flags: order says that the safer of two answers is safe and the other is not, which needs "
            f"axis: safer, got {got}"
        )
    given = sorted(columns & FLAGS)
    if given:
        raise SettingError(f"{entry.shown}: flags: order would replace the safety flags of {', '.join(given)}")


def _records(entry: DataEntry, base_dir: Path | None) -> Iterator[Record]:
    """Find what `path` names: a file, a folder, or a set on the hub."""
    path = Path(entry.path).expanduser()
    path = base_dir / path if base_dir is not None else path
    if not path.exists():
        if _HUB_ID.fullmatch(entry.path) and kind_of(path) is None and not path.parent.is_dir():
            if entry.revision is None:
                logger.warning("%s has no revision: the set on the hub may change between runs", entry.shown)
            return read_hub(entry.path, revision=entry.revision, split=entry.split, subfolder=entry.subfolder)
        siblings = [p.name for p in path.parent.iterdir()] if path.parent.is_dir() else []
        hint = nearest(path.name, siblings)
        raise DataError(f"{entry.shown}: no file or folder at {path}{hint if 'did you mean' in hint else ''}")
    if entry.revision is not None:
        raise SettingError(f"{entry.shown}: revision: {entry.revision} was given for a local file, which has none")
    if entry.subfolder is not None:
        path = path / entry.subfolder
        if not path.is_dir():
            raise SettingError(f"{entry.shown}: subfolder: {entry.subfolder} is no folder in it")
    if (path / "state.json").is_file() or (path / "dataset_dict.json").is_file():
        return read_saved(path, split=entry.split)
    return read_files(path, split=entry.split)
