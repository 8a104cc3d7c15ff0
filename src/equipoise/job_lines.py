"""What the terminal shows while jobs run: one line per run, with the time that is left."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from types import TracebackType
from typing import Self

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.markup import escape
from rich.table import Table

from equipoise.jobs import Job, Line

Terminal = Callable[[], AbstractContextManager[Console]]
"""Gives the console for as long as lines change on it, whatever else was shown there."""

SHOWN = 30  # lines that a terminal has room for; running and failed ones first
_COLORS = {"queued": "dim", "running": "yellow", "done": "green", "reused": "dim", "failed": "red"}


class JobLines:
    """Lines that change in place on a terminal, and are printed one by one where nobody watches."""

    def __init__(self, console: Console, jobs: Sequence[Job], *, workers: int) -> None:
        self._console, self._workers = console, workers
        self._lines = {job.key: Line(job) for job in jobs}
        self._live = Live(console=console, get_renderable=self._render, refresh_per_second=2, transient=True)

    def __enter__(self) -> Self:
        if self._console.is_terminal:
            self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._console.is_terminal:
            self._live.stop()

    def hear(self, line: Line) -> None:
        """A job changed its state."""
        changed = self._lines[line.job.key].state != line.state
        self._lines[line.job.key] = Line(**vars(line))
        if changed and (line.state in ("done", "failed") or not self._console.is_terminal):
            self._console.print(self._words(line), highlight=False, soft_wrap=True)

    def left(self, line: Line) -> float | None:
        """Seconds that a running or queued job is expected to take still, by those of its group that ended."""
        ended = [one.seconds for one in self._lines.values() if one.state == "done" and one.job.group == line.job.group]
        if not ended:
            ended = [one.seconds for one in self._lines.values() if one.state == "done"]
        if not ended:
            return None
        spent = time.monotonic() - line.began if line.state == "running" else 0.0
        return max(0.0, sum(ended) / len(ended) - spent)

    def whole(self) -> str:
        """How many are done, and how long the rest should take."""
        lines = list(self._lines.values())
        count = {state: sum(one.state == state for one in lines) for state in _COLORS}
        open_lines = [self.left(one) for one in lines if one.state in ("running", "queued")]
        known = [seconds for seconds in open_lines if seconds is not None]
        ended = count["done"] + count["reused"] + count["failed"]
        words = f"{ended} of {len(lines)} runs"
        if count["failed"]:
            words += f", {count['failed']} failed"
        if len(known) == len(open_lines) and known:
            words += f", about {duration(sum(known) / self._workers)} left"
        return words

    def _render(self) -> RenderableType:
        order = ("running", "failed", "done", "queued", "reused")
        lines = sorted(self._lines.values(), key=lambda one: order.index(one.state))
        table = Table.grid(padding=(0, 2))
        for line in lines[:SHOWN]:
            table.add_row(self._words(line))
        return Group(table, f"[bold]{self.whole()}[/]")

    def _words(self, line: Line) -> str:
        color = _COLORS[line.state]
        said = f"[{color}]{line.state:<8}[/] {escape(line.job.name)}"
        if line.state == "running":
            left = self.left(line)
            about = "" if left is None else f", about {duration(left)} left"
            return f"{said}  [dim]{escape(line.note)}{about}[/]" if line.note or about else said
        if line.state == "failed":
            return f"{said}: {escape(line.note)}"
        return f"{said}  [dim]{duration(line.seconds)}[/]" if line.state == "done" else said


def plain_terminal() -> AbstractContextManager[Console]:
    """The console of errors, where nothing else is shown."""
    return nullcontext(Console(stderr=True))


def duration(seconds: float) -> str:
    """Seconds in words: 8 s, 3 min, 2 h 10 min."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 90 else f"{minutes // 60} h {minutes % 60:02d} min"
