"""Replies by the hash of their request, and what each account has paid: one SQLite file that processes share.

A request is claimed before it is sent, by a lock on one byte of a file beside the cache, which the kernel lets go of
when a process dies. So of several processes on a machine one asks, and the others find its reply.
"""

from __future__ import annotations

import contextlib
import datetime
import fcntl
import sqlite3
import threading
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from types import TracebackType
from typing import BinaryIO, NamedTuple, Self

from equipoise.errors import DataError

_APPLICATION, _VERSION = 0x45515053, 1  # how an SQLite file says whose it is
_BUSY_S = 60.0
_AT_ONCE = 500  # keys of one query

_TABLES = """
create table if not exists replies (
    key text primary key, text text not null, finish text, prompt_tokens integer not null,
    completion_tokens integer not null, model text, account text not null, price real, created text not null
) without rowid;
create table if not exists paid (
    account text primary key, requests integer not null, prompt_tokens integer not null,
    completion_tokens integer not null, price real
) without rowid;
"""
_PAY = """
insert into paid values (?, ?, ?, ?, ?) on conflict (account) do update set
    requests = requests + excluded.requests, prompt_tokens = prompt_tokens + excluded.prompt_tokens,
    completion_tokens = completion_tokens + excluded.completion_tokens,
    price = coalesce(price + excluded.price, price, excluded.price)
"""


class Kept(NamedTuple):
    """A reply as it is kept."""

    text: str
    finish: str | None
    prompt_tokens: int
    completion_tokens: int
    model: str | None


class Bill(NamedTuple):
    """What one request cost, and the reply to keep, if it brought one."""

    key: str
    prompt_tokens: int
    completion_tokens: int
    price: float | None
    reply: Kept | None


class Spent(NamedTuple):
    """What an account has paid; `price` is None where no endpoint of it had one. `cached` replies cost nothing."""

    requests: int
    prompt_tokens: int
    completion_tokens: int
    price: float | None
    cached: int = 0

    @property
    def tokens(self) -> int:
        """Of prompts and completions."""
        return self.prompt_tokens + self.completion_tokens


class Cache:
    """Replies and ledger in the file `path`, or in memory for as long as this object lives."""

    def __init__(self, path: Path | None) -> None:
        self.path = path
        self._lock = threading.Lock()
        # An explicit transaction wherever something is written: reads need none.
        place = ":memory:" if path is None else str(path)
        with contextlib.ExitStack() as opened:
            self._claims = None if path is None else opened.enter_context(_beside(path))
            with self._alone(), self._one_sentence():
                self._sql = sqlite3.connect(place, timeout=_BUSY_S, isolation_level=None, check_same_thread=False)
                opened.callback(self._sql.close)
                self._begin()
            opened.pop_all()  # nothing failed: both stay open

    @contextlib.contextmanager
    def _alone(self) -> Iterator[None]:
        """One process at a time begins a file: SQLite does not wait for who is making it a WAL one."""
        if self._claims is None:
            yield
            return
        fcntl.flock(self._claims, fcntl.LOCK_EX)
        try:
            yield
        finally:
            fcntl.flock(self._claims, fcntl.LOCK_UN)

    def _begin(self) -> None:
        with self._one_sentence():
            (whose,) = self._sql.execute("pragma application_id").fetchone()
            (version,) = self._sql.execute("pragma user_version").fetchone()
            (tables,) = self._sql.execute("select count(*) from sqlite_master").fetchone()
            if tables and whose != _APPLICATION:
                raise DataError(f"{self.path} is a database of something else, not a cache of replies")
            if tables and version != _VERSION:
                raise DataError(
                    f"{self.path} is a cache of version {version}, this is version {_VERSION}: move it away"
                )
            self._sql.execute("pragma journal_mode = wal")
            self._sql.execute("pragma synchronous = normal")  # a power cut may cost the last replies, never the file
            if not tables:
                with self._writing():
                    for statement in filter(str.strip, _TABLES.split(";")):
                        self._sql.execute(statement)
                    self._sql.execute(f"pragma application_id = {_APPLICATION}")
                    self._sql.execute(f"pragma user_version = {_VERSION}")

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the file."""
        with self._lock:
            self._sql.close()
            if self._claims is not None:
                self._claims.close()

    def get(self, keys: Sequence[str]) -> dict[str, Kept]:
        """The replies to requests, where there are some."""
        out = {}
        for start in range(0, len(keys), _AT_ONCE):
            some = keys[start : start + _AT_ONCE]
            marks = ",".join("?" * len(some))
            query = (
                f"select key, text, finish, prompt_tokens, completion_tokens, model from replies where key in ({marks})"
            )
            with self._lock, self._one_sentence():
                for key, *cells in self._sql.execute(query, tuple(some)):
                    out[key] = Kept(*cells)
        return out

    def put(self, account: str, bills: Iterable[Bill]) -> Spent:
        """Keep replies and write down what they cost, in one transaction; returns what the account has paid."""
        now = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
        bills = list(bills)
        rows = [(b.key, *b.reply, account, b.price, now) for b in bills if b.reply is not None]
        prices = [b.price for b in bills if b.price is not None]
        sums = (sum(b.prompt_tokens for b in bills), sum(b.completion_tokens for b in bills))
        with self._lock, self._one_sentence():
            with self._writing():
                self._sql.executemany("insert or ignore into replies values (?, ?, ?, ?, ?, ?, ?, ?, ?)", rows)
                self._sql.execute(_PAY, (account, len(bills), *sums, sum(prices) if prices else None))
            return self._spent(account)

    def spent(self, account: str) -> Spent:
        """What an account has paid since ever, in all processes."""
        with self._lock, self._one_sentence():
            return self._spent(account)

    def _spent(self, account: str) -> Spent:
        query = "select requests, prompt_tokens, completion_tokens, price from paid where account = ?"
        found = self._sql.execute(query, (account,)).fetchone()
        return Spent(0, 0, 0, None) if found is None else Spent(*found)

    def claim(self, key: str) -> bool:
        """Whether this process may send a request: False while another one is waiting for its reply."""
        if self._claims is None:
            return True
        try:
            fcntl.lockf(self._claims, fcntl.LOCK_EX | fcntl.LOCK_NB, 1, _byte(key))
        except BlockingIOError:
            return False
        except PermissionError:  # what some systems say instead
            return False
        return True

    def release(self, key: str) -> None:
        """End a claim."""
        if self._claims is not None:
            fcntl.lockf(self._claims, fcntl.LOCK_UN, 1, _byte(key))

    @contextlib.contextmanager
    def _writing(self) -> Iterator[None]:
        self._sql.execute("begin immediate")
        with self._sql:
            yield

    @contextlib.contextmanager
    def _one_sentence(self) -> Iterator[None]:
        try:
            yield
        except sqlite3.OperationalError as error:
            busy = f"another process has kept it locked for {_BUSY_S:g} s" if "locked" in str(error) else str(error)
            raise DataError(f"the cache of replies {self.path} cannot be used: {busy}") from error
        except sqlite3.DatabaseError as error:
            raise DataError(
                f"{self.path} is damaged or not a cache of replies ({error}): move it away, and what it held is asked "
                "again"
            ) from error


def _beside(path: Path) -> BinaryIO:
    """The file of claims of a cache."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        return path.with_name(path.name + "-asking").open("ab")
    except OSError as error:
        raise DataError(f"the cache of replies {path} cannot be used: {error.strerror}") from error


def _byte(key: str) -> int:
    """Where in the file of claims a request has its byte: two share one so rarely that waiting then costs nothing."""
    return int(key[:15], 16)
