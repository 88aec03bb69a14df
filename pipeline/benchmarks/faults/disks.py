"""Disks that are full or read-only: a small file system of their own where that is permitted."""

from __future__ import annotations

import os
import resource
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

_SMALL, _LARGE = "200k", "64m"
# Less than the latents of a simulated candidate, more than its other files.
_LIMIT_BYTES = 12 * 1024


@contextmanager
def own_file_system(folder: Path) -> Iterator[bool]:
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


def set_read_only(folder: Path, read_only: bool) -> bool:
    """Whether it worked: a file system that is being written to refuses for the moment."""
    return _mount("-o", f"remount,{'ro' if read_only else 'rw'}", str(folder))


def limit_file_size() -> None:
    """For a process about to start the command: larger files fail as they do on a full disk."""
    resource.setrlimit(resource.RLIMIT_FSIZE, (_LIMIT_BYTES, _LIMIT_BYTES))


def set_writable(folder: Path, writable: bool) -> bool:
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
