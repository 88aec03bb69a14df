"""The scoring stage: one task is a few candidates of one prompt.

Legend: T frames, H W pixels.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor

from pipeline.engine.stage import ROW_FAILED, UNREADABLE, Failure, Resources, TaskOutcome, heartbeat
from pipeline.models import pick_device
from pipeline.scoring.settings import RewardSettings
from pipeline.scoring.tasks import ScoreTask
from rewards.footage.footage import Footage, measure_footage
from rewards.scoring import RewardResult
from storage.errors import UserError
from storage.media.video import read_video
from storage.run import Run
from storage.tables.records import Score
from storage.tables.shards import write_shard


def _batched(items: Sequence[tuple[str, str]], size: int) -> Iterator[Sequence[tuple[str, str]]]:
    """Runs of `size` items, the last one shorter."""
    for start in range(0, len(items), size):
        yield items[start : start + size]


@dataclass(frozen=True, kw_only=True)
class _Read:
    """The frames of a video in [0, 1], and what the footage is like."""

    frames_THW3: Tensor
    footage: Footage


@dataclass(kw_only=True)
class ScoreStage:
    """Scores saved videos and writes the rows of a task, with every component, as one shard."""

    run_path: Path
    settings: RewardSettings
    any_footage: bool = False
    clips_per_forward: int = 1
    resources: Resources = field(default_factory=Resources)
    name: str = "score"

    def setup(self) -> None:
        """Load the geometry model and the perceptual net. Raises RewardError when weights are missing."""
        self._run = Run.open(self.run_path)
        self._reward = self.settings.load(pick_device(self.resources.gpus))

    def process(self, task: ScoreTask) -> TaskOutcome:
        """Score the candidates, `clips_per_forward` at a time: with 1 a value depends on no other candidate.

        With more, values move in their last digits with the company a clip is in, which depends on the task
        alone.
        """
        started = time.perf_counter()
        listed = list(zip(task.ids, task.video_uris, strict=True))
        found: list[Score | Failure] = []
        for group in _batched(listed, self.clips_per_forward):
            found += self._score(group)
            heartbeat()
        rows = [one for one in found if isinstance(one, Score)]
        if rows:
            write_shard(self._run.shard_dir("scores"), "scores", rows)
        failed = [one for one in found if isinstance(one, Failure)] + [
            Failure(id=row.candidate_id, rule=ROW_FAILED, reason=row.reason) for row in rows if row.reason
        ]
        done = tuple(row.candidate_id for row in rows if row.reason is None)
        return TaskOutcome(
            key=task.key, done=done, failed=tuple(failed), seconds=time.perf_counter() - started
        )

    def _score(self, group: Sequence[tuple[str, str]]) -> list[Score | Failure]:
        """Rows of candidates that share a forward; a video that cannot be read costs the others nothing.

        It gets no row: a file can be mended, and then the same command scores it.
        """
        started = time.perf_counter()
        found = [self._read(*one) for one in group]
        clips = [one.frames_THW3 for one in found if isinstance(one, _Read)]
        try:
            scored = iter(self._reward.score_many(clips) if clips else [])
        except torch.OutOfMemoryError as error:
            raise UserError(
                f"the GPU has too little memory for {len(clips)} clips in one forward: lower "
                "--clips-per-forward or --frames"
            ) from error
        results = [one if isinstance(one, Failure) else (next(scored), one.footage) for one in found]
        seconds = (time.perf_counter() - started) / len(group)
        return [
            result if isinstance(result, Failure) else self._row(name, *result, seconds)
            for (name, _), result in zip(group, results, strict=True)
        ]

    def _read(self, candidate_id: str, video_uri: str) -> _Read | Failure:
        """A video, or that it cannot be read."""
        try:
            frames_THW3 = read_video(self._run.resolve(video_uri))
        except UserError as error:
            reason = str(error).replace(f"{self.run_path}/", "")
            return Failure(id=candidate_id, rule=UNREADABLE, reason=reason)
        return _Read(
            frames_THW3=torch.from_numpy(frames_THW3).float() / 255, footage=measure_footage(frames_THW3)
        )

    def _row(self, candidate_id: str, result: RewardResult, footage: Footage, seconds: float) -> Score:
        geometry = self._reward.geometry
        model = geometry.model if geometry else None
        if self.any_footage and self.settings.knows_the_world_alone:
            model = f"{model}, on videos that may not be its own"
        return Score(
            candidate_id=candidate_id,
            reward=self._reward.name,
            reward_version=self._reward.version,
            value=result.value,
            reason=result.reason,
            geometry_model=model,
            geometry_revision=geometry.revision if geometry else None,
            geometry_license=geometry.license if geometry else None,
            mse=result.mse,
            # The column of the perceptual distance, whichever net `perceptual` names.
            lpips=result.perceptual,
            perceptual=getattr(self.settings.reward_options(), "perceptual", None),
            coverage=result.coverage,
            motion=result.motion,
            frame_indices=result.frame_indices or None,
            frame_errors=result.frame_errors or None,
            w2c=result.w2c or None,
            intrinsics=result.intrinsics or None,
            seconds=seconds,
            image_motion=result.image_motion,
            sharpness=result.sharpness,
            psnr=result.psnr,
            ssim=result.ssim,
            mvcs=result.mvcs,
            sampson=result.sampson,
            measured_pairs=result.measured_pairs,
            detail=result.detail,
            **dataclasses.asdict(footage),
        )
