"""Where a Ray on this machine keeps its sockets and its token, and why it could not.

Ray takes $TMPDIR/ray and ~/.ray. A batch system's TMPDIR may be too long for a socket, /tmp/ray may be
somebody else's, a home may be read-only: then another place of our own does, and nobody need know.
"""

from __future__ import annotations

import os
import secrets
import sys
import tempfile
from functools import cache
from pathlib import Path

# The name of a socket has at most 107 bytes, 103 on macOS, of which Ray's part below its folder takes 64:
# /session_2026-01-31_23-59-59_123456_1234567/sockets/plasma_store
_OF_RAY = 64
_LONGEST = (103 if sys.platform == "darwin" else 107) - _OF_RAY
_OTHERS = ("/tmp", "/var/tmp", "/dev/shm")
_USERS_CHOICE = "RAY_TMPDIR"
_TOKEN = "RAY_AUTH_TOKEN"
_OF_TOKENS = (_TOKEN, "RAY_AUTH_TOKEN_PATH")


def temporary_folder() -> str | None:
    """A folder for Ray's sockets where its own choice would not do, else None; RAY_TMPDIR is the user's."""
    if _USERS_CHOICE in os.environ or _fits(_usual()):
        return None
    own = (Path(place) / f"gpa-ray-{os.getuid()}" for place in _OTHERS)
    return next((str(folder) for folder in own if _fits(folder) and _is_ours(folder)), None)


def socket_folder() -> str | None:
    """Where a temporary folder with a socket may lie: where the others do, unless that is too long."""
    room = len("/gpa-fork-server-12345678/socket")
    return None if len(os.fsencode(tempfile.gettempdir())) + room <= _LONGEST + _OF_RAY else _OTHERS[0]


def token() -> dict[str, str]:
    """The environment by which Ray has a token where it can neither read nor write the one of the home."""
    # Ray itself sets the mode "token" where nobody set one.
    if any(name in os.environ for name in _OF_TOKENS) or os.environ.get("RAY_AUTH_MODE", "token") != "token":
        return {}
    try:
        kept = Path.home() / ".ray" / "auth_token"
    except RuntimeError:
        return {_TOKEN: _own_token()}
    usable = os.access(kept, os.R_OK) if kept.exists() else _can_be_made(kept.parent)
    return {} if usable else {_TOKEN: _own_token()}


def why_not(error: Exception) -> str:
    """What keeps a Ray on this machine from starting, and the cure."""
    folder = Path(os.environ[_USERS_CHOICE]) / "ray" if _USERS_CHOICE in os.environ else _usual()
    length = len(os.fsencode(folder))
    if length > _LONGEST:
        return (
            f"its sockets would lie in {folder}, whose name has {length} bytes, where {_LONGEST} leave room "
            f"for theirs: set {_USERS_CHOICE} to a folder of yours with a short name"
        )
    if isinstance(error, OSError) and error.filename is not None:
        return (
            f"it cannot write {error.filename} ({error.strerror}): set {_USERS_CHOICE} to a folder of yours "
            "with a short name and some space, and HOME to one that you may write to"
        )
    if isinstance(error, UnicodeError):
        return "a name on its command line is not UTF-8, which Ray keeps: rename it, or give --workers 0"
    return f"{error}: try --workers 0, which needs no Ray"


def _usual() -> Path:
    """Where Ray would go by itself."""
    return Path(os.environ.get("TMPDIR", "/tmp") if sys.platform == "linux" else "/tmp") / "ray"


def _fits(folder: Path) -> bool:
    address = folder / "ray_current_cluster"
    writable = os.access(address, os.W_OK) if address.exists() else _can_be_made(folder)
    return len(os.fsencode(folder)) <= _LONGEST and writable


def _can_be_made(folder: Path) -> bool:
    """Whether something can be put into a folder that may have to be made."""
    there = next((one for one in (folder, *folder.absolute().parents) if one.exists()), None)
    return there is not None and there.is_dir() and os.access(there, os.W_OK | os.X_OK)


def _is_ours(folder: Path) -> bool:
    """Make the folder, or find that it is ours: another user may have guessed its name and been first."""
    try:
        folder.mkdir(mode=0o700, exist_ok=True)
        return not folder.is_symlink() and folder.stat().st_uid == os.getuid()
    except OSError:
        return False


@cache
def _own_token() -> str:
    """One for the whole process, which keeps the first that it is given."""
    return secrets.token_hex(32)
