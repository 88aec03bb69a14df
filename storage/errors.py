"""The one exception that a user is meant to read."""

from __future__ import annotations


class UserError(Exception):
    """Something the user can put right: one line that names the thing and the remedy."""

    def __init__(self, message: str) -> None:
        """Fold the message onto one line, so that a command prints exactly one."""
        super().__init__(" ".join(message.split()))


class DiskError(UserError):
    """The disk is full or not writable: what was being written is not at fault, and nothing else will fit."""
