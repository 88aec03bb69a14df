"""Values as the page reads them: short numbers, names that files can have."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable
from typing import Any

from storage.tables.ids import content_id

_SAFE = re.compile(r"[A-Za-z0-9_-]{1,128}")


def number(value: Any, digits: int = 6) -> float | int | None:
    """A number with so many significant digits; None for what is none, or not finite."""
    if value is None or isinstance(value, bool) or not isinstance(value, (int, float)):
        return None
    if isinstance(value, int):
        return value
    return float(f"{value:.{digits}g}") if math.isfinite(value) else None


def numbers(values: Iterable[Any] | None, digits: int = 6) -> list[float | int | None]:
    """Numbers as `number` gives them; none for None."""
    return [number(value, digits) for value in values or ()]


def plain(value: Any) -> Any:
    """Any value of a file that others wrote, as JSON can hold it."""
    if isinstance(value, dict):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(item) for item in value]
    if value is None or isinstance(value, (bool, str)):
        return value
    return number(value) if isinstance(value, (int, float)) else str(value)


def file_key(name: str) -> str:
    """An id as the stem of a file's name: itself, or a hash of one that a file should not have."""
    return name if _SAFE.fullmatch(name) else content_id(name)
