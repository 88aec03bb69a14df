"""The importing stage: one task is a few videos of one prompt, made elsewhere.

Legend: T frames, H W pixels, X the axes of a latent video in the pipeline's own order.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from pipeline.engine.stage import Failure, Resources, TaskOutcome, heartbeat
from pipeline.importing.manifest import STAGE
from pipeline.importing.tasks import Encoding, ImportItem, ImportTask
from pipeline.models import pick_device
from pipeline.sampling.sampler import Sampler, nonfinite_reason
from pipeline.sampling.samplers import make_sampler
from pipeline.sampling.settings import SamplerSettings
from pipeline.sampling.stage import PromptEncoder
from rewards.footage.footage import measure_footage
from storage.media.clip import clip_of, likeness
from storage.media.external_files import Refused, copy_file, file_sha256, link_file, show
from storage.media.foreign_video import VideoFacts, VideoLimits
from storage.media.pictures import read_image
from storage.media.tensors import write_tensors
from storage.media.video import write_video
from storage.run import Run
from storage.tables.ids import canonical_json
from storage.tables.records import NO_MODEL, NO_REVISION, Candidate, Prompt, utc_now
from storage.tables.shards import write_shard


@dataclass(kw_only=True)
class ImportStage:
    """Takes videos into a run, decodes them to the end, encodes them for training when there is a model."""

    run_path: Path
    limits: VideoLimits
    link: bool = False
    min_first_frame_psnr: float = 0.0
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
        take = self._written_again if item.again else self._as_it_is
        frames_THW3, psnr = take(prompt, item, video_path)
        if self.encoding is not None:
            self._encode(prompt, item.id, frames_THW3)
        found = {"first_frame_psnr": psnr}
        if item.again or self.encoding is not None:
            # Of the others all pictures are made when they are scored, which measures it in any case.
            found |= measure_footage(frames_THW3).as_dict()
        return self._row(prompt, item, found, time.perf_counter() - started)

    def _as_it_is(
        self, prompt: Prompt, item: ImportItem, video_path: Path
    ) -> tuple[NDArray[np.uint8], float | None]:
        """Bring the file into the run and decode it there, so that what is kept is what was looked at."""
        there = video_path.exists() and file_sha256(video_path) == item.sha256
        if not there:
            (link_file if self.link else copy_file)(item.path, video_path, item.sha256)
        try:
            # Without a model it is decoded for what is wrong with it.
            keep = 1 if self.encoding is None else None
            frames_THW3 = clip_of(video_path, item.facts, self.limits, keep=keep)
            return frames_THW3, self._first_frame_psnr(prompt, frames_THW3)
        except Refused:
            if not there:
                video_path.unlink(missing_ok=True)
            raise

    def _written_again(
        self, prompt: Prompt, item: ImportItem, video_path: Path
    ) -> tuple[NDArray[np.uint8], float | None]:
        """The video as it is shown, or as the model takes it, which is then the candidate."""
        target = None if self.encoding is None else self.encoding.target
        frames_THW3 = clip_of(item.path, item.facts, self.limits, target)
        if file_sha256(item.path) != item.sha256:
            raise Refused("changed", "was changed while it was imported: run the same command again")
        psnr = self._first_frame_psnr(prompt, frames_THW3)
        write_video(video_path, frames_THW3, self._fps(item.facts))
        return frames_THW3, psnr

    def _first_frame_psnr(self, prompt: Prompt, frames_THW3: NDArray[np.uint8]) -> float | None:
        """How like the given first frame the video's own is, in dB. Raises Refused for too little."""
        if prompt.image_uri is None:
            return None
        psnr = likeness(read_image(self._run.resolve(prompt.image_uri)), frames_THW3[0])
        if psnr < self.min_first_frame_psnr:
            raise Refused(
                "first-frame-differs",
                f"begins with another picture than the first frame given for it ({psnr:.1f} dB, "
                f"`min_first_frame_psnr` is {self.min_first_frame_psnr:g}): give its own",
            )
        return psnr

    def _fps(self, facts: VideoFacts) -> float:
        """Frames a second of what is kept."""
        if self.encoding is None or self.encoding.target.has_its_rate(facts):
            return facts.fps
        return self.encoding.target.fps

    def _encode(self, prompt: Prompt, candidate_id: str, frames_THW3: NDArray[np.uint8]) -> None:
        assert self._sampler is not None
        assert self._conditions is not None
        condition = self._conditions.ensure_condition(prompt)
        latents_X = self._sampler.encode_video(torch.from_numpy(frames_THW3), condition)
        reason = nonfinite_reason(latents_X)
        if reason is not None:
            raise Refused("not-finite", f"{reason}: encode it with `precision` fp32")
        path = self._run.resolve(self._run.latent_uri(candidate_id))
        write_tensors(path, {"latents": latents_X}, {"candidate_id": candidate_id})

    def _row(
        self, prompt: Prompt, item: ImportItem, found: dict[str, float | None], seconds: float
    ) -> Candidate:
        encoding, facts = self.encoding, item.facts
        frames, height, width = encoding.target.shape if encoding is not None else facts.shape
        return Candidate(
            candidate_id=item.id,
            prompt_id=prompt.prompt_id,
            seed=item.seed,
            model=NO_MODEL if encoding is None else encoding.model.name,
            revision=NO_REVISION if encoding is None else encoding.model.revision,
            sampler=canonical_json(self._provenance(item, found)),
            num_frames=frames,
            height=height,
            width=width,
            fps=self._fps(facts),
            video_uri=self._run.video_uri(item.id),
            latent_uri=None if encoding is None else self._run.latent_uri(item.id),
            seconds=seconds,
            created_at=utc_now(),
        )

    def _provenance(self, item: ImportItem, found: dict[str, float | None]) -> dict[str, Any]:
        """Where a candidate comes from and what encoded its prompt, in the place of a sampler's settings."""
        origin: dict[str, Any] = {
            "source": show(item.where),
            "file": show(item.file),
            "caption": item.caption,
            "sha256": item.sha256,
            "metadata": item.metadata,
            "video": item.facts.as_dict(),
            "written_again": item.again,
        }
        origin |= {name: round(value, 4) for name, value in found.items() if value is not None}
        if self.encoding is None:
            return {"imported": origin}
        target = self.encoding.target
        origin["fit"] = target.fit if item.facts.shape != target.shape else "exact"
        if not target.has_its_rate(item.facts):
            numbers = target.moments(item.facts)
            origin["by_time"] = {"fps": target.fps, "repeated": len(numbers) - len(set(numbers))}
        of_condition = SamplerSettings.of_condition(self.encoding.settings.as_dict())
        return of_condition | {"imported": origin}
