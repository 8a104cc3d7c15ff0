"""Sets on the Hugging Face hub, and folders that `save_to_disk` wrote: the only callers of `datasets`."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

from equipoise.data.files import Record
from equipoise.errors import DataError, SettingError, nearest


def _datasets(what: str) -> ModuleType:
    try:
        import datasets
    except ModuleNotFoundError:
        raise SettingError(f"reading {what} needs the datasets package: pip install 'equipoise[hub]'") from None
    return datasets


def read_hub(
    name: str, *, revision: str | None = None, split: str | None = None, subfolder: str | None = None
) -> Iterator[Record]:
    """Yield the rows of a set on the hub (`split` in the notation of datasets: `train`, `train[:20%]`)."""
    datasets = _datasets(f"{name} from the hub")
    try:
        loaded = datasets.load_dataset(name, revision=revision, split=split, data_dir=subfolder)
    except (OSError, ValueError, RuntimeError) as error:
        # Network, missing set, missing split, bad revision: datasets has no common base for them.
        line = (str(error).splitlines() or [type(error).__name__])[0]
        raise DataError(f"{name} is neither a local path nor can it be loaded from the hub: {line}") from error
    yield from _rows(_one_split(loaded, name), name)


def read_saved(folder: Path, *, split: str | None = None) -> Iterator[Record]:
    """Yield the rows of a folder that `Dataset.save_to_disk` or `DatasetDict.save_to_disk` wrote."""
    loaded = _datasets(str(folder)).load_from_disk(str(folder))
    if split is not None:
        if not isinstance(loaded, Mapping) or split not in loaded:
            known = loaded if isinstance(loaded, Mapping) else ()
            raise SettingError(f"{folder} has no split {split}{nearest(split, known)}")
        loaded = loaded[split]
    yield from _rows(_one_split(loaded, folder.name), folder.name)


def _one_split(loaded: Any, name: str) -> Any:
    if not isinstance(loaded, Mapping):
        return loaded
    if len(loaded) > 1:
        names = ", ".join(loaded)
        raise SettingError(f"{name} holds the splits {names}, which must not be mixed: name one with `split:`")
    return next(iter(loaded.values()))


def _rows(loaded: Any, name: str) -> Iterator[Record]:
    for number, row in enumerate(loaded, 1):
        yield Record(name, number, row)
