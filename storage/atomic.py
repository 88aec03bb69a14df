"""Files that are either whole and durable under their name, or not there at all."""

from __future__ import annotations

import errno
import os
import secrets
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

from storage.errors import DiskError, UserError

TEMP_SUFFIX = ".tmp"
_STALE_SECONDS = 3600.0
_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
_READ_ONLY = {errno.EROFS, errno.EACCES, errno.EPERM}


@contextmanager
def atomic_writer(path: Path) -> Iterator[BinaryIO]:
    """A binary handle whose bytes appear under `path` only once they are on disk, replacing what was there.

    The bytes go to a temporary name in the same directory, are fsynced and renamed; the directory is fsynced
    last, so a row that says the file exists can never outlive it. A symbolic link at `path` is replaced, not
    followed. Whatever ends the block early, the temporary file is removed. Raises DiskError when the disk is
    full or the place is not writable, UserError otherwise.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.{secrets.token_hex(4)}{TEMP_SUFFIX}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with temporary.open("xb") as handle:
            yield handle
            handle.flush()
            os.fsync(handle.fileno())
        os.replace(temporary, path)
        sync_directory(path.parent)
    except OSError as error:
        raise write_error(path, error) from error
    finally:
        # After a successful rename there is nothing left; on a dead disk the first error is the one to tell.
        with suppress(OSError):
            temporary.unlink(missing_ok=True)


def write_bytes(path: Path, data: bytes) -> None:
    """Put `data` under `path`, atomically and durably. Raises UserError as `atomic_writer` does."""
    with atomic_writer(path) as handle:
        handle.write(data)


def sync_directory(directory: Path) -> None:
    """Make renames and removals in `directory` durable."""
    descriptor = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def sweep_stale(directory: Path, older_than: float = _STALE_SECONDS) -> int:
    """Remove temporary files that a killed writer left more than `older_than` seconds ago; count them."""
    limit = time.time() - older_than
    removed = 0
    for leftover in directory.glob(f".*{TEMP_SUFFIX}"):
        # Another writer may sweep the same file, and a read-only directory is no reason to fail.
        with suppress(OSError):
            if leftover.stat().st_mtime < limit:
                leftover.unlink()
                removed += 1
    return removed


def write_error(path: Path, error: OSError) -> UserError:
    """The one line that says why `path` could not be written and what to do."""
    if error.errno in _FULL:
        return DiskError(
            f"cannot write {path}: the disk is full; free some space and run the same command again"
        )
    if error.errno in _READ_ONLY:
        return DiskError(
            f"cannot write {path}: no permission to write there; make it writable or copy the run"
        )
    what = error.strerror or str(error)
    return UserError(
        f"cannot write {path}: {what}; check the path and the disk, then run the same command again"
    )
