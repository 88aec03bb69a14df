"""The importing stage: one task is a few videos of one prompt, made elsewhere.

Legend: T frames, H W pixels.

Legend: T frames, H W pixels, X the axes of a latent video in the pipeline's own order.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, get_args

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from pipeline.engine.stage import Failure, Resources, TaskOutcome, heartbeat
from pipeline.importing.manifest import STAGE
from pipeline.importing.settings import Fit
from pipeline.models import ModelRef, pick_device
from pipeline.sampling.sampler import Sampler, nonfinite_reason
from pipeline.sampling.samplers import make_sampler
from pipeline.sampling.settings import Execution, SamplerSettings
from pipeline.sampling.stage import PromptEncoder
from storage.errors import FieldError
from storage.media.external_video import (
    Refused,
    VideoFacts,
    VideoLimits,
    copy_file,
    decode_video,
    file_sha256,
    link_file,
    show,
)
from storage.media.tensors import write_tensors
from storage.media.video import write_video
from storage.run import Run
from storage.tables.ids import canonical_json
from storage.tables.records import Candidate, Prompt, utc_now
from storage.tables.shards import write_shard


@dataclass(frozen=True, kw_only=True)
class Target:
    """The size that latents are of, and what is done with a video of another one. Raises UserError.

    "exact" refuses it; "crop" fills the frame and cuts the rest off, evenly on both sides; "resize" changes
    the aspect. Of more frames the first are taken; fewer are refused in any case.
    """

    frames: int
    height: int
    width: int
    fit: Fit

    def __post_init__(self) -> None:
        if self.fit not in get_args(Fit):
            raise FieldError("fit", f"one of {', '.join(get_args(Fit))}", self.fit, "choose one")

    @property
    def shape(self) -> tuple[int, int, int]:
        """Frames, height, width."""
        return self.frames, self.height, self.width

    def require(self, facts: VideoFacts) -> None:
        """Raise Refused for a video that does not fit."""
        has = f"has {facts.frames} frames of {facts.width}x{facts.height}"
        wants = f"the model is asked for {self.frames} of {self.width}x{self.height}"
        if facts.frames < self.frames:
            raise Refused("too-short", f"{has}, {wants}: give a lower num_frames, or a longer video")
        if self.fit == "exact" and facts.shape != self.shape:
            raise Refused(
                "size", f"{has}, {wants}: use `fit` crop or resize, or change `height`, `width` or num_frames"
            )

    def apply(self, frames_THW3: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """The frames at the target's size."""
        kept = frames_THW3[: self.frames]
        if kept.shape[1:3] == (self.height, self.width):
            return kept
        return np.stack([self._frame(frame_HW3) for frame_HW3 in kept])

    def _frame(self, frame_HW3: NDArray[np.uint8]) -> NDArray[np.uint8]:
        height, width = frame_HW3.shape[:2]
        box = (0.0, 0.0, float(width), float(height))
        if self.fit == "crop":
            scale = min(height / self.height, width / self.width)
            cut_x, cut_y = (width - scale * self.width) / 2, (height - scale * self.height) / 2
            box = (cut_x, cut_y, width - cut_x, height - cut_y)
        picture = Image.fromarray(frame_HW3)
        return np.asarray(picture.resize((self.width, self.height), Image.Resampling.LANCZOS, box=box))


# What the rows of videos without latents name as their model.
NO_MODEL, NO_REVISION = "imported", "none"


@dataclass(frozen=True, kw_only=True)
class ImportItem:
    """A video to take in: `sha256` is of the file that was looked at, `fitted` whether its size changes."""

    id: str
    where: str
    path: Path
    sha256: str
    seed: int
    facts: VideoFacts
    fitted: bool
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


@dataclass(kw_only=True)
class ImportStage:
    """Takes videos into a run, decodes them to the end, encodes them for training when there is a model."""

    run_path: Path
    limits: VideoLimits
    link: bool = False
    encoding: Encoding | None = None
    resources: Resources = field(default_factory=Resources)
    name: str = STAGE

    def setup(self) -> None:
        """Load the model, if any. Raises UserError when it does not load or the settings do not fit it."""
        self._run = Run.open(self.run_path)
        self._sampler: Sampler | None = None
        self._conditions: PromptEncoder | None = None
        if self.encoding is not None:
            device = pick_device(self.resources.gpus)
            one = self.encoding
            self._sampler = make_sampler(one.model, one.settings, None, device, one.execution)
            self._sampler.setup()
            self._conditions = PromptEncoder(self._run, self._sampler)

    def process(self, task: ImportTask) -> TaskOutcome:
        """Take in the videos of a task. One that is refused costs the others nothing."""
        started = time.perf_counter()
        rows: list[Candidate] = []
        failed: list[Failure] = []
        for item in task.items:
            heartbeat()
            try:
                rows.append(self._take_in(task.prompt, item))
            except Refused as error:
                failed.append(Failure(id=item.id, rule=error.rule, reason=show(f"{item.where}: {error}")))
        if rows:
            write_shard(self._run.shard_dir("candidates"), "candidates", rows)
        return TaskOutcome(
            key=task.key,
            done=tuple(row.candidate_id for row in rows),
            failed=tuple(failed),
            seconds=time.perf_counter() - started,
        )

    def _take_in(self, prompt: Prompt, item: ImportItem) -> Candidate:
        started = time.perf_counter()
        video_path = self._run.resolve(self._run.video_uri(item.id))
        frames_THW3 = self._fitted(item, video_path) if item.fitted else self._as_it_is(item, video_path)
        if frames_THW3 is not None:
            self._encode(prompt, item.id, frames_THW3)
        return self._row(prompt, item, time.perf_counter() - started)

    def _as_it_is(self, item: ImportItem, video_path: Path) -> Tensor | None:
        """Bring the file into the run and decode it there, so that what is kept is what was looked at."""
        there = video_path.exists() and file_sha256(video_path) == item.sha256
        if not there:
            (link_file if self.link else copy_file)(item.path, video_path, item.sha256)
        try:
            return self._decoded(item, video_path)
        except Refused:
            if not there:
                video_path.unlink(missing_ok=True)
            raise

    def _fitted(self, item: ImportItem, video_path: Path) -> Tensor:
        """The video at the model's size, which is then the candidate: it is what the latents stand for."""
        assert self.encoding is not None
        frames_THW3 = self._decoded(item, item.path)
        if frames_THW3 is None or file_sha256(item.path) != item.sha256:
            raise Refused("changed", "was changed while it was imported: run the same command again")
        fitted_THW3 = self.encoding.target.apply(frames_THW3.numpy())
        write_video(video_path, fitted_THW3, item.facts.fps)
        return torch.from_numpy(fitted_THW3)

    def _decoded(self, item: ImportItem, path: Path) -> Tensor | None:
        keep = 0 if self.encoding is None else self.encoding.target.frames
        frames_THW3 = decode_video(path, item.facts, self.limits, keep)
        return None if frames_THW3 is None else torch.from_numpy(frames_THW3)

    def _encode(self, prompt: Prompt, candidate_id: str, frames_THW3: Tensor) -> None:
        assert self._sampler is not None
        assert self._conditions is not None
        latents_X = self._sampler.encode_video(frames_THW3, self._conditions.ensure_condition(prompt))
        reason = nonfinite_reason(latents_X)
        if reason is not None:
            raise Refused("not-finite", f"{reason}: encode it with `precision` fp32")
        path = self._run.resolve(self._run.latent_uri(candidate_id))
        write_tensors(path, {"latents": latents_X}, {"candidate_id": candidate_id})

    def _row(self, prompt: Prompt, item: ImportItem, seconds: float) -> Candidate:
        encoding, facts = self.encoding, item.facts
        frames, height, width = encoding.target.shape if encoding is not None else facts.shape
        return Candidate(
            candidate_id=item.id,
            prompt_id=prompt.prompt_id,
            seed=item.seed,
            model=NO_MODEL if encoding is None else encoding.model.name,
            revision=NO_REVISION if encoding is None else encoding.model.revision,
            sampler=canonical_json(self._provenance(item)),
            num_frames=frames,
            height=height,
            width=width,
            fps=facts.fps,
            video_uri=self._run.video_uri(item.id),
            latent_uri=None if encoding is None else self._run.latent_uri(item.id),
            seconds=seconds,
            created_at=utc_now(),
        )

    def _provenance(self, item: ImportItem) -> dict[str, Any]:
        """Where a candidate comes from and what encoded its prompt, in the place of a sampler's settings."""
        origin = {"source": show(item.where), "sha256": item.sha256, "metadata": item.metadata}
        if self.encoding is None:
            return {"imported": origin}
        fit = self.encoding.target.fit if item.fitted else "exact"
        of_condition = SamplerSettings.of_condition(self.encoding.settings.as_dict())
        return of_condition | {"imported": origin | {"fit": fit}}
