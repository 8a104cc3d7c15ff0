"""Finished work by address: `store/<stage>-<hash>/`, complete when its manifest is there.

A stage is a memoised call. Its address is the hash of its name, its version, the config without execution fields and
the ids of its inputs. The library's own code is not hashed (a log line must not retrain a model); versions and the git
state are recorded in the manifest instead. Code that a config brings by path is.
"""

from __future__ import annotations

import contextlib
import contextvars
import datetime
import errno
import fcntl
import hashlib
import json
import logging
import os
import platform
import re
import shutil
import socket
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from importlib import metadata
from pathlib import Path
from types import TracebackType
from typing import Any

from equipoise.config import Config, canonical_json
from equipoise.errors import BusyError, DataError, EquipoiseError, IncompleteError
from equipoise.given import source_of
from equipoise.types import Artefact

logger = logging.getLogger(__name__)

MANIFEST, SPEC, LOCK, LOG = "manifest.json", "spec.json", "lock", "log.txt"
_WHOLE_FILE = 64 * 2**20  # larger files are identified by size, time and their ends


@dataclass(frozen=True)
class FileInput:
    """A file or directory the user names, identified by its content."""

    path: Path

    @property
    def id(self) -> str:
        """Hash of the content (of a directory: of its files and their names)."""
        return content_id(self.path)


Input = Artefact | FileInput | str | tuple[Any, ...] | None


@dataclass
class Work:
    """What a stage body gets: the directory to fill, what is in it from a killed attempt, and a place for figures."""

    path: Path
    stage: str
    resumed: bool
    summary: dict[str, Any] = field(default_factory=dict)
    note: Callable[[str], None] = lambda text: None
    progress: Callable[[str, float, float], None] = lambda what, done, total: None


class Store:
    """A directory of artefacts."""

    def __init__(
        self,
        root: Path,
        *,
        fresh: tuple[str, ...] = (),
        wait: bool = False,
        on_event: Callable[[str, str, Artefact | None], None] = lambda kind, stage, artefact: None,
        on_progress: Callable[[str, float, float], None] = lambda what, done, total: None,
        on_note: Callable[[str], None] = lambda text: None,
    ) -> None:
        self.root = Path(root)
        self._fresh, self._wait = set(fresh), wait
        self._made: set[str] = set()
        self._on_event, self._on_progress, self._on_note = on_event, on_progress, on_note

    def path(self, stage: str, spec: Mapping[str, Any]) -> Path:
        """Directory of a spec."""
        return self.root / f"{stage}-{address(spec)}"

    def has(self, stage: str, spec: Mapping[str, Any]) -> bool:
        """Whether it is finished."""
        return (self.path(stage, spec) / MANIFEST).is_file()

    def run(
        self, stage: str, spec: Mapping[str, Any], body: Callable[[Work], None], *, execution: Mapping[str, Any]
    ) -> Artefact:
        """Return the finished artefact of `spec`, computing or continuing it if need be."""
        path = self.path(stage, spec)
        artefact = Artefact(id=path.name, kind=stage, path=path)
        again = stage in self._fresh and path.name not in self._made
        if self.has(stage, spec) and not again:
            self._on_event("reused", stage, artefact)
            return artefact
        with FullDisk(f"writing {stage} at {path}"):
            path.mkdir(parents=True, exist_ok=True)
            with locked(path / LOCK, wait=self._wait):
                if self.has(stage, spec) and not again:  # somebody finished it while we waited
                    self._on_event("reused", stage, artefact)
                    return artefact
                if again:
                    _clear(path)
                self._compute(path, stage, spec, body, execution)
        self._made.add(path.name)
        self._on_event("finished", stage, artefact)
        return artefact

    def _compute(
        self,
        path: Path,
        stage: str,
        spec: Mapping[str, Any],
        body: Callable[[Work], None],
        execution: Mapping[str, Any],
    ) -> None:
        resumed = (path / SPEC).is_file()
        write_json(path / SPEC, spec)
        self._on_event("continuing" if resumed else "started", stage, None)
        started = time.monotonic()
        work = Work(path, stage, resumed, note=self._note, progress=self._on_progress)
        with _log_to(path / LOG):
            body(work)
        files = {str(p.relative_to(path)): p.stat().st_size for p in sorted(path.rglob("*")) if p.is_file()}
        for name in (LOCK, LOG, SPEC):
            files.pop(name, None)
        manifest = {
            "stage": stage,
            "id": path.name,
            "created": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
            "seconds": round(time.monotonic() - started, 3),
            "resumed": resumed,
            "summary": work.summary,
            "execution": execution,
            "versions": versions(),
            "files": files,
        }
        write_json(path / MANIFEST, manifest)

    def _note(self, text: str) -> None:
        logger.info("%s", text)
        self._on_note(text)


class DryStore(Store):
    """Computes nothing: records which artefacts a run would make and which are there."""

    def __init__(self, root: Path) -> None:
        super().__init__(root)
        self.planned: list[tuple[str, str, str]] = []

    def run(
        self, stage: str, spec: Mapping[str, Any], body: Callable[[Work], None], *, execution: Mapping[str, Any]
    ) -> Artefact:
        """The artefact as it would be."""
        path = self.path(stage, spec)
        if not any(name == path.name for _, name, _ in self.planned):
            started = (path / SPEC).is_file()
            state = "there" if self.has(stage, spec) else "to be continued" if started else "to be computed"
            self.planned.append((stage, path.name, state))
        return Artefact(id=path.name, kind=stage, path=path)


_current: contextvars.ContextVar[Store] = contextvars.ContextVar("equipoise_store")


@contextlib.contextmanager
def using_store(store: Store) -> Iterator[Store]:
    """Make `store` the one that stages write to, inside the block."""
    token = _current.set(store)
    try:
        yield store
    finally:
        _current.reset(token)


def current_store() -> Store:
    """The store of the enclosing `using_store`; by default `./store` or `$EQUIPOISE_STORE`."""
    return _current.get(None) or Store(Path(os.environ.get("EQUIPOISE_STORE", "store")))


@dataclass(frozen=True)
class Stage:
    """A named, versioned function over artefacts: `stage(config, input=..., ...) -> Artefact`."""

    name: str
    version: int
    body: Callable[..., None]

    def spec(self, config: Config, inputs: Mapping[str, Input]) -> dict[str, Any]:
        """What the result depends on; the code only of a stage in a file that a config brought by path."""
        source = source_of(self.body)
        return {
            "stage": self.name,
            "version": self.version,
            **({} if source is None else {"source": source}),
            "config": config.canonical(),
            "inputs": {name: input_id(value) for name, value in sorted(inputs.items())},
        }

    def __call__(self, config: Config, **inputs: Input) -> Artefact:
        """Compute, continue or reuse."""
        spec = self.spec(config, inputs)
        everything = config.model_dump(mode="json")
        execution = {k: v for k, v in everything.items() if k not in config.canonical()}
        return current_store().run(self.name, spec, lambda work: self.body(work, config, **inputs), execution=execution)


def stage(*, version: int) -> Callable[[Callable[..., None]], Stage]:
    """Turn `fn(work, config, **inputs)` into a memoised stage of that name."""
    return lambda fn: Stage(fn.__name__, version, fn)


def input_id(value: Input) -> Any:
    """What identifies an input in a spec."""
    if isinstance(value, (Artefact, FileInput)):
        return value.id
    if isinstance(value, (tuple, list)):
        return [input_id(v) for v in value]
    return value


def address(spec: Mapping[str, Any]) -> str:
    """Twelve hex digits of the spec's hash."""
    return hashlib.sha256(canonical_json(spec).encode()).hexdigest()[:12]


def manifest(artefact: Artefact) -> dict[str, Any]:
    """The manifest of a finished artefact."""
    path = artefact.path / MANIFEST
    if not path.is_file():
        raise IncompleteError(f"{artefact.path} is not finished")
    data: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return data


def content_id(path: Path) -> str:
    """Hash of a file, or of a directory's visible files with their names.

    Files above 64 MiB are identified by size, modification time and their first and last MiB.
    """
    digest = hashlib.sha256()
    if not path.exists():
        raise DataError(f"there is no file or directory at {path}")
    files = [path] if path.is_file() else sorted(p for p in path.rglob("*") if p.is_file() and p.name[0] != ".")
    for file in files:
        if path.is_dir():
            digest.update(str(file.relative_to(path)).encode() + b"\0")
        with file.open("rb") as handle:
            if file.stat().st_size <= _WHOLE_FILE:
                while block := handle.read(2**20):
                    digest.update(block)
            else:
                status = file.stat()
                digest.update(f"{status.st_size}:{status.st_mtime_ns}".encode() + handle.read(2**20))
                handle.seek(-(2**20), os.SEEK_END)
                digest.update(handle.read())
    return digest.hexdigest()[:16]


def write_json(path: Path, value: Any) -> None:
    """Write JSON so that the file is whole or absent, also after a power cut."""
    write_text(path, json.dumps(value, indent=1, ensure_ascii=False) + "\n")


def write_text(path: Path, text: str) -> None:
    """Write text to a neighbour, flush it to disk, rename."""
    partial = path.with_name(path.name + f".part{os.getpid()}")
    try:
        with partial.open("w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


class FullDisk(contextlib.AbstractContextManager[None]):
    """Say in one sentence that the disk is full; what libraries raise then has no common type. Other errors pass."""

    def __init__(self, doing: str) -> None:
        self.doing = doing

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if isinstance(error, Exception) and not isinstance(error, EquipoiseError) and _is_full_disk(error):
            raise DataError(
                f"the disk is full while {self.doing}: nothing half-written counts as finished, free some space and "
                "run the same command again"
            ) from error


_DISK_WORDS = re.compile(
    r"No space left on device|\d+ requested and \d+ written"
    r"|unexpected pos \d+ vs|iostream error|StreamWriter failed writing"
)


def _is_full_disk(error: BaseException | None) -> bool:
    """Whether an exception, or one it came from, says so: some in words, torch and numpy by how much they wrote."""
    while error is not None:
        if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
            return True
        if _DISK_WORDS.search(str(error)):
            return True
        error = error.__cause__ or error.__context__
    return False


@contextlib.contextmanager
def locked(path: Path, *, wait: bool) -> Iterator[None]:
    """Hold the lock file of a stage; the kernel lets go of it when the process dies, so it is never stale."""
    with path.open("a+", encoding="utf-8") as handle:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        except BlockingIOError as error:
            handle.seek(0)
            holder = handle.read().strip() or "another process"
            raise BusyError(f"{path.parent.name} is being computed by {holder}: wait for it or stop it") from error
        handle.seek(0)
        handle.truncate()
        handle.write(f"process {os.getpid()} on {socket.gethostname()}")
        handle.flush()
        yield


def _clear(path: Path) -> None:
    (path / MANIFEST).unlink(missing_ok=True)  # first, so that a kill here leaves it unfinished
    for child in path.iterdir():
        if child.name == LOCK:
            continue
        if child.is_dir():
            shutil.rmtree(child)
        else:
            child.unlink()


class _LogFile(logging.FileHandler):
    """A log that cannot be written must not end the run, nor be complained about once a line."""

    def handleError(self, record: logging.LogRecord) -> None:
        pass

    def close(self) -> None:
        with contextlib.suppress(OSError):
            super().close()


@contextlib.contextmanager
def _log_to(path: Path) -> Iterator[None]:
    """Copy the package's log records to a file of the stage."""
    handler = _LogFile(path, encoding="utf-8")
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
    package = logging.getLogger("equipoise")
    level = package.level
    package.addHandler(handler)
    package.setLevel(min(level or logging.INFO, logging.INFO))
    try:
        yield
    except EquipoiseError as error:
        # To the file alone: whoever catches it says it on the terminal.
        handler.handle(logger.makeRecord(logger.name, logging.ERROR, __file__, 0, "%s", (error,), None))
        raise
    finally:
        package.removeHandler(handler)
        package.setLevel(level)
        handler.close()


def versions() -> dict[str, str]:
    """Versions of what computes, the platform, and the git state of an editable install."""
    out = {"python": platform.python_version(), "platform": platform.platform(terse=True)}
    for name in ("equipoise", "torch", "transformers", "peft", "accelerate", "tokenizers", "numpy"):
        with contextlib.suppress(metadata.PackageNotFoundError):
            out[name] = metadata.version(name)
    here = Path(__file__).resolve().parents[2]
    if (here / ".git").exists():
        with contextlib.suppress(OSError, subprocess.SubprocessError):
            describe = ["git", "-C", str(here), "describe", "--always", "--dirty", "--exclude=*"]
            out["git"] = subprocess.run(describe, capture_output=True, text=True, timeout=10, check=True).stdout.strip()
    return out
