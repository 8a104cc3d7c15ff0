"""Runs side by side: what is kept, what fails alone, what a death costs."""

from __future__ import annotations

import json
import os
import signal
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from equipoise.config import Config
from equipoise.errors import DataError, SettingError
from equipoise.job_lines import JobLines, duration
from equipoise.jobs import Job, Line, Place, run_jobs
from equipoise.store import Work, stage


class Factors(Config):
    value: int


def doubled(payload: Mapping[str, Any]) -> dict[str, Any]:
    """A job: doubles a number, and leaves a mark that it ran."""
    mark = Path(payload["marks"]) / f"{payload['value']}"
    mark.write_text(mark.read_text() + "x" if mark.exists() else "x")
    if payload["value"] < 0:
        raise SettingError("a number below 0 cannot be doubled here")
    if payload["value"] == 13:
        os.kill(os.getpid(), signal.SIGKILL)
    if payload["value"] == 15:
        asked: list[int] = []
        signal.signal(signal.SIGTERM, lambda number, frame: asked.append(number))
        (Path(payload["marks"]) / "ready").touch()
        while not asked:
            time.sleep(0.05)
        (Path(payload["marks"]) / "saved").write_text("x")
        raise SettingError("stopped")
    if payload["value"] == 14:
        raise RuntimeError("no memory is left\non this device")
    return {"value": 2 * payload["value"], "device": os.environ.get("CUDA_VISIBLE_DEVICES")}


def ends_at_once(*told: Any) -> None:
    """A worker that is gone before it takes a job."""
    os._exit(3)


def jobs(tmp_path: Path, *values: int, kept: bool = True) -> list[Job]:
    (tmp_path / "marks").mkdir(exist_ok=True)
    call = f"{__name__}:doubled"
    return [Job(f"double {v}", "d", call, {"value": v, "marks": str(tmp_path / "marks")}, kept) for v in values]


def place(tmp_path: Path, **more: Any) -> Place:
    return Place(tmp_path / "results", tmp_path / "store", **more)


def test_results_come_in_the_order_of_jobs_and_are_kept(tmp_path):
    states: list[tuple[str, str]] = []
    first = run_jobs(
        jobs(tmp_path, 3, 1), place(tmp_path, workers=2), hear=lambda o: states.append((o.job.name, o.state))
    )
    assert [line.result["value"] for line in first] == [6, 2]
    assert [line.state for line in first] == ["done", "done"]
    assert [state for name, state in states if name == "double 3"] == ["queued", "running", "done"]
    again = run_jobs(jobs(tmp_path, 1, 3, 4), place(tmp_path))
    assert [(line.state, line.result["value"]) for line in again] == [("reused", 2), ("reused", 6), ("done", 8)]
    assert (tmp_path / "marks" / "3").read_text() == "x"


@stage(version=1)
def product(work: Work, config: Factors) -> None:
    """A stage for a job to compute once."""
    (work.path / "value.txt").write_text(str(2 * config.value))


def in_a_stage(payload: Mapping[str, Any]) -> str:
    """A job whose work is a stage; it leaves a mark whenever it runs."""
    mark = Path(payload["mark"])
    mark.write_text(mark.read_text() + "x" if mark.exists() else "x")
    return (product(Factors(value=payload["value"])).path / "value.txt").read_text()


def test_what_names_files_is_run_again_and_finds_its_stages(tmp_path):
    again = Job("double 5", "d", f"{__name__}:in_a_stage", {"value": 5, "mark": str(tmp_path / "mark")}, kept=False)
    for state in ("done", "reused"):
        (line,) = run_jobs([again], place(tmp_path))
        assert (line.state, line.result) == (state, "10")
    assert (tmp_path / "mark").read_text() == "xx"


def test_a_refusal_fails_alone_and_is_tried_again(tmp_path):
    found = run_jobs(jobs(tmp_path, -1, 2), place(tmp_path))
    assert [line.state for line in found] == ["failed", "done"]
    assert found[0].note == "a number below 0 cannot be doubled here"
    run_jobs(jobs(tmp_path, -1), place(tmp_path))
    assert (tmp_path / "marks" / "-1").read_text() == "xx"


def test_a_killed_worker_is_one_failure(tmp_path):
    found = run_jobs(jobs(tmp_path, 13, 7), place(tmp_path))
    assert [line.state for line in found] == ["failed", "done"]
    assert "ended with code -9" in found[0].note


def test_whoever_follows_a_killed_worker_has_its_device(tmp_path):
    found = run_jobs(jobs(tmp_path, 13, 7), place(tmp_path, devices=("4",)))
    assert found[1].result["device"] == "4"
    found = run_jobs(jobs(tmp_path, 13, 8), place(tmp_path))
    assert found[1].result["device"] == os.environ.get("CUDA_VISIBLE_DEVICES")


def test_what_a_job_raises_is_why_it_failed(tmp_path, capfd):
    found = run_jobs(jobs(tmp_path, 14, 7), place(tmp_path))
    assert [line.state for line in found] == ["failed", "done"]
    assert found[0].note == "RuntimeError: no memory is left"
    assert "Traceback" in capfd.readouterr().err


def test_a_worker_that_never_takes_a_job_is_one_failure(tmp_path, monkeypatch):
    monkeypatch.setattr("equipoise.jobs._work", ends_at_once)
    found = run_jobs(jobs(tmp_path, 1, 2), place(tmp_path))
    assert [line.note for line in found] == ["its process ended with code 3"] * 2


def test_whoever_stops_the_parent_stops_a_job_that_saves_first(tmp_path):
    def hear(line: Line) -> None:
        if line.state == "done":
            while not (tmp_path / "marks" / "ready").exists():
                time.sleep(0.05)
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run_jobs(jobs(tmp_path, 15, 2), place(tmp_path, workers=2), hear=hear)
    assert (tmp_path / "marks" / "saved").is_file()


def test_each_worker_has_a_device_of_its_own(tmp_path):
    found = run_jobs(jobs(tmp_path, *range(1, 5)), place(tmp_path, devices=("4", "6")))
    assert {line.result["device"] for line in found} <= {"4", "6"}
    assert [line.state for line in found] == ["done"] * 4


def test_a_broken_result_is_named(tmp_path):
    (job,) = jobs(tmp_path, 1)
    run_jobs([job], place(tmp_path))
    (tmp_path / "results" / f"{job.key}.json").write_text("{")
    with pytest.raises(DataError, match=r"is not JSON .*remove it"):
        run_jobs([job], place(tmp_path))


def test_results_name_their_job(tmp_path):
    (job,) = jobs(tmp_path, 1)
    run_jobs([job], place(tmp_path))
    kept = json.loads((tmp_path / "results" / f"{job.key}.json").read_text())
    assert kept["name"] == "double 1"
    assert kept["payload"]["value"] == 1


def test_lines_say_what_is_queued_running_reused_and_failed(tmp_path, capsys):
    console = Console(force_terminal=False, width=100)
    three = jobs(tmp_path, 1, 2, -1)
    with JobLines(console, three, workers=1) as lines:
        run_jobs(three, place(tmp_path), hear=lines.hear)
    with JobLines(console, three, workers=1) as lines:
        run_jobs(three[:1], place(tmp_path), hear=lines.hear)
    said = capsys.readouterr().out
    assert "running  double 1" in said
    assert "done     double 2" in said
    assert "failed   double -1: a number below 0 cannot be doubled here" in said
    assert "reused   double 1" in said


def test_time_left_is_that_of_the_same_group(tmp_path):
    three = jobs(tmp_path, 1, 2, 3)
    lines = JobLines(Console(force_terminal=False, quiet=True), three, workers=2)
    assert lines.left(Line(three[1])) is None
    lines.hear(Line(three[0], "done", seconds=120.0))
    assert lines.left(Line(three[1])) == pytest.approx(120)
    assert lines.whole() == "1 of 3 runs, about 2 min left"


@pytest.mark.parametrize(("seconds", "said"), [(8.4, "8 s"), (200, "3 min"), (7800, "2 h 10 min")])
def test_durations(seconds, said):
    assert duration(seconds) == said
