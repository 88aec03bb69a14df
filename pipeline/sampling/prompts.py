"""Prompts: from a JSONL file or from the embedded world, each with its first frame.

A line of the file is one JSON object:

    {"text": "A quiet hall. Camera motion: pan across the room.", "image": "frames/hall.png",
     "scene_id": "hall", "split": "train", "camera_motion": ["pan across the room"],
     "metadata": {"source": "mine"}}

`text` is required; `image` is relative to the file; the rest is optional. `split` is train, val or test, and
decides, as long as a scene has only one; splits.py says what happens without. Texts are kept in one writing
(storage/texts.py), so that a caption is the same prompt in whatever file it stands.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from storage.errors import UserError
from storage.media.external_files import Refused
from storage.media.pictures import read_image
from storage.tables.ids import (
    SPLITS,
    Split,
    canonical_json,
    content_id,
    content_scene,
    picture_parts,
    split_of,
)
from storage.tables.records import Prompt
from storage.texts import json_lines, metadata_of, one_writing, short, string_of, text_of

_FIELDS: dict[str, type] = {
    "text": str,
    "image": str,
    "scene_id": str,
    "split": str,
    "camera_motion": list,
    "metadata": dict,
}


@dataclass(frozen=True, kw_only=True)
class PromptItem:
    """A prompt that is not yet in a run. `image_HW3` is its first frame, uint8 at its own size, or None.

    `where` is the file and line that it stands in.
    """

    text: str
    image_HW3: NDArray[np.uint8] | None = None
    scene_id: str | None = None
    camera_motion: Sequence[str] = ()
    metadata: dict[str, Any] = field(default_factory=dict)
    split: Split | None = None
    where: str = ""

    @property
    def prompt_id(self) -> str:
        """A hash of the text and the pixels of the first frame."""
        pixels = () if self.image_HW3 is None else picture_parts(self.image_HW3)
        return content_id("prompt", self.text, *pixels)

    @property
    def content(self) -> str:
        """Its scene by content: prompts of one first frame are one scene."""
        return content_scene(self.text, self.image_HW3)

    def record(self, image_uri: str | None) -> Prompt:
        """The row of the prompts table: its scene is that of its content, its split by hash, unless given."""
        scene_id = self.scene_id or self.content
        return Prompt(
            prompt_id=self.prompt_id,
            scene_id=scene_id,
            split=self.split or split_of(scene_id),
            text=self.text,
            camera_motion=list(self.camera_motion),
            image_uri=image_uri if self.image_HW3 is not None else None,
            metadata=canonical_json(self.metadata),
        )


class HeldTexts:
    """The prompts of a run whose texts stand there in another writing than texts are kept in now.

    They were made before; their ids name candidates that are not to be made again.
    """

    def __init__(self, rows: Iterable[tuple[str, str]]) -> None:
        """`rows` are the id and the text of every prompt of the run."""
        self._ids: set[str] = set()
        self._writings: dict[str, list[str]] = defaultdict(list)
        for prompt_id, text in rows:
            self._ids.add(prompt_id)
            if one_writing(text) != text:
                self._writings[one_writing(text)].append(text)

    def as_held(self, item: PromptItem) -> PromptItem:
        """The prompt with its text as the run writes it, where it holds that one alone; else as it is."""
        if item.text not in self._writings or item.prompt_id in self._ids:
            return item
        others = (replace(item, text=text) for text in self._writings[item.text])
        return next((one for one in others if one.prompt_id in self._ids), item)


def read_prompts(path: Path, *, image_required: bool, limit: int | None = None) -> Iterator[PromptItem]:
    """The prompts of a JSONL file, in order, equal ones once; blank lines are skipped.

    Raises UserError naming file and line for malformed JSON, an unknown, missing or mistyped field, text
    that a table cannot hold, a file that is not an image, and a missing first frame when `image_required`;
    also for a missing or empty file.
    """
    seen: dict[str, PromptItem] = {}
    for where, value in _lines(path):
        if limit is not None and len(seen) >= limit:
            return
        item = _parse(value, where, path.parent, image_required)
        first = seen.setdefault(item.prompt_id, replace(item, image_HW3=None))
        if first.where == where:
            yield item
        elif item.split not in {None, first.split}:
            raise UserError(
                f"{where}: says split {item.split}, {first.where} is the same prompt and says "
                f"{first.split or 'none'}: make them agree"
            )
    if not seen:
        raise UserError(
            f"prompts file {path} holds no prompt: write one JSON object a line, at least a text each"
        )


def world_items(split: str, count: int, start: int = 0) -> Iterator[PromptItem]:
    """Prompts of the embedded world; the metadata says how to render the true clip of each.

    Raises UserError for a split the world does not have.
    """
    from pipeline.world.clips import first_frame, world_prompts

    if split not in SPLITS:
        raise UserError(f"split {split!r} does not exist in the world: choose one of {', '.join(SPLITS)}")
    for prompt in world_prompts(split, count, start):
        yield PromptItem(
            text=prompt.text,
            image_HW3=first_frame(prompt).numpy(),
            scene_id=prompt.scene_id,
            camera_motion=[prompt.move],
            metadata={"world": {"scene_id": prompt.scene_id, "move": prompt.move, "seed": prompt.seed}},
        )


def _lines(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    try:
        for number, value in json_lines(path):
            if isinstance(value, Refused):
                raise UserError(f"{path}:{number}: {value}")
            yield f"{path}:{number}", value
    except FileNotFoundError as error:
        raise UserError(f"prompts file {path} does not exist: check `prompts`") from error
    except OSError as error:
        raise UserError(
            f"prompts file {path} cannot be read ({error.strerror}): give a UTF-8 text file"
        ) from error


def _parse(value: dict[str, Any], where: str, folder: Path, image_required: bool) -> PromptItem:
    try:
        fields = _fields(value)
    except Refused as error:
        raise UserError(f"{where}: {error}") from error
    image = fields.pop("image", None)
    if image is None and image_required:
        raise UserError(
            f'{where}: no first frame, which an image-to-video model needs: add "image": "file.png"'
        )
    image_HW3 = None if image is None else _load_image(folder / image, where)
    return PromptItem(image_HW3=image_HW3, where=where, **fields)


def _fields(value: dict[str, Any]) -> dict[str, Any]:
    """The fields of a prompt as they are kept. Raises Refused naming a field that cannot be."""
    for name, given in value.items():
        kind = _FIELDS.get(name)
        if kind is None:
            raise Refused("unknown-field", f"unknown field {name!r}: the fields are {', '.join(_FIELDS)}")
        if not isinstance(given, kind):
            got = type(given).__name__
            raise Refused("bad-field", f"field {name!r} must be a {kind.__name__}, got {got}")
    if not value.get("text", "").strip():
        raise Refused("bad-text", "field 'text' is missing or empty: say what the video shows")
    if value.get("scene_id") == "":
        raise Refused("bad-field", "field 'scene_id' is empty: leave it out or name the scene")
    if not all(isinstance(move, str) for move in value.get("camera_motion", [])):
        raise Refused("bad-field", "field 'camera_motion' must be a list of strings")
    read = {
        "text": lambda text: text_of(text, "field 'text'"),
        "image": lambda name: string_of(name, "field 'image'"),
        "scene_id": lambda name: text_of(name, "field 'scene_id'"),
        "split": split_named,
        "camera_motion": lambda moves: [text_of(move, "field 'camera_motion'") for move in moves],
        "metadata": metadata_of,
    }
    return {name: read[name](given) for name, given in value.items()}


def split_named(value: Any) -> Split:
    """A split that a file names. Raises Refused for another value."""
    for split in SPLITS:
        if value == split:
            return split
    raise Refused("bad-field", f"split must be one of {', '.join(SPLITS)}, got {short(value)}: change it")


def _load_image(path: Path, where: str) -> NDArray[np.uint8]:
    if not path.is_file():
        raise UserError(f"{where}: image {path} does not exist: paths are relative to the prompts file")
    try:
        return read_image(path)
    except UserError as error:
        raise UserError(f"{where}: {error}") from error
