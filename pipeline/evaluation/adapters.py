"""The models of an evaluation: the base, and adapters at weights, some of them trainings of one group."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from storage.errors import UserError

BASE = "base"
TRUTH = "truth"
_UNNAMED = "aligned"
_WORD = r"[A-Za-z_][\w.-]*"
_NAME = re.compile(rf"{_WORD}(/[\w.-]+)?")
_WEIGHTED = re.compile(r"(?P<path>.+)@(?P<weight>[+-]?(\d+\.?\d*|\.\d+)(e[+-]?\d+)?)", re.IGNORECASE)


@dataclass(frozen=True, kw_only=True)
class NamedAdapter:
    """An adapter folder at a weight, under the name that the table shows: a word, or group/training."""

    name: str
    path: Path
    weight: float = 1.0

    def __post_init__(self) -> None:
        if not _NAME.fullmatch(self.name) or self.name in (BASE, TRUTH):
            raise UserError(
                f"adapter name {self.name!r} must be a word other than {BASE!r} and {TRUTH!r}, or "
                "GROUP/TRAINING: give NAME=DIR"
            )

    @classmethod
    def parse(cls, text: str) -> NamedAdapter:
        """[NAME=]DIR[@WEIGHT] as the command line gives it.

        The name ends at the first '=', if it is a name; the weight begins at the last '@', if it is a number.
        A folder that exists under the whole text, or under all behind the name, is taken as it is.
        """
        name, equals, rest = text.partition("=")
        if not equals or not _NAME.fullmatch(name) or Path(text).is_dir():
            name, rest = _UNNAMED, text
        weighted = None if Path(rest).is_dir() else _WEIGHTED.fullmatch(rest)
        if weighted is None:
            return cls(name=name, path=Path(rest))
        return cls(name=name, path=Path(weighted["path"]), weight=float(weighted["weight"]))

    @property
    def label(self) -> str:
        """The name in the table, with the weight unless it is one."""
        return f"{self.name}{self._at}"

    @property
    def group(self) -> str | None:
        """The label of the group that this is a training of, with the weight; None without one."""
        group, slash, _ = self.name.partition("/")
        return f"{group}{self._at}" if slash else None

    @property
    def _at(self) -> str:
        return "" if self.weight == 1 else f"@{self.weight:g}"


def require_different(adapters: Sequence[NamedAdapter]) -> None:
    """Raise UserError when there are no adapters, or when two rows of the table would have one name."""
    if not adapters:
        raise UserError("nothing to compare with the base model: give an adapter (--adapter DIR)")
    labels = [adapter.label for adapter in adapters] + list(groups(adapters))
    if len(set(labels)) != len(labels):
        raise UserError(f"two adapters have the same name in {', '.join(labels)}: give NAME=DIR")


def groups(adapters: Sequence[NamedAdapter]) -> dict[str, list[str]]:
    """The labels of the trainings of every group, in order."""
    found: dict[str, list[str]] = {}
    for adapter in adapters:
        if adapter.group is not None:
            found.setdefault(adapter.group, []).append(adapter.label)
    return found
