"""The rule of the mark `long`: a reason is given."""

from __future__ import annotations

import pytest

from tests.long_tests import require_reason


def test_a_reason_of_a_few_words_is_enough() -> None:
    mark = pytest.mark.long(reason="five kills of a command that loads torch").mark
    require_reason(mark, "tests/test_x.py::test_y")


@pytest.mark.parametrize(
    "mark",
    [
        pytest.mark.long,
        pytest.mark.long("slow as it is, by a lot"),
        pytest.mark.long(reason=""),
        pytest.mark.long(reason="slow"),
        pytest.mark.long(reason=None),
        pytest.mark.long(why="five kills of a command that loads torch"),
    ],
)
def test_a_long_test_without_a_reason_is_refused(mark: pytest.MarkDecorator) -> None:
    with pytest.raises(pytest.UsageError, match=r"test_y is marked long without saying why: write @pytest"):
        require_reason(mark.mark, "tests/test_x.py::test_y")
