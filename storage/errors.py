"""The exceptions that a user is meant to read."""

from __future__ import annotations


class UserError(Exception):
    """Something the user can put right: one line that names the thing and the remedy."""

    def __init__(self, message: str) -> None:
        """Fold the message onto one line, so that a command prints exactly one."""
        super().__init__(" ".join(message.split()))


class FieldError(UserError, ValueError):
    """A field of settings that cannot be what it is. Names the field; a command line says its flag for it.

    In the text of any error, a name with an underscore, one between backticks and one that "must be"
    something are those of fields.
    """

    def __init__(self, field: str, rule: str, received: object, remedy: str = "change it") -> None:
        """`rule` follows "must be"."""
        super().__init__(f"`{field}` must be {rule}, got {received!r}: {remedy}")
        self.field = field

    def __str__(self) -> str:
        """The line, its field without the mark that the command line goes by."""
        return str(self.args[0]).replace(f"`{self.field}`", self.field, 1)


class DiskError(UserError):
    """The disk is full or not writable: what was being written is not at fault, and nothing else will fit."""
