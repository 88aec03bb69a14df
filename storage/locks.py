"""Locks on a run directory. They die with their process, and say who holds them.

Every command that writes holds `run` together with others, and its own stage alone; a command that removes
what others read holds `run` alone. Readers hold nothing: what they read is whole and never changes.
"""

from __future__ import annotations

import errno
import fcntl
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TextIO

from storage.atomic import write_error
from storage.errors import UserError

FOLDER = ".locks"
RUN = "run"
HEADER = "header"
# For file systems without locks: whoever sets it sees to it that commands run one at a time.
SWITCH = "GPA_LOCKS"
_WITHOUT = {errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, errno.ENOTSUP, errno.EINVAL}


class Taken(UserError):
    """Another process has the lock."""


@contextmanager
def hold(run: Path, name: str, *, shared: bool = False, wait: bool = False) -> Iterator[None]:
    """Hold a lock of the run at `run`, alone or `shared` with others that share it.

    Raises UserError naming the holder when it is taken (unless `wait`), when the place is not writable, and
    when its file system has no locks.
    """
    with _open(run, name) as handle:
        kind = fcntl.LOCK_SH if shared else fcntl.LOCK_EX
        if not _lock(run, handle, kind if wait else kind | fcntl.LOCK_NB):
            raise _taken(run, name, handle)
        if not shared:
            _sign(handle)
        yield


def holders(run: Path) -> list[str]:
    """Which other processes write into the run: the stage and its process, of every stage lock held alone."""
    found = []
    for path in sorted((run / FOLDER).glob("*.lock")):
        if path.stem in (RUN, HEADER):
            continue
        with path.open("r") as handle:
            taken = not _lock(run, handle, fcntl.LOCK_SH | fcntl.LOCK_NB)
            holder = _holder(handle)
            if taken and holder != str(os.getpid()):
                found.append(f"{path.stem} (pid {holder})")
    return found


def require_locks(folder: Path) -> None:
    """Raise UserError when the file system of a directory has no locks. Leaves nothing there."""
    path = folder / f".gpa-lock-{os.getpid()}"
    try:
        with path.open("w") as handle:
            path.unlink()
            _lock(folder, handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        raise write_error(path, error) from error


def _open(run: Path, name: str) -> TextIO:
    path = run / FOLDER / f"{name}.lock"
    try:
        path.parent.mkdir(exist_ok=True)
        return os.fdopen(os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644), "r+")
    except OSError as error:
        raise write_error(path, error) from error


def _lock(run: Path, handle: TextIO, kind: int) -> bool:
    """Take the lock; False when somebody else has it."""
    if os.environ.get(SWITCH) == "off":
        return True
    try:
        fcntl.flock(handle, kind)
    except BlockingIOError:
        return False
    except OSError as error:
        if error.errno not in _WITHOUT:
            raise write_error(Path(handle.name), error) from error
        raise UserError(
            f"the file system of {run} has no locks ({error.strerror}): mount it with them (NFS: without "
            f"nolock; Lustre: with flock), put the run on a local disk, or set {SWITCH}=off and see to it "
            "that one command at a time writes there"
        ) from error
    return True


def _sign(handle: TextIO) -> None:
    """Say who has the lock; a full disk is no reason to be without it."""
    with suppress(OSError):
        os.ftruncate(handle.fileno(), 0)
        os.pwrite(handle.fileno(), f"{os.getpid()} {socket.gethostname()}\n".encode(), 0)


def _holder(handle: TextIO) -> str:
    pid, _, host = handle.read().strip().partition(" ")
    return (pid or "unknown") if host in ("", socket.gethostname()) else f"{pid} on {host}"


def _taken(run: Path, name: str, handle: TextIO) -> Taken:
    if name == RUN:
        what = ", ".join(holders(run)) or f"pid {_holder(handle)}"
        return Taken(f"another process works in {run}: {what}; wait for it or stop it")
    return Taken(f"another process (pid {_holder(handle)}) runs {name} in {run}: wait for it or stop it")
