"""The judging stage of an evaluation: one task is a few clips of one prompt, each by the judges it lacks."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass, field, replace
from pathlib import Path

from pipeline.engine.stage import UNREADABLE, Failure, Resources, TaskOutcome, heartbeat
from pipeline.evaluation.judges.judge import ClipJudge, JudgedClip, as_floats
from pipeline.models import pick_device
from storage.errors import UserError
from storage.judgements import Judgement, write_judgements
from storage.media.video import read_video
from storage.run import Run


@dataclass(frozen=True, kw_only=True)
class JudgeItem:
    """A clip and the names of the judges that have not seen it."""

    candidate_id: str
    video_uri: str
    fps: float
    judges: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class JudgeTask:
    """Clips of one prompt, whose text and metadata the judges are told."""

    text: str
    metadata: str
    items: tuple[JudgeItem, ...]

    @property
    def key(self) -> str:
        """The first candidate's id."""
        return self.items[0].candidate_id

    @property
    def ids(self) -> tuple[str, ...]:
        """The candidates."""
        return tuple(item.candidate_id for item in self.items)

    def split(self) -> tuple[JudgeTask, ...]:
        """A task for each clip."""
        return tuple(replace(self, items=(item,)) for item in self.items)


@dataclass(kw_only=True)
class JudgeStage:
    """Measures saved videos and writes the values of a task, a row for a clip and a judge, as one shard."""

    run_path: Path
    judges: tuple[ClipJudge, ...]
    resources: Resources = field(default_factory=Resources)
    name: str = "judge"

    def setup(self) -> None:
        """Load the weights of every judge. Raises RewardError when they are missing."""
        self._run = Run.open(self.run_path)
        self._by_name = {judge.name: judge for judge in self.judges}
        device = pick_device(self.resources.gpus)
        for judge in self.judges:
            judge.setup(device)

    def process(self, task: JudgeTask) -> TaskOutcome:
        """Measure the clips one by one: no value depends on another clip."""
        started = time.perf_counter()
        rows: list[Judgement] = []
        failed: list[Failure] = []
        for item in task.items:
            clip = self._read(task, item)
            if isinstance(clip, Failure):
                failed.append(clip)
            else:
                rows += [self._judged(item.candidate_id, clip, name) for name in item.judges]
            heartbeat()
        if rows:
            write_judgements(self._run, rows)
        lost = {one.id for one in failed}
        return TaskOutcome(
            key=task.key,
            done=tuple(name for name in task.ids if name not in lost),
            failed=tuple(failed),
            seconds=time.perf_counter() - started,
        )

    def _read(self, task: JudgeTask, item: JudgeItem) -> JudgedClip | Failure:
        """The clip, or that its video cannot be read: then it has no row, and can be mended."""
        try:
            frames = read_video(self._run.resolve(item.video_uri))
        except UserError as error:
            reason = str(error).replace(f"{self.run_path}/", "")
            return Failure(id=item.candidate_id, rule=UNREADABLE, reason=reason)
        return JudgedClip(frames_THW3=as_floats(frames), fps=item.fps, text=task.text, metadata=task.metadata)

    def _judged(self, candidate_id: str, clip: JudgedClip, name: str) -> Judgement:
        judge, started = self._by_name[name], time.perf_counter()
        found = judge.measure(clip)
        known = [measure.name for measure in judge.measures if measure.name in found]
        return Judgement(
            candidate_id=candidate_id,
            judge=judge.name,
            judge_version=judge.version,
            judge_license=judge.license,
            names=known,
            values=[found[one] if math.isfinite(found[one]) else None for one in known],
            seconds=time.perf_counter() - started,
        )
