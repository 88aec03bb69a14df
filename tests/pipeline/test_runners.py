from __future__ import annotations

import os
import signal
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil
import pytest

from pipeline.engine.ray_pool import MAX_DEATHS
from pipeline.engine.ray_runner import RayRunner
from pipeline.engine.runners import InProcessRunner, execute, make_runner
from pipeline.engine.stage import ERROR, WORKER_LOST, Silent, TaskOutcome
from pipeline.engine.worker_settings import WorkerSettings
from storage.errors import UserError
from storage.run import Run
from tests.pipeline.toy import Absent, ToyChunk, ToyStage, ToyTask, tries


def tasks(*keys: str) -> list[ToyTask]:
    return [ToyTask(key=key) for key in keys]


def ray_runner(**settings: Any) -> RayRunner:
    return RayRunner(settings=WorkerSettings(**settings))


def by_key(outcomes: list[TaskOutcome]) -> dict[str, TaskOutcome]:
    assert len({outcome.key for outcome in outcomes}) == len(outcomes)
    return {outcome.key: outcome for outcome in outcomes}


def test_in_process_an_error_is_reported_and_the_others_go_on(tmp_path: Path) -> None:
    runner = InProcessRunner()
    outcomes = by_key(list(runner.run(ToyStage(folder=tmp_path), tasks("a", "raises", "b"))))
    assert outcomes["a"].done == ("a",)
    assert outcomes["b"].done == ("b",)
    (failure,) = outcomes["raises"].failed
    assert (failure.id, failure.rule, failure.reason) == ("raises", ERROR, "ValueError: raises is bad")
    assert tries(tmp_path, "raises") == 1


@pytest.mark.slow
def test_ray_redoes_what_dead_workers_had_and_gives_up_a_task_that_kills_them(tmp_path: Path) -> None:
    runner = ray_runner(workers=2)
    keys = ("a", "kills", "b", "once", "raises", "c")
    chunk = ToyChunk(ids=("d", "kills-2", "e"))
    outcomes = by_key(list(runner.run(ToyStage(folder=tmp_path), [*tasks(*keys), chunk])))
    assert set(outcomes) == {*keys, *chunk.ids}
    assert all(outcomes[key].done == (key,) for key in ("a", "b", "c", "once"))
    assert tries(tmp_path, "once") == 2
    (lost,) = outcomes["kills"].failed
    assert lost.rule == WORKER_LOST
    assert lost.reason.startswith(f"killed its worker {MAX_DEATHS} times")
    assert tries(tmp_path, "kills") == MAX_DEATHS
    assert outcomes["raises"].failed[0].reason == "ValueError: raises is bad"
    assert tries(tmp_path, "raises") == 1
    # The others of its chunk are done: before its last try a chunk is taken apart.
    assert outcomes["kills-2"].failed[0].reason.startswith(f"killed its worker {MAX_DEATHS} times")
    assert (outcomes["d"].done, outcomes["e"].done) == (("d",), ("e",))
    assert tries(tmp_path, "kills-2") == MAX_DEATHS


@pytest.mark.slow
@pytest.mark.parametrize(
    ("trouble", "message"),
    [
        ("no weights", "toy has no weights: make some"),
        ("setup kills", "workers of toy died 3 times while loading their weights .*fewer --workers"),
    ],
)
def test_a_worker_that_cannot_be_set_up_ends_the_command(tmp_path: Path, trouble: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        list(ray_runner(workers=1).run(ToyStage(folder=tmp_path, trouble=trouble), tasks("a")))


def test_when_nothing_but_errors_comes_back_the_command_stops(tmp_path: Path) -> None:
    hopeless = tasks(*(f"raises{n}" for n in range(9)))
    message = r"the first 5 tasks all failed, the last with: ValueError: raises4 is bad"
    run = Run.create_or_open(tmp_path / "run")
    (tmp_path / "tries").mkdir()
    stage = ToyStage(folder=tmp_path / "tries")
    with pytest.raises(UserError, match=message):
        execute(run, stage, hopeless, runner=InProcessRunner(), progress=Silent(), wanted=9)
    assert len(list(stage.folder.iterdir())) == run.rows("rejects").num_rows == 5
    mixed = tasks(*(f"raises{n}" for n in range(4)), "a", *(f"raises{n}" for n in range(4, 9)))
    summary = execute(run, stage, mixed, runner=InProcessRunner(), progress=Silent(), wanted=12)
    assert (summary.wanted, summary.present, summary.done, summary.failed) == (12, 2, 1, 9)


def test_a_full_disk_ends_the_command_and_is_no_fault_of_a_candidate(tmp_path: Path) -> None:
    run = Run.create_or_open(tmp_path / "run")
    (tmp_path / "tries").mkdir()
    stage = ToyStage(folder=tmp_path / "tries")
    some = tasks("a", "full", "b")
    with pytest.raises(UserError, match="cannot write x: the disk is full"):
        execute(run, stage, some, runner=InProcessRunner(), progress=Silent(), wanted=3)
    assert {path.name for path in stage.folder.iterdir()} == {"a", "full"}
    assert not run.rows("rejects").num_rows


@pytest.mark.slow
def test_workers_that_hang_or_freeze_are_replaced_and_slow_ones_are_not(tmp_path: Path) -> None:
    # Several times what a busy machine may keep a worker waiting that only has to say it lives.
    runner = ray_runner(workers=3, stall_timeout=8)
    keys = ("hangs", "freezes", "beats")
    outcomes = by_key(list(runner.run(ToyStage(folder=tmp_path), tasks(*keys))))
    assert all(outcomes[key].done == (key,) for key in keys)
    assert [tries(tmp_path, key) for key in keys] == [2, 2, 1]


@pytest.mark.slow
def test_workers_have_the_runtime_environment_of_the_file(tmp_path: Path) -> None:
    python = tmp_path / "python"
    python.write_text(f'#!/bin/sh\nGPA_TOY="$GPA_TOY-exe" exec {sys.executable} "$@"\n')
    python.chmod(0o755)
    file = tmp_path / "env.yaml"
    file.write_text(f"py_executable: {python}\nenv_vars: {{GPA_TOY: set}}\n")
    runner = ray_runner(workers=1, runtime_env=file)
    assert [one.done for one in runner.run(ToyStage(folder=tmp_path), tasks("env"))] == [("env",)]
    assert (tmp_path / "env").read_text().startswith("set-exe ")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("grace", "last", "finished"),
    [(20.0, "sleeps-2", {"a", "sleeps-2"}), (0.2, "sleeps-600", {"a"})],
)
def test_sigterm_lets_tasks_in_flight_finish_within_the_grace_period(
    tmp_path: Path, grace: float, last: str, finished: set[str]
) -> None:
    waiting = tasks("a", last, "never")
    outcomes = ray_runner(workers=1, grace=grace).run(ToyStage(folder=tmp_path), waiting)
    with handled_sigterm():
        seen = {next(outcomes).key}
        asked: list[float] = []
        threading.Thread(target=terminate_when_there_is, args=(tmp_path / last, asked)).start()
        with pytest.raises(KeyboardInterrupt):
            seen.update(outcome.key for outcome in outcomes)
    assert seen == finished
    assert time.monotonic() - asked[0] < 10
    assert not (tmp_path / "never").exists()


def terminate_when_there_is(path: Path, asked: list[float]) -> None:
    """Send this process SIGTERM when a task has begun, and note when."""
    deadline = time.monotonic() + 120
    while not path.exists() and time.monotonic() < deadline:
        time.sleep(0.02)
    asked.append(time.monotonic())
    os.kill(os.getpid(), signal.SIGTERM)


@contextmanager
def handled_sigterm() -> Iterator[None]:
    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


@pytest.mark.slow
def test_a_local_ray_is_our_own_and_listens_on_the_loopback_interface_only(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RAY_ADDRESS", "127.0.0.1:9")
    outcomes = ray_runner(workers=1).run(ToyStage(folder=tmp_path), tasks("a", "b"))
    next(outcomes)
    listening = [
        connection.laddr.ip
        for process in psutil.Process().children(recursive=True)
        for connection in process.net_connections("inet")
        if connection.status == psutil.CONN_LISTEN
    ]
    outcomes.close()
    assert listening
    assert set(listening) <= {"127.0.0.1", "::1", "::ffff:127.0.0.1"}


def test_the_number_of_workers_chooses_the_runner() -> None:
    assert isinstance(make_runner(WorkerSettings()), InProcessRunner)
    three = WorkerSettings(workers=3)
    assert make_runner(three) == RayRunner(settings=three)


@pytest.mark.slow
def test_an_environment_without_this_package_is_told_as_such(tmp_path: Path) -> None:
    stage = ToyStage(folder=tmp_path, luggage=Absent())
    with pytest.raises(
        UserError, match=r"a worker of toy cannot start \(.*gpa_absent.*\): it needs this gpa"
    ):
        list(ray_runner(workers=1).run(stage, tasks("a")))
