"""Held-out figures of the embedded world by subject: a new one is a file here and a line in the table."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from importlib import import_module
from typing import Final

from jobs.bench.world.held_out import HeldOut
from jobs.figure_tables import FigureTable

__all__ = ["SUBJECTS", "FigureTable", "HeldOut", "measure"]

# A module with a function `measure(held_out) -> list[FigureTable]`, and what it measures.
SUBJECTS: Final[dict[str, tuple[str, str]]] = {
    "codec": ("jobs.bench.world.codec", "what encoding and decoding costs"),
    "generator": ("jobs.bench.world.generator", "samples against true clips and the referee"),
    "geometry": ("jobs.bench.world.geometry", "depth and poses against the truth"),
    "referee": ("jobs.bench.world.referee", "faulty clips against clean ones"),
    "faults": ("jobs.bench.world.faults", "the rewards of faulty clips against clean ones"),
    "ranking": ("jobs.bench.world.ranking", "the rewards against a referee among seeds of a prompt"),
}


def measure(held_out: HeldOut, subjects: Sequence[str]) -> list[FigureTable]:
    """The tables of those subjects, in the order of `SUBJECTS`. Raises UserError for a missing checkpoint."""
    unknown = sorted(set(subjects) - set(SUBJECTS))
    if unknown:
        raise ValueError(f"subjects: {unknown[0]!r} is none of {', '.join(SUBJECTS)}; leave it out")
    tables: list[FigureTable] = []
    functions: list[Callable[[HeldOut], list[FigureTable]]] = []
    for name, (module_name, _) in SUBJECTS.items():
        if name in subjects:
            module = import_module(module_name)
            for model in module.MODELS:
                held_out.folder(model)
            functions.append(module.measure)
    for function in functions:
        tables += function(held_out)
    return tables
