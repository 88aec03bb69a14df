"""Which tests are long and why, and that workers begin with the files that take most of their time.

`@pytest.mark.long(reason=...)` is what `make test` leaves to `make test-all`.
"""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest

WORDS = 4


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Refuse a long test that does not say why it is one; for several workers put slow files first."""
    for item in items:
        for mark in item.iter_markers("long"):
            require_reason(mark, item.nodeid)
    if hasattr(config, "workerinput"):
        slow_files_first(items)


def slow_files_first(items: list[pytest.Item]) -> None:
    """Order files by their number of slow tests: a slow one at the end leaves the other worker idle."""
    slow: Counter[Path] = Counter(item.path for item in items if item.get_closest_marker("slow"))
    items.sort(key=lambda item: -slow[item.path])


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
