"""Held-out figures of the embedded world by subject, and the material that several subjects share.

Legend: P prompts, S seeds, T frames, H W pixels.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from importlib import import_module
from pathlib import Path
from typing import Final, NamedTuple, TypeVar

import torch
from torch import Tensor

from jobs.figure_tables import FigureTable
from pipeline.engine.stage import Progress, Silent
from pipeline.models import resolve_model
from pipeline.sampling.samplers import make_sampler
from pipeline.sampling.settings import SamplerSettings
from pipeline.world.cameras import FRAMES
from pipeline.world.clips import SPLITS, WorldPrompt, first_frame, world_prompts
from pipeline.world.codec import MotionCodec
from pipeline.world.generator import SIZE, TEXT_LENGTH
from pipeline.world.referee import Referee
from rewards.geometry.world.backend import WorldGeometryBackend, load_backend
from storage.errors import UserError
from storage.tables.ids import candidate_seed

CHECKPOINTS: Final = Path(__file__).resolve().parents[3] / "pipeline" / "world" / "checkpoints"
# What the fault of a base model is, and the ending of its checkpoint and its referee's.
FAMILIES: Final = {"warp": "", "boxes": "-boxes"}
_RUN_SEED: Final = 0
ItemT = TypeVar("ItemT")


@dataclass(kw_only=True)
class HeldOut:
    """Clips and samples of a split that no model was trained on, made when first asked for.

    `clips` true clips and `prompts` x `seeds` samples of `steps` denoising steps without guidance; both take
    the first prompts of the split, a scene each. `guards` are the least measures that pairing asks for, such
    as min_sharpness. Raises ValueError for counts below one and unknown splits.
    """

    checkpoints: Path = CHECKPOINTS
    split: str = "test"
    clips: int = 50
    prompts: int = 40
    seeds: int = 8
    steps: int = 20
    guards: Mapping[str, float] = field(default_factory=dict)
    progress: Progress = field(default_factory=Silent)
    _samples: dict[str, Tensor] = field(default_factory=dict, init=False)

    def __post_init__(self) -> None:
        if self.split not in SPLITS:
            raise ValueError(f"split must be one of {', '.join(SPLITS)}, got {self.split!r}")
        for name in ("clips", "prompts", "seeds", "steps"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")

    def folder(self, model: str) -> Path:
        """The checkpoint of a model. Raises UserError when it is not there."""
        folder = self.checkpoints / model
        marker = "model_index.json" if model.startswith("generator") else "config.json"
        if not (folder / marker).is_file():
            raise UserError(
                f"{folder} holds no {model} checkpoint ({marker} is missing): run "
                "`gpa pretrain-world` and give its folder with --checkpoints"
            )
        return folder

    def each(self, what: str, items: Iterable[ItemT]) -> Iterator[ItemT]:
        """The items, with progress."""
        listed = list(items)
        self.progress.start(what, len(listed), 0)
        try:
            for item in listed:
                yield item
                self.progress.advance(1, 0)
        finally:
            self.progress.stop()

    @cached_property
    def clip_prompts(self) -> list[WorldPrompt]:
        """The prompts of the true clips."""
        return world_prompts(self.split, self.clips)

    @cached_property
    def sample_prompts(self) -> list[WorldPrompt]:
        """The prompts that the generator answers."""
        return world_prompts(self.split, self.prompts)

    @cached_property
    def codec(self) -> MotionCodec:
        """The codec of the generator."""
        codec: MotionCodec = MotionCodec.from_pretrained(self.folder("generator") / "vae")
        return codec

    @cached_property
    def geometry(self) -> WorldGeometryBackend:
        """The geometry backend."""
        return load_backend(model=str(self.folder("geometry")), revision=None, device="cpu")

    def referee_of(self, family: str = "warp") -> Referee:
        """The referee of a base model's faults, which no reward sees."""
        return Referee.from_pretrained(self.folder(f"referee{FAMILIES[family]}"))

    def samples(self, family: str = "warp") -> Tensor:
        """Clips of that base model as a run would hold them, uint8 [P, S, T, H, W, 3]."""
        if family not in self._samples:
            self._samples[family] = self._sampled(f"generator{FAMILIES[family]}")
        return self._samples[family]

    def _sampled(self, generator: str) -> Tensor:
        settings = SamplerSettings(
            steps=self.steps,
            guidance=1.0,
            height=SIZE,
            width=SIZE,
            num_frames=FRAMES,
            fps=8,
            max_sequence_length=TEXT_LENGTH,
        )
        sampler = make_sampler(resolve_model(str(self.folder(generator))), settings)
        sampler.setup()
        rows = []
        for prompt in self.each(f"samples of {generator}", self.sample_prompts):
            condition = sampler.encode(prompt.text, first_frame(prompt))
            seeds = [candidate_seed(_RUN_SEED, prompt.scene_id, index) for index in range(self.seeds)]
            samples = sampler.sample(condition, seeds)
            rows.append(torch.stack([_frames(sample.frames_THW3, sample.reason) for sample in samples]))
        return torch.stack(rows)


def _frames(frames_THW3: Tensor | None, reason: str | None) -> Tensor:
    if frames_THW3 is None:
        raise UserError(f"the generator does not work: {reason}; train it again with `gpa pretrain-world`")
    return frames_THW3


class _Subject(NamedTuple):
    """A function of a HeldOut that returns tables, where it stands, and the checkpoints that it needs."""

    module: str
    function: str
    models: tuple[str, ...]


_HERE: Final = "jobs.bench.world"
# A new subject is a function and a line here.
SUBJECTS: Final[dict[str, _Subject]] = {
    "codec": _Subject(f"{_HERE}.networks", "measure_codec", ("generator",)),
    "generator": _Subject(f"{_HERE}.generator", "measure", ("generator", "referee")),
    "geometry": _Subject(f"{_HERE}.networks", "measure_geometry", ("geometry",)),
    "referee": _Subject(f"{_HERE}.networks", "measure_referee", ("referee",)),
    "faults": _Subject(f"{_HERE}.faults", "measure", ("geometry",)),
    "ranking": _Subject(
        f"{_HERE}.ranking",
        "measure",
        ("generator", "geometry", "referee", "generator-boxes", "referee-boxes"),
    ),
}


def measure(held_out: HeldOut, subjects: Sequence[str]) -> list[FigureTable]:
    """The tables of those subjects, in the order of `SUBJECTS`. Raises UserError for a missing checkpoint."""
    unknown = sorted(set(subjects) - set(SUBJECTS))
    if unknown:
        raise ValueError(f"subjects: {unknown[0]!r} is none of {', '.join(SUBJECTS)}; leave it out")
    wanted = [subject for name, subject in SUBJECTS.items() if name in subjects]
    for model in (model for subject in wanted for model in subject.models):
        held_out.folder(model)
    return [
        table
        for subject in wanted
        for table in getattr(import_module(subject.module), subject.function)(held_out)
    ]
