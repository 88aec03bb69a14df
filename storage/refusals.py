"""Things from elsewhere that a run does not take in."""

from __future__ import annotations

from storage.errors import UserError


class Refused(UserError):
    """One item is not taken in; the others are. `rule` is what it broke, as the rejects table names it."""

    def __init__(self, rule: str, message: str) -> None:
        super().__init__(message)
        self.rule = rule

    def __reduce__(self) -> tuple[type[Refused], tuple[str, str]]:
        """Survive the way from a worker, which an exception with two arguments does not by itself."""
        return (Refused, (self.rule, str(self)))
