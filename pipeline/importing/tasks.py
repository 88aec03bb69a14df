"""What importing is asked for, task by task; planned without torch, which only encoding videos needs."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pipeline.models import ModelRef
from pipeline.sampling.settings import Execution, SamplerSettings
from storage.media.clip import Target
from storage.media.foreign_video import VideoFacts
from storage.tables.records import Prompt


@dataclass(frozen=True, kw_only=True)
class ImportItem:
    """A video to take in: `sha256` is of the file that was looked at, `file` its name in the source.

    `again` says whether it is written again: the run keeps it as it is shown, or as the model takes it.
    """

    id: str
    where: str
    file: str
    caption: str
    path: Path
    sha256: str
    seed: int
    facts: VideoFacts
    again: bool
    metadata: dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class ImportTask:
    """Videos of one prompt."""

    prompt: Prompt
    items: tuple[ImportItem, ...]

    @property
    def key(self) -> str:
        """The first candidate's id."""
        return self.items[0].id

    @property
    def ids(self) -> tuple[str, ...]:
        """The ids of the candidates."""
        return tuple(item.id for item in self.items)

    def split(self) -> tuple[ImportTask, ...]:
        """A task for each video."""
        return tuple(ImportTask(prompt=self.prompt, items=(item,)) for item in self.items)


@dataclass(frozen=True, kw_only=True)
class Encoding:
    """What videos are encoded with: the model, the settings that its sampler would have, and the size."""

    model: ModelRef
    settings: SamplerSettings
    target: Target
    execution: Execution = field(default_factory=Execution)
