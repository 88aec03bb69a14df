"""The one error type of this package that is meant for the user."""

from __future__ import annotations


class RewardError(Exception):
    """A reward cannot be set up or was asked for something impossible: one line, the thing and the remedy.

    A clip that merely cannot be scored is not an error: it gets no value and a reason.
    """
