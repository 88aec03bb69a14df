"""Files from outside a run: which are allowed, and how they come to lie inside it."""

from __future__ import annotations

import errno
import hashlib
import os
import secrets
from contextlib import suppress
from pathlib import Path

from storage.atomic import TEMP_SUFFIX, atomic_writer, sync_directory, write_error
from storage.errors import UserError


class Refused(UserError):
    """One item is not taken in; the others are. `rule` is what it broke, as the rejects table names it."""

    def __init__(self, rule: str, message: str) -> None:
        super().__init__(message)
        self.rule = rule

    def __reduce__(self) -> tuple[type[Refused], tuple[str, str]]:
        """Survive the way from a worker, which an exception with two arguments does not by itself."""
        return (Refused, (self.rule, str(self)))


_CHUNK = 4 * 2**20


def confined(root: Path, name: str, allow_outside: bool) -> Path:
    """The file that `name` means under the folder `root`, links followed.

    Raises Refused for one that lies outside of `root`, by an absolute path, `..` or a link, unless
    `allow_outside`, and for a name that no file can have.
    """
    if not name or "\0" in name:
        raise Refused("bad-path", f"path {show(name)!r} is empty or holds a NUL byte: correct it")
    try:
        path = Path(os.path.realpath(root / name))
        inside = path.is_relative_to(os.path.realpath(root))
    except (OSError, ValueError) as error:
        raise Refused("bad-path", f"path {show(name)!r} cannot be followed ({error}): correct it") from error
    if not inside and not allow_outside:
        raise Refused(
            "outside",
            f"path {show(name)!r} leads out of {show(str(root))}: move the file there, or give "
            "allow_outside if you trust whoever wrote it",
        )
    return path


def show(name: str) -> str:
    """A file name as text that any table takes: bytes that are no UTF-8 are written as escapes."""
    return name.encode("utf-8", "backslashreplace").decode("utf-8")


def file_sha256(path: Path) -> str:
    """The SHA-256 of a file in hex. Raises Refused when it cannot be read."""
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise Refused("unreadable", f"cannot be read ({error.strerror}): check its permissions") from error


def copy_file(source: Path, target: Path, sha256: str) -> None:
    """Copy a file whose content has this hash, atomically and durably.

    Raises Refused when it has another content by now, UserError when the disk refuses.
    """
    hasher = hashlib.sha256()
    try:
        file = source.open("rb")
    except OSError as error:
        raise Refused("unreadable", f"cannot be read ({error.strerror}): check its permissions") from error
    with file, atomic_writer(target) as handle:
        while chunk := file.read(_CHUNK):
            hasher.update(chunk)
            handle.write(chunk)
        # Inside the writer, so that nothing appears under the name.
        _require_unchanged(hasher.hexdigest(), sha256)


def link_file(source: Path, target: Path, sha256: str) -> None:
    """Give a file a second name: no bytes are copied, and a change of one is a change of both.

    Raises Refused as `copy_file`, and where links cannot be made; UserError when the disk refuses.
    """
    temporary = target.with_name(f".{target.name}.{os.getpid()}.{secrets.token_hex(4)}{TEMP_SUFFIX}")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        os.link(source, temporary)
        _require_unchanged(file_sha256(temporary), sha256)
        os.replace(temporary, target)
        sync_directory(target.parent)
    except OSError as error:
        if error.errno in {errno.EXDEV, errno.EMLINK, errno.EPERM, errno.ENOTSUP}:
            raise Refused(
                "link", f"cannot be linked into {target.parent} ({error.strerror}): leave `link` out"
            ) from error
        raise write_error(target, error) from error
    finally:
        # Renaming over another link of the same file does nothing and leaves the temporary name.
        with suppress(OSError):
            temporary.unlink(missing_ok=True)


def _require_unchanged(found: str, expected: str) -> None:
    if found != expected:
        raise Refused("changed", "was changed while it was imported: run the same command again")
