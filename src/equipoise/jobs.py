"""Many runs side by side: each in a worker process, results kept as they come, one line per run.

A job is a function named `module:function` and a JSON payload; what it returns is JSON as well and is written to a file
of its own, so that nothing done is done again. A job that refuses its settings fails alone, with its sentence.

Two designs were weighed: a pool from the standard library, which loses every job when one worker is killed, and this
one, whose workers are told apart, so that a death is one job's failure and a device belongs to one worker.
"""

from __future__ import annotations

import contextlib
import importlib
import json
import logging
import multiprocessing
import os
import signal
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from multiprocessing.connection import Connection, wait
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, NamedTuple

from equipoise.errors import DataError, EquipoiseError
from equipoise.store import FullDisk, Store, address, using_store, write_json

State = Literal["queued", "running", "done", "reused", "failed"]


@dataclass(frozen=True)
class Job:
    """What is to be done: a name for its line, a group whose members take about as long, `module:function`, payload.

    `kept`: a result that is there is taken for it. Not so where the payload names files that may have changed: then the
    job runs again and finds its stages in the store.
    """

    name: str
    group: str
    call: str
    payload: Mapping[str, Any]
    kept: bool = True

    @property
    def key(self) -> str:
        """What its result is kept under."""
        return address({"call": self.call, "payload": dict(self.payload)})


@dataclass
class Line:
    """Where a job stands; `note` is the running stage or why it failed, `result` what it returned."""

    job: Job
    state: State = "queued"
    began: float = 0.0
    seconds: float = 0.0
    note: str = ""
    result: Any = None


@dataclass(frozen=True)
class Place:
    """How jobs are run: where results and stages are kept, how many at a time, on which devices, threads of each."""

    results: Path
    store: Path
    workers: int = 1
    devices: Sequence[str] = ()
    threads: int | None = None


class _Message(NamedTuple):
    kind: Literal["stage", "done", "failed", "raised"]
    value: Any


def run_jobs(jobs: Sequence[Job], place: Place, *, hear: Callable[[Line], None] = lambda line: None) -> list[Line]:
    """Run every job whose result is not there yet; `hear` is told of every change. Lines in the jobs' order."""
    lines = {job.key: Line(job) for job in jobs}
    place.results.mkdir(parents=True, exist_ok=True)
    waiting: list[Line] = []
    for line in lines.values():
        found = _kept(place, line.job)
        if found is None:
            waiting.append(line)
        else:
            line.state, line.result, line.seconds = "reused", found["result"], found["seconds"]
        hear(line)
    if waiting:
        _Workers(place, waiting, hear).run()
    return [lines[job.key] for job in jobs]


def _kept(place: Place, job: Job) -> dict[str, Any] | None:
    path = place.results / f"{job.key}.json"
    if not job.kept or not path.is_file():
        return None
    try:
        found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except json.JSONDecodeError as error:
        raise DataError(f"{path} is not JSON ({error}): remove it, and its run is done again") from error
    return found


@dataclass
class _Worker:
    process: multiprocessing.process.BaseProcess
    pipe: Connection
    device: str
    line: Line | None = None
    raised: str = ""  # by what its process is about to end


@dataclass
class _Workers:
    """The worker processes of one call; a worker that dies is replaced while there is work."""

    place: Place
    waiting: list[Line]
    hear: Callable[[Line], None]
    workers: list[_Worker] = field(default_factory=list)

    def run(self) -> None:
        """Hand out the jobs in their order until none is left."""
        devices = list(self.place.devices) or [""]
        count = min(max(self.place.workers, len(self.place.devices)), len(self.waiting))
        try:
            for number in range(count):
                self._start(devices[number % len(devices)])
            while any(worker.line for worker in self.workers) or self.waiting:
                self._step()
        finally:
            for worker in self.workers:
                worker.process.terminate()
                worker.pipe.close()  # one that takes the signal as a request saves, and finds nobody to tell
            for worker in self.workers:
                worker.process.join()

    def _start(self, device: str) -> None:
        here, there = multiprocessing.get_context("spawn").Pipe()
        told = (there, str(self.place.store), device, self.place.threads)
        process = multiprocessing.get_context("spawn").Process(target=_work, args=told, daemon=True)
        process.start()
        there.close()
        self.workers.append(_Worker(process, here, device))
        self._next(self.workers[-1])

    def _next(self, worker: _Worker) -> None:
        worker.line = None
        if self.waiting:
            line = worker.line = self.waiting.pop(0)
            line.state, line.began = "running", time.monotonic()
            self.hear(line)
            with contextlib.suppress(ConnectionError):  # a worker that has just ended: `_step` hears of it
                worker.pipe.send((line.job.call, dict(line.job.payload)))

    def _step(self) -> None:
        busy = {worker.pipe: worker for worker in self.workers if worker.line}
        for pipe in wait(list(busy), timeout=5.0):
            worker = busy[pipe]  # type: ignore[index]
            line = worker.line
            assert line is not None
            try:
                message: _Message = worker.pipe.recv()
            except (EOFError, ConnectionError):  # the latter where it ended before it took its job
                self._died(worker, line)
                continue
            if message.kind == "stage":
                line.note = message.value
                self.hear(line)
            elif message.kind == "raised":
                worker.raised = message.value
            else:
                self._ended(line, message)
                self._next(worker)

    def _ended(self, line: Line, message: _Message) -> None:
        line.seconds = round(time.monotonic() - line.began, 1)
        if message.kind == "failed":
            line.state, line.note = "failed", message.value
        else:
            # One that is run again in any case, and computed no stage, took everything from the store.
            line.state = "reused" if not line.job.kept and not line.note else "done"
            line.note, line.result = "", message.value
            kept = {"name": line.job.name, "payload": line.job.payload, "seconds": line.seconds, "result": line.result}
            write_json(self.place.results / f"{line.job.key}.json", kept)
        self.hear(line)

    def _died(self, worker: _Worker, line: Line) -> None:
        worker.process.join()
        code = worker.process.exitcode
        why = f"its process ended with code {code}" + (": out of memory?" if code == -9 else "")
        self._ended(line, _Message("failed", worker.raised or why))
        self.workers.remove(worker)
        if self.waiting:
            self._start(worker.device)


def _work(pipe: Connection, store: str, device: str, threads: int | None) -> None:
    """A worker process: one job after the other, until it is stopped."""
    # Ctrl-C reaches the whole group, and the parent stops its workers: no tracebacks of theirs.
    signal.signal(signal.SIGINT, lambda number, frame: None)
    threading.Thread(target=_end_with_parent, daemon=True).start()
    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)  # remarks on kernels that nothing here asks for
    if device:
        os.environ["CUDA_VISIBLE_DEVICES"] = device
    if threads is not None:
        import torch

        torch.set_num_threads(threads)

    def event(kind: str, stage: str, artefact: Any) -> None:
        if kind in ("started", "continuing"):
            pipe.send(_Message("stage", stage))

    # Runs share stages: where another one computes what this one needs, it waits. A pipe that is closed ends it all.
    closed = contextlib.suppress(EOFError, BrokenPipeError, ConnectionResetError)
    with closed, using_store(Store(Path(store), wait=True, on_event=event)):
        while True:
            call, payload = pipe.recv()
            module, _, name = call.partition(":")
            try:
                with _Telling(pipe), FullDisk(f"running {name}"):
                    result = vars(importlib.import_module(module))[name](payload)
            except EquipoiseError as error:
                pipe.send(_Message("failed", str(error)))
            else:
                pipe.send(_Message("done", result))


def _end_with_parent() -> None:
    """Stop where the parent was killed: nobody would hear of the job, and a new command would wait for it."""
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os.kill(os.getpid(), signal.SIGTERM)  # as the parent would: what a job has started ends with it


class _Telling(contextlib.AbstractContextManager[None]):
    """Tell the parent what a job raised that is no refusal; the process ends by it, its traceback on stderr."""

    def __init__(self, pipe: Connection) -> None:
        self._pipe = pipe

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if isinstance(error, Exception) and not isinstance(error, EquipoiseError):
            said = str(error).strip().partition("\n")[0]
            self._pipe.send(_Message("raised", f"{type(error).__name__}: {said}".removesuffix(": ")))
