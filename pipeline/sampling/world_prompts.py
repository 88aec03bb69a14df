"""The prompts of the embedded world, those that a run holds as they lie there.

To draw a scene and to render its first frame takes torch, and a hundred times what the rest of a plan does.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from pipeline.sampling.prompts import PromptItem, world_items
from pipeline.sampling.settings import SampleSettings
from pipeline.telling import tell_import
from pipeline.world.clips import SPLITS, is_sentence, world_keys
from storage.errors import UserError
from storage.media.pictures import read_image
from storage.run import Run
from storage.tables.ids import canonical_json

# The world's own models draw 64x64 pixels.
_MOST_PIXELS = 128 * 128


def prompts_of_world(settings: SampleSettings, run: Run | None, count: int) -> Iterator[PromptItem]:
    """As `world_items`, but what the run holds whole is read.

    Raises UserError for a split the world does not have, and for videos of another size than small: the world
    is for its own models, and drawn rooms of 64 pixels are nothing to spend a large model's hours on.
    """
    sampler = settings.sampler
    if sampler.height * sampler.width > _MOST_PIXELS:
        raise UserError(
            f"without `prompts` they would be the embedded world's, drawn rooms of 64x64 pixels, and model "
            f"{settings.model!r} makes videos of {sampler.height}x{sampler.width}: give `prompts` FILE"
        )
    return _prompts(run, settings.split, count)


def _prompts(run: Run | None, split: str, count: int) -> Iterator[PromptItem]:
    rows = [] if run is None or split not in SPLITS else run.rows("prompts").to_pylist()
    held = {row["metadata"]: row for row in rows}
    for position, (scene_id, move, seed) in enumerate(world_keys(split, count) if held else ()):
        metadata = {"world": {"scene_id": scene_id, "move": move, "seed": seed}}
        row = held.get(canonical_json(metadata))
        item = None if run is None or row is None else _held(run, row, move, metadata)
        if item is None:
            tell_import("torch")
        yield item or next(world_items(split, 1, position))
    if not held:
        tell_import("torch")
        yield from world_items(split, count)


def _held(run: Run, row: dict[str, Any], move: str, metadata: dict[str, Any]) -> PromptItem | None:
    """The prompt of a row; None when it is of other words or its first frame is not what was written."""
    if row["image_uri"] is None or not is_sentence(row["text"], move):
        return None
    try:
        image_HW3 = read_image(run.resolve(row["image_uri"]))
    except UserError:
        return None
    item = PromptItem(
        text=row["text"],
        image_HW3=image_HW3,
        scene_id=row["scene_id"],
        camera_motion=row["camera_motion"],
        metadata=metadata,
    )
    return item if item.prompt_id == row["prompt_id"] else None
