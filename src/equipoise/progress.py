"""Progress on a terminal: one live line per stage, plain lines when nobody watches."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator
from types import TracebackType
from typing import Any, Self

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from equipoise.types import Artefact

EVERY = 60.0  # seconds between lines where nobody watches a live one


class Display:
    """Shows stages as they start, continue, are reused and finish."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._bar = Progress(
            TextColumn("[bold]{task.description}"),
            BarColumn(),
            TextColumn("{task.percentage:>3.0f}%"),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
            console=console,
            transient=True,
            disable=not console.is_terminal,
        )
        self._task: TaskID | None = None
        self._started = self._spoke = time.monotonic()

    def __enter__(self) -> Self:
        self._bar.__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bar.__exit__(kind, error, trace)

    @contextlib.contextmanager
    def pause(self) -> Iterator[Console]:
        """Leave the terminal to somebody else's live lines; the console that they are to be written to."""
        self._drop_task()
        self._bar.stop()
        try:
            yield self._console
        finally:
            self._bar.start()

    def event(self, kind: str, stage: str, artefact: Artefact | None) -> None:
        """A stage changed its state."""
        if kind in ("started", "continuing"):
            self._started = self._spoke = time.monotonic()
            self._new_task(stage)
            if kind == "continuing":
                self._line(f"[yellow]continuing[/] {stage}")
            return
        self._drop_task()
        name = artefact.id if artefact else stage
        if kind == "reused":
            self._line(f"[dim]reused    {name}[/]")
        else:
            self._line(f"[green]finished[/]  {name}  [dim]{time.monotonic() - self._started:.1f} s[/]")

    def note(self, text: str) -> None:
        """Something about the running stage that the user should know."""
        self._line(f"[dim]          {text}[/]")

    def progress(self, what: str, done: float, total: float) -> None:
        """How far the running stage is."""
        if self._task is None:
            self._new_task(what)
        assert self._task is not None
        self._bar.update(self._task, description=what, completed=done, total=total)
        if self._bar.disable and time.monotonic() - self._spoke > EVERY:
            self._spoke = time.monotonic()
            self._line(f"          {what}  {done:g} of {total:g}")

    def say(self, console: Console) -> Callable[[Any], None]:
        """A printer for results that does not tear the live line."""
        return lambda what: console.print(what, soft_wrap=True)

    def _new_task(self, name: str) -> None:
        self._drop_task()
        self._task = self._bar.add_task(name, total=None)

    def _drop_task(self) -> None:
        if self._task is not None:
            self._bar.remove_task(self._task)
            self._task = None

    def _line(self, text: str) -> None:
        self._bar.console.print(text, highlight=False, soft_wrap=True)
