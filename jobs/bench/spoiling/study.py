"""How well the measures of footage find what is put into clips, and what they say of clips as they are."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from typing import Final

import cv2
import numpy as np
import torch

from jobs.bench.spoiling.faults import COPIES, FAULTS, Clip
from jobs.bench.spoiling.sources import WORLD, encoded
from jobs.bench.world.networks import area_under_curve
from jobs.figure_tables import Cell, FigureTable
from pipeline.engine.stage import Progress
from rewards.footage.footage import Footage, measure_footage

MEASURES: Final = ("cut", "fade", "bars", "overlay", "split_screen")
_OWN = "as it is"
# The measure of every clip, by source and by what was done to it.
Found = Mapping[str, Mapping[str, list[Footage]]]


def measure(
    sources: Mapping[str, Sequence[Clip]], bounds: Mapping[str, float], progress: Progress
) -> list[FigureTable]:
    """By source: clips over the bounds of their measures with and without faults, and how far copies are."""
    found: dict[str, dict[str, list[Footage]]] = {}
    progress.start("footage", sum(map(len, sources.values())), 0)
    try:
        for name, clips in sources.items():
            found[name] = defaultdict(list)
            for clip, other in zip(clips, _others(name, clips, sources), strict=True):
                _measure_into(found[name], clip, other, plain=name.startswith(WORLD))
                progress.advance(1, 0)
    finally:
        progress.stop()
    return [
        _false_alarms(found, bounds),
        _largest(found),
        _hits(found, bounds),
        _curves(found),
        _copies(found),
    ]


def _measure_into(found: dict[str, list[Footage]], clip: Clip, other: Clip, *, plain: bool) -> None:
    """Measure a clip as it is, with every fault and as a copy; `plain` ones are not encoded.

    Tiny clips a run keeps at a much better quality.
    """
    found[_OWN].append(measure_footage(clip))
    made = {name: fault.make(clip, other) for name, fault in FAULTS.items()}
    made |= {name: copy(clip) for name, copy in COPIES.items()}
    for name, frames in made.items():
        found[name].append(measure_footage(frames if plain and name in FAULTS else encoded(frames)))


def _others(name: str, clips: Sequence[Clip], sources: Mapping[str, Sequence[Clip]]) -> Iterator[Clip]:
    """For each clip one of another scene, in its size and length."""
    world = name.startswith(WORLD)
    pool = [
        one
        for source, several in sources.items()
        if source.startswith(WORLD) == world and (world or source != name or name == "pictures")
        for one in several
    ] or list(clips)
    for number, clip in enumerate(clips):
        # Neighbours of the world are other scenes, those of pictures other moves over the same one.
        other = pool[(number * 7 + len(pool) // 2 + 1) % len(pool)]
        back_and_forth = np.concatenate([other, other[::-1]])
        repeats = -(-len(clip) // len(back_and_forth))
        frames = np.concatenate([back_and_forth] * repeats)[: len(clip)]
        size = (clip.shape[2], clip.shape[1])
        yield np.stack([cv2.resize(frame, size, interpolation=cv2.INTER_AREA) for frame in frames])


def _values(clips: Sequence[Footage], name: str) -> torch.Tensor:
    return torch.tensor([getattr(one, name) or 0.0 for one in clips], dtype=torch.float64)


def _table(title: str, found: Found, columns: Sequence[str], rows: dict[str, list[Cell]]) -> FigureTable:
    return FigureTable(
        subject="footage",
        title=title,
        counts={"clips": sum(len(kinds[_OWN]) for kinds in found.values())},
        columns=("source", "clips", *columns),
        rows=tuple((name, len(found[name][_OWN]), *cells) for name, cells in rows.items()),
    )


def _false_alarms(found: Found, bounds: Mapping[str, float]) -> FigureTable:
    rows: dict[str, list[Cell]] = {
        source: [_share(kinds[_OWN], name, bound) for name, bound in bounds.items()]
        for source, kinds in found.items()
    }
    columns = [f"{name} > {bound:g}" for name, bound in bounds.items()]
    return _table("Share of clips as they are over a bound (false alarms)", found, columns, rows)


def _largest(found: Found) -> FigureTable:
    rows: dict[str, list[Cell]] = {
        source: [float(_values(kinds[_OWN], name).max()) for name in MEASURES]
        for source, kinds in found.items()
    }
    return _table("Largest value of a clip as it is", found, MEASURES, rows)


def _hits(found: Found, bounds: Mapping[str, float]) -> FigureTable:
    rows: dict[str, list[Cell]] = {
        source: [_share(kinds[fault], name, bounds[name]) for fault, (name, _) in FAULTS.items()]
        for source, kinds in found.items()
    }
    return _table("Share of clips with a fault over the bound of its measure", found, list(FAULTS), rows)


def _share(clips: Sequence[Footage], name: str, bound: float) -> float:
    return float((_values(clips, name) > bound).double().mean())


def _curves(found: Found) -> FigureTable:
    rows: dict[str, list[Cell]] = {
        source: [
            area_under_curve(_values(kinds[fault], name), _values(kinds[_OWN], name))
            for fault, (name, _) in FAULTS.items()
        ]
        for source, kinds in found.items()
    }
    return _table("Area under the curve, fault against as it is", found, list(FAULTS), rows)


def _copies(found: Found) -> FigureTable:
    """How far the thumbnails of copies are from those of their clips, at most."""
    rows: dict[str, list[Cell]] = {
        source: [
            max(
                _difference(one.thumbnail, other.thumbnail)
                for one, other in zip(kinds[_OWN], kinds[copy], strict=True)
            )
            for copy in COPIES
        ]
        for source, kinds in found.items()
    }
    return _table("Largest difference of a copy, as a share of the contrast", found, list(COPIES), rows)


def _difference(one: Sequence[int], other: Sequence[int]) -> float:
    """As `gpa pair` takes it."""
    return float(np.sqrt(np.mean(np.subtract(one, other) ** 2)) / np.std(one))
