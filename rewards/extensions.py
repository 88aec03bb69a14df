"""Tables that installed packages add lines to, by entry points.

A package declares a line as, for instance,

    [project.entry-points."gpa.rewards"]
    gloss = "gloss_reward:SPEC"

and the object of that name is what the table holds for what comes with gpa. Nothing of a package is imported
before its line is asked for. A line that does not load is an error for who names it, and a warning for
others.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from functools import cache
from importlib.metadata import EntryPoint, entry_points
from typing import Any, TypeVar

from rewards.errors import RewardError

SpecT = TypeVar("SpecT")
_logger = logging.getLogger(__name__)

# The groups of entry points, and what a line of each is called.
GROUPS = {
    "gpa.rewards": "reward",
    "gpa.geometry": "geometry backend",
    "gpa.judges": "judge",
    "gpa.samplers": "sampler",
    "gpa.families": "model family",
    "gpa.presets": "preset",
}


class Table(Mapping[str, SpecT]):
    """Specs by name: those of gpa first, then those of installed packages in the order of their names."""

    def __init__(self, group: str, kind: Any, own: Mapping[str, SpecT]) -> None:
        """`group` is one of `GROUPS`, `kind` what a spec of a package is an instance of."""
        self._group, self._what, self._kind, self._own = group, GROUPS[group], kind, own
        self._loaded: dict[str, SpecT] = {}

    def __iter__(self) -> Iterator[str]:
        yield from self._own
        yield from sorted({entry.name for entry in declared(self._group)} - set(self._own))

    def __len__(self) -> int:
        return sum(1 for _ in self)

    def __contains__(self, name: object) -> bool:
        return name in tuple(self)

    def __getitem__(self, name: str) -> SpecT:
        """The spec. Raises KeyError for no such name, RewardError for one that a package spoils."""
        entries = [entry for entry in declared(self._group) if entry.name == name]
        if name in self._own or len(entries) > 1:
            self._require_one(name, entries)
        if name in self._own:
            return self._own[name]
        if name not in self._loaded:
            if not entries:
                raise KeyError(name)
            self._loaded[name] = self._checked(entries[0], load(entries[0], self._what))
        return self._loaded[name]

    def loadable(self) -> Iterator[tuple[str, SpecT]]:
        """All that load; a warning for each that does not."""
        for name in self:
            try:
                yield name, self[name]
            except RewardError as error:
                _logger.warning("%s", error)

    def of_packages(self) -> list[str]:
        """The names that installed packages add."""
        return [name for name in self if name not in self._own]

    def _require_one(self, name: str, entries: list[EntryPoint]) -> None:
        claims = [*(["gpa"] if name in self._own else []), *map(package_of, entries)]
        if len(claims) > 1:
            raise RewardError(
                f"{self._what} {name!r} is declared by {' and by '.join(claims)}, and a name means one "
                "thing: uninstall one of them, or rename its entry point"
            )

    def _checked(self, entry: EntryPoint, spec: Any) -> SpecT:
        if not isinstance(spec, self._kind):
            raise RewardError(
                f"{self._what} {entry.name!r} of {package_of(entry)} must be a {self._kind.__name__}, "
                f"{entry.value} is a {type(spec).__name__}: correct its entry point of group {self._group}"
            )
        found: SpecT = spec
        return found


@cache
def declared(group: str) -> tuple[EntryPoint, ...]:
    """The entry points of a group."""
    return tuple(entry_points(group=group))


def load(entry: EntryPoint, what: str) -> Any:
    """What an entry point names. Raises RewardError whatever its package raises."""
    try:
        return entry.load()
    except Exception as error:  # the package's code may raise anything
        raise RewardError(
            f"{what} {entry.name!r} of {package_of(entry)} cannot be loaded from {entry.value} "
            f"({type(error).__name__}: {error}): mend or uninstall that package"
        ) from error


def package_of(entry: EntryPoint) -> str:
    """The package that declares an entry point, with its version."""
    if entry.dist is None:
        return "an unnamed package"
    return f"{entry.dist.name} {entry.dist.version}"
