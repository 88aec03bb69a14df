"""Disks that are full or read-only: a small file system of their own where that is permitted."""

from __future__ import annotations

import os
import resource
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil

from jobs.bench.faults.scaling import simulated_nodes
from jobs.bench.faults.trial import Ground
from storage.errors import UserError

_SMALL, _LARGE = "200k", "64m"
# Less than the latents of a simulated candidate, more than its other files.
_LIMIT_BYTES = 12 * 1024


@contextmanager
def _own_file_system(folder: Path) -> Iterator[bool]:
    """Mount a small tmpfs at `folder` for the block; False where mounting is not permitted."""
    folder.mkdir(parents=True, exist_ok=True)
    mounted = _mount("-t", "tmpfs", "-o", f"size={_LARGE}", "none", str(folder))
    try:
        yield mounted
    finally:
        if mounted:
            subprocess.run(["umount", "--lazy", str(folder)], check=False)


def resize(folder: Path, *, small: bool) -> None:
    """Make the file system too small for a run, or large enough again."""
    _mount("-o", f"remount,size={_SMALL if small else _LARGE}", str(folder))


def _set_read_only(folder: Path, read_only: bool) -> bool:
    """Whether it worked: a file system that is being written to refuses for the moment."""
    return _mount("-o", f"remount,{'ro' if read_only else 'rw'}", str(folder))


def _limit_file_size() -> None:
    """For a process about to start the command: larger files fail as they do on a full disk."""
    resource.setrlimit(resource.RLIMIT_FSIZE, (_LIMIT_BYTES, _LIMIT_BYTES))


def _set_writable(folder: Path, writable: bool) -> bool:
    """The same by permissions; False for root, whom they do not bind."""
    if os.geteuid() == 0:
        return False
    for path in [folder, *(one for one in folder.rglob("*") if one.is_dir())]:
        path.chmod(0o755 if writable else 0o555)
    return True


def _mount(*words: str) -> bool:
    try:
        return subprocess.run(["mount", *words], capture_output=True, check=False).returncode == 0
    except OSError:
        return False


_YEARS_30 = 30 * 365 * 86400


def driver_killed(ground: Ground) -> int:
    """SIGKILL of the command, with workers and without."""
    struck = 0
    for workers in (2, 0):
        ground.workers = workers
        process = ground.start()
        ground.wait_for_work(process)
        ground.a_moment()
        struck += ground.kill(process)
        process.communicate()
    return struck


def preempted(ground: Ground) -> int:
    """SIGTERM: the command ends with 143, and soon."""
    ground.workers = 2
    process = ground.start()
    ground.wait_for_work(process)
    ground.a_moment()
    struck, asked = ground.kill(process, signal.SIGTERM), time.monotonic()
    ground.end(process, 128 + signal.SIGTERM, 0)
    if time.monotonic() - asked > 20:
        raise UserError(f"the command took {time.monotonic() - asked:.0f} s to end after SIGTERM")
    return struck


def worker_killed(ground: Ground) -> int:
    """SIGKILL of random workers: the command itself goes on to its end."""
    ground.workers, struck = 2, 0
    process = ground.start()
    for _ in range(3):
        ground.wait_for_work(process)
        ground.a_moment()
        worker = ground.a_worker(process)
        if worker is not None:
            try:
                worker.kill()
                struck += 1
            except psutil.NoSuchProcess:
                continue
    ground.end(process, 0)
    return struck


def node_killed(ground: Ground) -> int:
    """SIGKILL of one of three simulated nodes: the command itself goes on to its end."""
    with simulated_nodes(3, cpus=2) as nodes:
        ground.workers, given = 6, ground.words
        ground.words = [*given, "--ray-address", nodes.address]
        try:
            process = ground.start()
            ground.wait_for_work(process)
            ground.a_moment()
            struck = process.poll() is None
            nodes.kill(ground.random.randrange(3))
            ground.end(process, 0)
        finally:
            ground.words = given
            ground.workers = 0
    return int(struck)


def disk_full(ground: Ground) -> int:
    """A disk that fills up: the command says so and ends with 1."""
    with _own_file_system(ground.run) as mounted:
        if mounted:
            resize(ground.run, small=True)
            said = ground.end(ground.start(), 1)
            resize(ground.run, small=False)
            _check(ground)
        else:
            said = ground.end(ground.start(_limit_file_size), 1)
    if "the disk is full" not in said:
        raise UserError(f"the command did not say that the disk is full: {said[-500:]}")
    return 1


def read_only(ground: Ground) -> int:
    """A run that becomes read-only while it is written, and is writable again."""
    with _own_file_system(ground.run) as mounted:
        if mounted:
            process = ground.start()
            ground.wait_for_work(process, 2)
            while process.poll() is None and not _set_read_only(ground.run, True):
                time.sleep(0.001)
            ground.end(process, 1, 0)
            said = ground.end(ground.start(), 1)
            _set_read_only(ground.run, False)
            _check(ground)
        else:
            ground.finish()
            if not _set_writable(ground.run, False):
                return 0
            said = ground.end(ground.start(), 1)
            _set_writable(ground.run, True)
    if "cannot write" not in said:
        raise UserError(f"the command did not say that it cannot write: {said[-500:]}")
    return 1


def shard_cut(ground: Ground) -> int:
    """A shard that is cut short."""
    return _cut(ground, "candidates")


def video_cut(ground: Ground) -> int:
    """A video that is cut short."""
    return _cut(ground, "media/videos")


def latents_cut(ground: Ground) -> int:
    """Latents that are cut short."""
    return _cut(ground, "media/latents")


def clock_changed(ground: Ground) -> int:
    """A clock that jumps by decades: created_at, and the times of files and of what killed writers left."""
    given, ground.words = ground.words, [*ground.words, "--wild-clock"]
    process = ground.start()
    ground.wait_for_work(process, 4)
    ground.kill(process)
    process.communicate()
    struck = 0
    for path in ground.run.rglob("*"):
        moment = time.time() + ground.random.uniform(-_YEARS_30, _YEARS_30)
        os.utime(path, (moment, moment))
        struck += 1
    ground.finish()
    ground.words = given
    return struck


def _cut(ground: Ground, folder: str) -> int:
    ground.finish()
    path: Path = ground.random.choice(sorted((ground.run / folder).glob("*.*")))
    with path.open("r+b") as file:
        file.truncate(ground.random.randrange(path.stat().st_size))
    return 1


def _check(ground: Ground) -> None:
    """Finish and count while the run's own file system is there."""
    ground.finish()
    ground.counted = ground.count()
