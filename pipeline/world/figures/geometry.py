"""Depth and poses of the world's geometry network against the truth."""

from __future__ import annotations

from typing import Final

from pipeline.world.figures.held_out import HeldOut
from pipeline.world.figures.table import Cell, FigureTable
from pipeline.world.training.bank import render_bank
from pipeline.world.training.figures import geometry_figures

MODELS: Final = ("geometry",)
_COLUMNS: Final = {
    "abs_rel": "abs-rel",
    "rotation_degrees": "rotation deg",
    "translation_scaled": "translation",
    "repeat_rotation_degrees": "no motion: deg",
    "repeat_translation": "no motion: translation",
}


def measure(held_out: HeldOut) -> list[FigureTable]:
    """abs-rel after one median scale a clip, and pose errors of the later frames."""
    network, rows = held_out.geometry.network, list[tuple[Cell, ...]]()
    bank = render_bank(held_out.split, held_out.clips)
    for name, rewarped in held_out.each("geometry", (("rendered", False), ("moved by coarse flow", True))):
        figures = geometry_figures(network, bank, rewarped=rewarped)
        rows.append((name, *(figures[key] for key in _COLUMNS)))
    return [
        FigureTable(
            subject="geometry",
            title="Geometry: errors on true clips, translation in mean depths of frame 1",
            counts={"clips": held_out.clips},
            columns=("clips", *_COLUMNS.values()),
            rows=tuple(rows),
        )
    ]
