"""`@pytest.mark.long(reason=...)`: what `make test` leaves to `make test-all`, each with its reason."""

from __future__ import annotations

import pytest

WORDS = 4


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Refuse a long test that does not say why it is one."""
    for item in items:
        for mark in item.iter_markers("long"):
            require_reason(mark, item.nodeid)


def require_reason(mark: pytest.Mark, where: str) -> None:
    """Raise UsageError unless the mark has a reason of a few words, by its name, and nothing else."""
    reason = mark.kwargs.get("reason")
    if (
        mark.args
        or set(mark.kwargs) != {"reason"}
        or not isinstance(reason, str)
        or len(reason.split()) < WORDS
    ):
        raise pytest.UsageError(
            f'{where} is marked long without saying why: write @pytest.mark.long(reason="..."), '
            "with what makes it long and which test of make test stands for it meanwhile"
        )
