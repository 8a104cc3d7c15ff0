import errno
import json
import multiprocessing
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from equipoise.config import Config, Execution
from equipoise.errors import BusyError, DataError, IncompleteError
from equipoise.store import (
    DryStore,
    FileInput,
    Stage,
    Store,
    content_id,
    manifest,
    stage,
    using_store,
    write_json,
)
from equipoise.types import Artefact


class Settings(Config):
    number: int = 1
    speed: int = Execution(1)


calls: list[str] = []


@stage(version=1)
def count(work, config, *, source=None):
    calls.append(f"{config.number}{'+' if work.resumed else ''}")
    (work.path / "out.txt").write_text(str(config.number))
    work.summary["number"] = config.number


@stage(version=1)
def fails(work, config):
    (work.path / "half.txt").write_text("half")
    raise OSError(errno.ENOSPC, "No space left on device")


@pytest.fixture(autouse=True)
def _fresh():
    calls.clear()


def test_a_stage_is_computed_once(tmp_path):
    with using_store(Store(tmp_path)):
        first, second = count(Settings()), count(Settings(speed=9))
    assert first == second and calls == ["1"]
    assert (first.path / "out.txt").read_text() == "1"
    found = manifest(first)
    assert found["summary"] == {"number": 1} and found["execution"] == {"speed": 1} and "out.txt" in found["files"]


def test_settings_inputs_version_and_name_change_the_address(tmp_path):
    (tmp_path / "file").write_text("a")
    with using_store(Store(tmp_path / "store")):
        paths = {count(Settings()).id, count(Settings(number=2)).id, count(Settings(), source="m@main").id}
        paths |= {count(Settings(), source=FileInput(tmp_path / "file")).id}
        (tmp_path / "file").write_text("b")
        paths |= {count(Settings(), source=FileInput(tmp_path / "file")).id}
        paths |= {Stage("count", 2, count.body)(Settings()).id, Stage("other", 1, count.body)(Settings()).id}
    assert len(paths) == 7


def test_fresh_recomputes_once(tmp_path):
    with using_store(Store(tmp_path)):
        count(Settings())
    with using_store(Store(tmp_path, fresh=("count",))):
        count(Settings())
        count(Settings())
    assert calls == ["1", "1"]


def test_without_a_manifest_nothing_is_finished(tmp_path):
    with using_store(Store(tmp_path)):
        made = count(Settings())
        (made.path / "manifest.json").unlink()
        with pytest.raises(IncompleteError):
            manifest(made)
        count(Settings())
    assert calls == ["1", "1+"], "the second run is told that it continues"


def test_a_full_disk_leaves_nothing_that_counts_as_whole(tmp_path):
    store = Store(tmp_path)
    with using_store(store), pytest.raises(DataError, match="disk is full"):
        fails(Settings())
    assert not store.has("fails", fails.spec(Settings(), {}))
    (folder,) = tmp_path.iterdir()
    assert "disk is full" not in (folder / "spec.json").read_text()


def test_files_are_whole_or_absent(tmp_path, monkeypatch):
    target = tmp_path / "a.json"
    write_json(target, {"a": 1})

    def full(descriptor):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space"):
        write_json(target, {"a": 2})
    assert json.loads(target.read_text()) == {"a": 1} and list(tmp_path.iterdir()) == [target]


HOLD = """
import sys, time
from pathlib import Path
from equipoise.store import Store
def body(work):
    (work.path / 'begun').write_text('x')
    time.sleep(60)
Store(Path(sys.argv[1])).run('slow', {'a': 1}, body, execution={})
"""


def test_a_second_process_is_refused_and_a_dead_one_is_not_in_the_way(tmp_path):
    holder = subprocess.Popen([sys.executable, "-c", HOLD, str(tmp_path)])
    store = Store(tmp_path)
    begun = store.path("slow", {"a": 1}) / "begun"
    deadline = time.monotonic() + 30
    while not begun.exists() and time.monotonic() < deadline:
        time.sleep(0.05)
    try:
        with pytest.raises(BusyError, match=f"process {holder.pid} on"):
            store.run("slow", {"a": 1}, lambda work: None, execution={})
    finally:
        holder.send_signal(signal.SIGKILL)
        holder.wait()
    seen = []
    store.run("slow", {"a": 1}, lambda work: seen.append(work.resumed), execution={})
    assert seen == [True], "the lock of a killed process is gone, and its directory is continued"


def _race(root, queue):
    def body(work):
        time.sleep(0.2)
        queue.put(os.getpid())

    Store(Path(root), wait=True).run("race", {}, body, execution={})


def test_waiting_processes_compute_once(tmp_path):
    context = multiprocessing.get_context("spawn")
    queue = context.Queue()
    racers = [context.Process(target=_race, args=(str(tmp_path), queue)) for _ in range(3)]
    for racer in racers:
        racer.start()
    for racer in racers:
        racer.join(60)
    assert queue.get(timeout=5) and queue.empty()


def test_content_decides_identity(tmp_path):
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "x.txt").write_text("same")
        (tmp_path / name / ".hidden").write_text(name)
    assert content_id(tmp_path / "a") == content_id(tmp_path / "b")
    (tmp_path / "b" / "x.txt").write_text("other")
    assert content_id(tmp_path / "a") != content_id(tmp_path / "b")
    with pytest.raises(DataError, match="no file"):
        content_id(tmp_path / "none")


def test_a_dry_store_computes_nothing(tmp_path):
    with using_store(Store(tmp_path)):
        count(Settings())
    dry = DryStore(tmp_path)
    with using_store(dry):
        made = count(Settings(number=2), source=count(Settings()))
    assert isinstance(made, Artefact) and calls == ["1"]
    assert [state for _, _, state in dry.planned] == ["there", "to be computed"]
