"""Videos of base and adapter at the same seeds, while an adapter is trained: does it still move, is it sharp?

The videos lie in a run of their own, where they can be looked at.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from pipeline.evaluation.judges.judge import as_floats
from pipeline.sampling.sample import plan_sample, run_sample
from pipeline.sampling.settings import SampleSettings
from rewards.measures.quality import image_motion, sharpness
from storage.atomic import write_bytes
from storage.errors import UserError
from storage.media.video import read_video
from storage.run import Run
from storage.tables.ids import Split

_PROMPTS_NAME = "prompts.jsonl"
_MEASURES = {"motion_ratio": image_motion, "sharpness_ratio": sharpness}
# By measure, then by (prompt, seed).
_Measured = dict[str, dict[tuple[str, int], float]]


@dataclass(frozen=True, kw_only=True)
class SampledValidation:
    """Samples what `settings` say into the run at `path`, in this process, one video per prompt.

    The base model's videos are made at the first call. An earlier call's videos are never made again.
    """

    path: Path
    settings: SampleSettings

    def __call__(self, step: int, adapter: Path, stopped: Callable[[], bool]) -> dict[str, float]:
        """Motion of the pixels and sharpness of the adapter's videos as shares of the base model's.

        Means over the prompts whose base video can be measured; a video of the adapter that cannot be,
        because it failed or shows nothing, counts zero. Raises UserError when no base video can be, and when
        `stopped` says so between two videos.
        """
        inner = Run.create_or_open(self.path)
        base = self._measured(inner, None, stopped)
        aligned = self._measured(inner, adapter, stopped)
        return {name: _ratio(name, base[name], aligned[name]) for name in _MEASURES}

    def _measured(self, inner: Run, adapter: Path | None, stopped: Callable[[], bool]) -> _Measured:
        settings = self.settings.with_adapter(adapter)
        run_sample(inner, settings, progress=_Stoppable(stopped), tell=False)
        tasks = plan_sample(settings, inner, write=False, whole=True).tasks
        wanted = {candidate_id for task in tasks for candidate_id in task.ids}
        measured: _Measured = {name: {} for name in _MEASURES}
        for row in inner.rows("candidates").to_pylist():
            if row["candidate_id"] not in wanted or row["status"] != "ok":
                continue
            frames = as_floats(read_video(inner.resolve(row["video_uri"])))
            for name, measure in _MEASURES.items():
                value = measure(frames)
                if math.isfinite(value):
                    measured[name][row["prompt_id"], row["seed"]] = value
        return measured


def sampled_validation(
    run: Run, settings: SampleSettings, path: Path, *, split: Split, prompts: int
) -> SampledValidation:
    """Validation on the first prompts of a split of the run, else of the embedded world.

    `settings` are those by which the run was sampled. Raises UserError when a run of the user's own prompts
    has none of that split.
    """
    if prompts < 1:
        raise UserError(f"sample_prompts must be at least 1, got {prompts}")
    rows = [row for row in run.rows("prompts").to_pylist() if row["split"] == split]
    base = settings.with_adapter(None)
    plain = replace(base, candidates=1, batch=1, limit=None, workers=0, ray_address=None, runtime_env=None)
    # Which of them are taken is decided here.
    plain = replace(plain, split_by="scene")
    if rows:
        inner = Run.create_or_open(path)
        file = inner.path / _PROMPTS_NAME
        chosen = sorted(rows, key=lambda row: row["prompt_id"])[:prompts]
        write_bytes(file, "".join(_line(run, row) for row in chosen).encode())
        return SampledValidation(path=path, settings=replace(plain, prompts=file))
    if settings.prompts is not None:
        raise UserError(
            f"{run.path} has no prompts of split {split} to sample videos of: add some with gpa sample, or "
            "leave sample_every at 0"
        )
    of_world = replace(plain, prompts=None, split=split, num_prompts=prompts)
    return SampledValidation(path=path, settings=of_world)


@dataclass(frozen=True)
class _Stoppable:
    """Ends a sampling between two videos when somebody asks for it."""

    stopped: Callable[[], bool]

    def start(self, what: str, total: int, done: int) -> None:
        self._look()

    def advance(self, done: int, failed: int) -> None:
        self._look()

    def stop(self) -> None:
        pass

    def _look(self) -> None:
        if self.stopped():
            raise UserError("stopped on request")


def _ratio(name: str, base: dict[tuple[str, int], float], aligned: dict[tuple[str, int], float]) -> float:
    if not sum(base.values()):
        raise UserError(f"no video of the base model has a {name}: look at the candidates of the sampling")
    return sum(aligned.get(key, 0.0) for key in base) / sum(base.values())


def _line(run: Run, row: dict[str, Any]) -> str:
    prompt = {
        "text": row["text"],
        "scene_id": row["scene_id"],
        "camera_motion": row["camera_motion"],
        "metadata": json.loads(row["metadata"] or "{}"),
    }
    if row["image_uri"] is not None:
        prompt["image"] = str(run.resolve(row["image_uri"]).absolute())
    return json.dumps(prompt) + "\n"
