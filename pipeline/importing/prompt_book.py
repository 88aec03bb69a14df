"""The prompts of imported videos: one row for equal text and first frame, kept consistent with the run."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from pipeline.importing.manifest import Entry
from pipeline.sampling.prompts import HeldTexts, PromptItem
from pipeline.sampling.splits import SceneSplits, SplitBy
from storage.errors import UserError
from storage.media.clip import Target
from storage.media.external_files import Refused, show
from storage.media.foreign_video import VideoLimits
from storage.media.pictures import read_image, write_image
from storage.run import Run
from storage.tables.records import Prompt
from storage.tables.shards import write_shard


@dataclass(kw_only=True)
class PromptBook:
    """Finds or makes the prompt of an entry. Scene, split and metadata of a prompt are those it has first.

    `split_by` places scenes whose split no entry says; `given` are the prompts of which one does. First
    frames are cut as the videos are, when these are cut for a model (`target`).
    """

    run: Run | None
    limits: VideoLimits
    target: Target | None = None
    split_by: SplitBy = "scene"
    rows: dict[str, Prompt] = field(default_factory=dict)
    given: set[str] = field(default_factory=set)

    def __post_init__(self) -> None:
        held = [] if self.run is None else self.run.rows("prompts").to_pylist()
        self.rows |= {row["prompt_id"]: Prompt(**row) for row in held}
        self._held = set(self.rows)
        self._texts = HeldTexts((row.prompt_id, row.text) for row in self.rows.values())
        self._splits = SceneSplits(self.split_by, held)
        # Runs of before may call scene 1 of a CSV file "1.0": there it stays one scene.
        scenes = {row["scene_id"] for row in held}
        whole = {scene.removesuffix(".0"): scene for scene in scenes if scene.endswith(".0")}
        self._scenes: dict[str | None, str] = {now: then for now, then in whole.items() if now not in scenes}
        # By prompt the entry that it comes from.
        self._first: dict[str, str] = {}
        self._images: dict[str, Path] = {}
        self._ids: dict[tuple[str, Path | None], str] = {}

    def prompt(self, one: Entry) -> Prompt:
        """The row of an entry's prompt. Raises Refused for a first frame or a scene that cannot be."""
        one = replace(one, scene_id=self._scenes.get(one.scene_id, one.scene_id))
        key = (one.text, one.first_frame)
        if key not in self._ids:
            self._ids[key] = self._admit(one)
        row = self.rows[self._ids[key]]
        if one.split is not None:
            self.given.add(row.prompt_id)
        for name in ("split",) if self.split_by == "prompt" else ("scene_id", "split"):
            given = getattr(one, name)
            if given is not None and given != getattr(row, name):
                first = self._first.get(row.prompt_id, "the run")
                raise Refused(
                    "conflict",
                    f"says {name} {given!r}, its prompt has {getattr(row, name)!r} by {first}: make them "
                    "agree",
                )
        return row

    def write(self, wanted: Iterable[str]) -> None:
        """Write the rows and first frames of the wanted prompts that the run does not have yet."""
        assert self.run is not None
        new = [one for one in dict.fromkeys(wanted) if one not in self._held]
        for prompt_id in new:
            uri = self.rows[prompt_id].image_uri
            if uri is not None:
                self._write_image(self.rows[prompt_id], uri)
        if new:
            write_shard(self.run.shard_dir("prompts"), "prompts", [self.rows[one] for one in new])
            self._held.update(new)

    def _admit(self, one: Entry) -> str:
        item = PromptItem(
            text=one.text,
            image_HW3=None if one.first_frame is None else self._read(one.first_frame),
            scene_id=one.scene_id,
            split=one.split,
            metadata=one.metadata,
            where=show(one.where),
        )
        item = self._texts.as_held(item)
        if item.prompt_id in self.rows:
            if item.prompt_id in self._held:
                # What the run has stays as it is: another split is refused.
                self._splits.place(replace(item, split=None))
            return item.prompt_id
        row = self._splits.place(item).record(f"media/images/{item.prompt_id}.png")
        self._first[row.prompt_id] = item.where
        self.rows[row.prompt_id] = row
        if one.first_frame is not None:
            self._images[row.prompt_id] = one.first_frame
        return row.prompt_id

    def _write_image(self, row: Prompt, uri: str) -> None:
        assert self.run is not None
        path = self._images[row.prompt_id]
        image_HW3 = self._read(path)
        if PromptItem(text=row.text, image_HW3=image_HW3).prompt_id != row.prompt_id:
            raise UserError(f"{path} was changed while it was imported: run the same command again")
        write_image(self.run.resolve(uri), image_HW3)

    def _read(self, path: Path) -> NDArray[np.uint8]:
        if not path.is_file():
            raise Refused("first-frame", f"first frame {path} is missing or no regular file: correct it")
        try:
            image_HW3 = read_image(path, self.limits.max_pixels)
        except UserError as error:
            raise Refused("first-frame", f"first frame {error}") from error
        return image_HW3 if self.target is None else self.target.picture(image_HW3)
