"""Depth and poses of the world's geometry networks against the truth: the reward's, and the judge's."""

from __future__ import annotations

from itertools import product
from typing import Final

from jobs.bench.world.held_out import HeldOut
from jobs.figure_tables import Cell, FigureTable
from pipeline.world.training.bank import render_bank
from pipeline.world.training.figures import geometry_figures
from rewards.geometry.world.network import WorldGeometry

MODELS: Final = ("geometry",)
_JUDGE: Final = "geometry-judge"  # measured where it is there
_TITLES: Final = {"geometry": "Geometry", _JUDGE: "Geometry of the judge"}
_KINDS: Final = (("rendered", False), ("moved by coarse flow", True))
_COLUMNS: Final = {
    "abs_rel": "abs-rel",
    "rotation_degrees": "rotation deg",
    "translation_scaled": "translation",
    "repeat_rotation_degrees": "no motion: deg",
    "repeat_translation": "no motion: translation",
}


def measure(held_out: HeldOut) -> list[FigureTable]:
    """abs-rel after one median scale a clip, and pose errors of the later frames."""
    bank = render_bank(held_out.split, held_out.clips)
    models = [name for name in (*MODELS, _JUDGE) if (held_out.checkpoints / name).is_dir()]
    rows: dict[str, list[tuple[Cell, ...]]] = {model: [] for model in models}
    for model, (kind, rewarped) in held_out.each("geometry", list(product(models, _KINDS))):
        network = WorldGeometry.from_pretrained(held_out.folder(model))
        figures = geometry_figures(network, bank, rewarped=rewarped)
        rows[model].append((kind, *(figures[key] for key in _COLUMNS)))
    return [
        FigureTable(
            subject="geometry",
            title=f"{_TITLES[model]}: errors on true clips, translation in mean depths of frame 1",
            counts={"clips": held_out.clips},
            columns=("clips", *_COLUMNS.values()),
            rows=tuple(rows[model]),
        )
        for model in models
    ]
