"""What a check says: one line of what there is, and what to do where something is not."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

log = logging.getLogger(__name__)

State: TypeAlias = Literal["ok", "missing", "problem"]
GIB = 2.0**30


@dataclass(frozen=True, kw_only=True)
class Finding:
    """One thing that was looked at. `required` says whether the work that is planned cannot do without it."""

    name: str
    state: State
    detail: str
    remedy: str | None = None
    required: bool = False

    def __post_init__(self) -> None:
        if (self.state == "ok") == (self.remedy is not None):
            raise ValueError(f"a remedy goes with what is not ok, got {self.state} and {self.remedy!r}")

    @property
    def breaks(self) -> bool:
        """Whether the planned work cannot go on like this."""
        return self.required and self.state != "ok"

    def as_dict(self) -> dict[str, Any]:
        """The finding as plain values."""
        return dict(vars(self))


@dataclass(frozen=True, kw_only=True)
class Needs:
    """What the planned work uses. `gpus` is the number of GPUs, or a share of one, of all its workers."""

    models: tuple[str, ...] = ()
    geometries: tuple[tuple[str, str | None], ...] = ()
    perceptuals: tuple[str, ...] = ()
    rasterisers: tuple[str, ...] = ()
    packages: tuple[str, ...] = ()
    gpus: float = 0
    ray: bool = True


Check: TypeAlias = Callable[[], Iterable[Finding]]


def guarded(name: str, check: Check, *, required: bool) -> Iterator[Finding]:
    """The findings of a check; what it raises is a finding too, so that one broken library hides no other."""
    try:
        yield from check()
    except Exception as error:
        log.debug("%s", name, exc_info=True)
        why = " ".join(f"{type(error).__name__}: {error}".split())
        yield Finding(
            name=name,
            state="problem",
            detail=f"cannot be checked ({why})",
            remedy="mend what it says, or install the package anew",
            required=required,
        )
