"""The sampling stage: one task is a chunk of the candidates of one prompt.

Legend: T frames, H W pixels, F latent frames, C channels, h w latent cells.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from pathlib import Path

import torch

from pipeline.engine.stage import ROW_FAILED, Failure, Resources, TaskOutcome, heartbeat
from pipeline.models import AdapterRef, ModelRef, pick_device
from pipeline.sampling.sampler import Condition, Sample, Sampler
from pipeline.sampling.samplers import make_sampler
from pipeline.sampling.settings import Execution, SamplerSettings
from pipeline.sampling.tasks import SampleTask
from storage.media.pictures import read_image
from storage.media.tensors import write_tensors
from storage.media.video import is_whole, write_video
from storage.run import Run
from storage.tables.ids import canonical_json
from storage.tables.records import Candidate, Prompt, utc_now
from storage.tables.shards import write_shard


class PromptEncoder:
    """The conditions of prompts. Tasks of one prompt follow one another, and share what the first encoded."""

    def __init__(self, run: Run, sampler: Sampler) -> None:
        self._run, self._sampler = run, sampler
        self._last: tuple[str, Condition] | None = None

    def ensure_condition(self, prompt: Prompt) -> Condition:
        """The condition of a prompt; its file is with the run afterwards, whole."""
        if self._last is not None and self._last[0] == prompt.prompt_id:
            return self._last[1]
        image = None
        if prompt.image_uri is not None:
            image = torch.from_numpy(read_image(self._run.resolve(prompt.image_uri)))
        condition = self._sampler.encode(prompt.text, image)
        path = self._run.resolve(self._run.condition_uri(prompt.prompt_id))
        if not is_whole(path):
            write_tensors(path, condition.tensors(), {"prompt_id": prompt.prompt_id})
        self._last = (prompt.prompt_id, condition)
        return condition


@dataclass(kw_only=True)
class SampleStage:
    """Samples candidates; writes their latents and videos, then the rows of the task as one shard."""

    run_path: Path
    model: ModelRef
    settings: SamplerSettings
    adapter: AdapterRef | None = None
    execution: Execution = field(default_factory=Execution)
    resources: Resources = field(default_factory=Resources)
    name: str = "sample"

    def setup(self) -> None:
        """Load the sampler. Raises UserError when the model does not load or the settings do not fit it."""
        self._run = Run.open(self.run_path)
        self._sampler: Sampler = make_sampler(
            self.model, self.settings, self.adapter, pick_device(self.resources.gpus), self.execution
        )
        self._sampler.setup()
        self._conditions = PromptEncoder(self._run, self._sampler)

    def process(self, task: SampleTask) -> TaskOutcome:
        """Sample one chunk. A candidate with NaN latents gets a row with status failed, and no media."""
        started = time.perf_counter()
        condition = self._conditions.ensure_condition(task.prompt)
        samples = self._sampler.sample(condition, task.seeds)
        seconds = (time.perf_counter() - started) / len(samples)
        for candidate_id, sample in zip(task.ids, samples, strict=True):
            self._write_media(candidate_id, sample)
            heartbeat()
        rows = [self._row(task, index, sample, seconds) for index, sample in enumerate(samples)]
        write_shard(self._run.shard_dir("candidates"), "candidates", rows)
        failed = [
            Failure(id=row.candidate_id, rule=ROW_FAILED, reason=row.reason) for row in rows if row.reason
        ]
        done = tuple(row.candidate_id for row in rows if row.reason is None)
        return TaskOutcome(
            key=task.key, done=done, failed=tuple(failed), seconds=time.perf_counter() - started
        )

    def _write_media(self, candidate_id: str, sample: Sample) -> None:
        if sample.frames_THW3 is None:
            return
        latent_path = self._run.resolve(self._run.latent_uri(candidate_id))
        write_tensors(latent_path, {"latents": sample.latents_FChw}, {"candidate_id": candidate_id})
        video_path = self._run.resolve(self._run.video_uri(candidate_id))
        write_video(video_path, sample.frames_THW3.numpy(), self.settings.fps)

    def _row(self, task: SampleTask, index: int, sample: Sample, seconds: float) -> Candidate:
        candidate_id, settings = task.ids[index], self.settings
        ok = sample.frames_THW3 is not None
        return Candidate(
            candidate_id=candidate_id,
            prompt_id=task.prompt.prompt_id,
            seed=task.seeds[index],
            model=self.model.name,
            revision=self.model.revision,
            adapter=None if self.adapter is None else self.adapter.id,
            sampler=canonical_json(settings.as_dict()),
            num_frames=settings.num_frames,
            height=settings.height,
            width=settings.width,
            fps=settings.fps,
            video_uri=self._run.video_uri(candidate_id) if ok else None,
            latent_uri=self._run.latent_uri(candidate_id) if ok else None,
            status="ok" if ok else "failed",
            reason=sample.reason,
            seconds=seconds,
            created_at=utc_now(),
        )
