"""A file is whole under its name or not there, whatever stops the writer."""

from __future__ import annotations

import errno
import os
import signal
import stat
import subprocess
import sys
import time
from pathlib import Path

import pytest

from storage import atomic
from storage.atomic import atomic_writer, sweep_stale, write_bytes
from storage.errors import UserError
from storage.tables.shards import read_rows, write_shard
from tests.storage.builders import candidate

KILLED_WRITER = """
import os, signal, sys
from pathlib import Path
from storage import atomic
from storage.tables.shards import write_shard
from tests.storage.builders import candidate

calls = {"replace": os.replace, "fsync": os.fsync}
def die(*arguments):
    if sys.argv[2].startswith("after"):
        calls[sys.argv[2].split("-")[1]](*arguments)
    os.kill(os.getpid(), signal.SIGKILL)
setattr(os, sys.argv[2].split("-")[1], die)
write_shard(Path(sys.argv[1]), "candidates", [candidate("c0"), candidate("c1")])
"""


@pytest.mark.parametrize(
    ("moment", "survives"), [("before-fsync", 0), ("before-replace", 0), ("after-replace", 2)]
)
def test_a_killed_writer_leaves_all_rows_or_none(tmp_path: Path, moment: str, survives: int) -> None:
    command = [sys.executable, "-c", KILLED_WRITER, str(tmp_path), moment]
    done = subprocess.run(command, timeout=120)
    assert done.returncode == -signal.SIGKILL
    assert read_rows(tmp_path, "candidates").num_rows == survives
    path = write_shard(tmp_path, "candidates", [candidate("c0"), candidate("c1")])
    assert read_rows(tmp_path, "candidates").num_rows == 2
    assert list(tmp_path.glob("*.parquet")) == [path]


def test_the_old_file_stays_until_the_new_one_is_whole(tmp_path: Path) -> None:
    path = tmp_path / "a.bin"
    write_bytes(path, b"old")
    with pytest.raises(KeyboardInterrupt):
        _interrupted_write(path)
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


def _interrupted_write(path: Path) -> None:
    with atomic_writer(path) as handle:
        handle.write(b"half")
        raise KeyboardInterrupt


def test_file_and_directory_are_synced_in_order(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    done: list[str] = []
    real_fsync, real_replace = os.fsync, os.replace

    def fsync(descriptor: int) -> None:
        done.append("directory" if stat.S_ISDIR(os.fstat(descriptor).st_mode) else "file")
        real_fsync(descriptor)

    def replace(source: Path, target: Path) -> None:
        done.append("rename")
        real_replace(source, target)

    monkeypatch.setattr(atomic.os, "fsync", fsync)
    monkeypatch.setattr(atomic.os, "replace", replace)
    write_bytes(tmp_path / "a.bin", b"x")
    assert done == ["file", "rename", "directory"]


@pytest.mark.parametrize(
    ("number", "says"),
    [
        (errno.ENOSPC, "the disk is full; free some space and run the same command again"),
        (errno.EDQUOT, "the disk is full"),
        (errno.EROFS, "no permission to write there; make it writable or copy the run"),
        (errno.EIO, "Input/output error; check the path and the disk"),
    ],
)
def test_a_refusing_disk_is_named_and_nothing_stays(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int, says: str
) -> None:
    def refuse(descriptor: int) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(atomic.os, "fsync", refuse)
    with pytest.raises(UserError, match=f"cannot write {tmp_path}/.*{says}"):
        write_shard(tmp_path, "candidates", [candidate()])
    assert list(tmp_path.iterdir()) == []


def test_a_disk_that_fills_up_within_a_shard_is_named(tmp_path: Path) -> None:
    code = (
        "import resource, signal; from pathlib import Path; from storage.tables.shards import write_shard\n"
        "from tests.storage.builders import candidate; from storage.errors import UserError\n"
        "rows = [candidate(f'c{i}') for i in range(500)]\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (2000, 2000))\n"
        f"try:\n    write_shard(Path({str(tmp_path)!r}), 'candidates', rows)\n"
        "except UserError as error:\n    print(error)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert "the disk is full; free some space" in done.stdout, done.stderr
    assert list(tmp_path.iterdir()) == []


def test_a_file_in_the_way_of_a_folder_is_named(tmp_path: Path) -> None:
    (tmp_path / "media").write_text("not a folder")
    with pytest.raises(UserError, match=r"cannot write .*media/a.bin"):
        write_bytes(tmp_path / "media" / "a.bin", b"x")


def test_a_link_is_replaced_and_not_followed(tmp_path: Path) -> None:
    outside = tmp_path / "precious"
    outside.write_bytes(b"keep me")
    link = tmp_path / "run" / "a.bin"
    link.parent.mkdir()
    link.symlink_to(outside)
    write_bytes(link, b"new")
    assert outside.read_bytes() == b"keep me"
    assert link.read_bytes() == b"new"
    assert not link.is_symlink()


def test_a_write_takes_no_other_writers_file_whatever_the_clock_says(tmp_path: Path) -> None:
    other = tmp_path / ".x.parquet.1.aa.tmp"
    other.write_bytes(b"half")
    os.utime(other, (0, 0))
    write_shard(tmp_path, "candidates", [candidate()])
    assert other.exists()
    assert read_rows(tmp_path, "candidates").num_rows == 1


def test_only_old_leftovers_are_swept(tmp_path: Path) -> None:
    old, young = tmp_path / ".x.parquet.1.aa.tmp", tmp_path / ".y.parquet.2.bb.tmp"
    kept = tmp_path / "z.tmp"
    for path in (old, young, kept):
        path.write_bytes(b"half")
    hours_ago = time.time() - 7200
    os.utime(old, (hours_ago, hours_ago))
    os.utime(kept, (hours_ago, hours_ago))
    assert sweep_stale(tmp_path) == 1
    assert not old.exists()
    assert young.exists()
    assert kept.exists()
    assert sweep_stale(tmp_path, older_than=-10) == 1
