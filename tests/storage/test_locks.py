"""Two processes on one run: which of them may, what the other is told, and what neither may destroy."""

from __future__ import annotations

import errno
import fcntl
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from storage import locks
from storage.atomic import write_bytes
from storage.errors import UserError
from storage.run import Run
from storage.tables.schemas import Vanished, open_shard
from storage.tables.shards import keep_only, read_rows, shard_files, write_shard
from tests.storage.builders import candidate


@contextmanager
def elsewhere(run: Run, statement: str) -> Iterator[int]:
    """Another process that holds a lock of the run; yields its pid."""
    code = (
        "import sys; from storage.run import Run\nrun = Run(__import__('pathlib').Path(sys.argv[1]))\n"
        f"with {statement}:\n    print('held', flush=True); sys.stdin.read()"
    )
    words = [sys.executable, "-c", code, str(run.path)]
    with subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == b"held\n"
        yield other.pid
        other.communicate()


@pytest.fixture
def run(tmp_path: Path) -> Run:
    return Run.create_or_open(tmp_path / "run")


def test_stages_write_side_by_side_but_not_beside_one_that_removes(run: Run) -> None:
    with elsewhere(run, "run.lock('sample')") as pid:
        with run.lock("score"):
            assert locks.holders(run.path) == [f"sample (pid {pid})"]
        with pytest.raises(
            UserError, match=rf"another process works in .*: sample \(pid {pid}\); wait for it"
        ):
            run.lock_alone("compact").__enter__()
    with (
        elsewhere(run, "run.lock_alone('compact')") as pid,
        pytest.raises(UserError, match=rf"another process works in .*: compact \(pid {pid}\)"),
    ):
        run.lock("sample").__enter__()
    with run.lock_alone("compact"):
        assert locks.holders(run.path) == []


def test_pairs_are_not_replaced_under_a_training(run: Run) -> None:
    with elsewhere(run, "run.lock('train-dpo'), run.keep_pairs()") as pid:
        with run.keep_pairs():
            pass
        message = (
            rf"are being read \(train-dpo \(pid {pid}\)\): wait for it, or write .* elsewhere \(`out` DIR"
        )
        with pytest.raises(UserError, match=message):
            run.replace_pairs().__enter__()
    with run.replace_pairs():
        pass


def test_a_holder_on_another_machine_is_named_with_it(run: Run) -> None:
    with elsewhere(run, "run.lock('sample')"):
        (run.path / locks.FOLDER / "sample.lock").write_text("77 node-3\n")
        with pytest.raises(UserError, match=r"another process \(pid 77 on node-3\) runs sample"):
            run.lock("sample").__enter__()


@pytest.mark.parametrize("number", [errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP])
def test_a_file_system_without_locks_says_what_to_do(
    run: Run, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    def refused(*_: object) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(fcntl, "flock", refused)
    message = rf"the file system of {run.path} has no locks .*nolock.*local disk, or set GPA_LOCKS=off"
    for attempt in (lambda: run.record("sample", {}), lambda: run.lock("sample").__enter__()):
        with pytest.raises(UserError, match=message) as caught:
            attempt()
        assert "\n" not in str(caught.value)
    with pytest.raises(UserError, match="has no locks"):
        locks.require_locks(run.path)
    monkeypatch.setenv(locks.SWITCH, "off")
    run.record("sample", {"steps": 2})
    with run.lock("sample"):
        assert run.header()["commands"]["sample"]["config"] == {"steps": 2}


def test_looking_for_locks_leaves_nothing(run: Run) -> None:
    before = sorted(run.path.rglob("*"))
    locks.require_locks(run.path)
    assert sorted(run.path.rglob("*")) == before


def test_a_reader_finds_every_row_while_shards_are_merged_under_it(tmp_path: Path) -> None:
    """What gpa compact and a second gpa pair do: whole new shards first, then the old ones go."""
    rows = [candidate(f"c{number}") for number in range(12)]
    for row in rows:
        write_shard(tmp_path, "candidates", [row])
    stop = threading.Event()

    def merge() -> None:
        while not stop.is_set():
            one = write_shard(tmp_path, "candidates", rows)
            keep_only(tmp_path, [one])
            two = [write_shard(tmp_path, "candidates", half) for half in (rows[:6], rows[6:])]
            keep_only(tmp_path, two)
            stop.wait(0.02)

    thread = threading.Thread(target=merge)
    thread.start()
    try:
        for _ in range(60):
            assert read_rows(tmp_path, "candidates", ["candidate_id"]).num_rows == 12
    finally:
        stop.set()
        thread.join()


def test_a_shard_that_is_gone_is_not_called_damaged(tmp_path: Path) -> None:
    with pytest.raises(Vanished, match="is gone: another command replaced the files of its folder"):
        open_shard(tmp_path / "ab.parquet", "candidates")


def test_what_a_copy_catches_half_written_does_not_count(run: Run) -> None:
    directory = run.shard_dir("candidates")
    whole = write_shard(directory, "candidates", [candidate("a")])
    half = directory / f".{'b' * 32}.parquet.1.ab.tmp"
    half.write_bytes(whole.read_bytes()[:100])
    write_bytes(run.path / ".run.yaml.1.ab.tmp", b"format: gpa")
    assert shard_files(directory) == [whole]
    assert Run.open(run.path).rows("candidates").num_rows == 1
