"""gpa evaluate: a base model against its adapters on held-out prompts, with the same seeds.

An evaluation is a run of its own inside the run (RUN/eval/NAME): the same stages sample and score it, so it
resumes as they do. What is measured beside the reward is in judging.py, how models are compared in
comparison.py.
"""

from __future__ import annotations

import dataclasses
import json
import math
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipeline.comparison import Row, compare
from pipeline.contact_sheet import Strip, write_contact_sheet
from pipeline.judging import MEASURES, Judge, as_floats, true_clip, world_prompt
from pipeline.models import resolve_adapter, resolve_model
from pipeline.progress import Progress, Silent
from pipeline.runners import settle_threads
from pipeline.sample import SampleSettings, plan_sample, run_sample
from pipeline.score import ScoreSettings, run_score
from storage.atomic import write_bytes
from storage.errors import UserError
from storage.media import read_video
from storage.run import Run

BASE = "base"
_SHEET_PROMPTS = 6
_OF_SCORE = ("error", "reprojection", "motion")


@dataclass(frozen=True, kw_only=True)
class NamedAdapter:
    """An adapter folder under the name that the table shows."""

    name: str
    path: Path

    def __post_init__(self) -> None:
        if not self.name.isidentifier() or self.name == BASE:
            raise UserError(f"adapter name {self.name!r} must be a word other than {BASE!r}: give NAME=DIR")


@dataclass(frozen=True, kw_only=True)
class EvaluateSettings:
    """What `gpa evaluate` is asked for; `sample.adapter` is ignored, every adapter has its turn."""

    sample: SampleSettings
    score: ScoreSettings
    adapters: tuple[NamedAdapter, ...]
    name: str = "heldout"

    def __post_init__(self) -> None:
        names = [adapter.name for adapter in self.adapters]
        if not names:
            raise UserError("nothing to compare with the base model: give --adapter DIR")
        if len(set(names)) != len(names):
            raise UserError(f"two adapters have the same name in {', '.join(names)}: give NAME=DIR")


@dataclass(frozen=True, kw_only=True)
class Evaluation:
    """The rows of the table by adapter name, and where table and contact sheet lie."""

    directory: Path
    tables: dict[str, list[Row]]
    clips: int
    sheet: Path


def run_evaluate(
    run: Run, settings: EvaluateSettings, *, progress: Callable[[str], Progress] = lambda unit: Silent()
) -> Evaluation:
    """Sample, score and measure what is missing, then compare. The same call again gives the same table.

    Raises UserError for bad input, and when sampling or scoring left nothing to compare.
    """
    inner = Run.create_or_open(run.path / "eval" / settings.name)
    names = _adapter_names(settings)
    wanted: set[str] = set()
    for adapter in (None, *settings.adapters):
        sample = settings.sample.with_adapter(None if adapter is None else adapter.path)
        run_sample(inner, sample, progress=progress("candidates"))
        tasks = plan_sample(sample, None, write=False).tasks
        wanted.update(candidate_id for task in tasks for candidate_id in task.ids)
    plan, _ = run_score(inner, settings.score, progress=progress("scores"))
    clips = _clips(inner, wanted, names, settings.score.reward.reward, plan.reward_version)
    judge = Judge(model=settings.sample.model)
    measured = _measure(inner, clips, judge, progress("clips"))
    tables = {
        name: [
            row
            for one in MEASURES
            if (row := compare(one.name, measured[BASE][one.name], measured[name][one.name], one.better))
        ]
        for name in names.values()
        if name != BASE
    }
    sheet = inner.path / "contact-sheet.png"
    write_contact_sheet(sheet, _sheet_groups(inner, clips))
    result = Evaluation(directory=inner.path, tables=tables, clips=len(clips), sheet=sheet)
    write_bytes(inner.path / "evaluation.json", json.dumps(as_json(result), indent=2).encode())
    return result


def as_json(result: Evaluation) -> dict[str, Any]:
    """An evaluation as plain values."""
    tables = {name: [dataclasses.asdict(row) for row in rows] for name, rows in result.tables.items()}
    return {"clips": result.clips, "tables": tables, "contact_sheet": str(result.sheet)}


def _adapter_names(settings: EvaluateSettings) -> dict[str | None, str]:
    """The name of every model by the adapter id that its rows carry."""
    model = resolve_model(settings.sample.model, settings.sample.revision)
    ids: dict[str | None, str] = {None: BASE}
    for adapter in settings.adapters:
        ids[resolve_adapter(adapter.path, model).id] = adapter.name
    if len(ids) != len(settings.adapters) + 1:
        raise UserError("two of the adapters hold the same weights: leave one of them out")
    return ids


def _clips(
    inner: Run, wanted: set[str], names: dict[str | None, str], reward: str, version: str
) -> list[dict[str, Any]]:
    """The wanted candidates that could be sampled, with prompt and score, by prompt, model and seed.

    A directory evaluated before with other adapters or prompts holds other candidates too: they stay out.
    """
    prompts = {row["prompt_id"]: row for row in inner.rows("prompts").to_pylist()}
    scores = {
        row["candidate_id"]: row
        for row in inner.rows("scores").to_pylist()
        if row["reward"] == reward and row["reward_version"] == version
    }
    rows = [
        row
        | {"model_name": names[row["adapter"]], "prompt": prompts[row["prompt_id"]]}
        | _scored(scores, row)
        for row in inner.rows("candidates").to_pylist()
        if row["status"] == "ok" and row["candidate_id"] in wanted
    ]
    if not rows:
        raise UserError(f"no clip could be sampled in {inner.path}: see the reason column of its candidates")
    order = {name: position for position, name in enumerate(names.values())}
    return sorted(rows, key=lambda row: (row["prompt_id"], order[row["model_name"]], row["seed"]))


def _scored(scores: dict[str, dict[str, Any]], row: dict[str, Any]) -> dict[str, float]:
    score = scores.get(row["candidate_id"], {})
    values = {"error": score.get("value"), "reprojection": score.get("mse"), "motion": score.get("motion")}
    known = {name: math.nan if value is None else value for name, value in values.items()}
    return known | {"error": -known["error"]}


Measured = dict[str, dict[str, dict[str, list[float]]]]


def _measure(inner: Run, clips: Sequence[dict[str, Any]], judge: Judge, progress: Progress) -> Measured:
    """Values by model, measure and prompt."""
    settle_threads(0)
    measured: Measured = defaultdict(lambda: defaultdict(lambda: defaultdict(list)))
    progress.start("judge", len(clips), 0)
    try:
        for clip in clips:
            frames = as_floats(read_video(inner.resolve(clip["video_uri"])))
            prompt = world_prompt(clip["prompt"]["text"], clip["prompt"]["metadata"])
            values = judge.measure(frames, prompt) | {name: clip[name] for name in _OF_SCORE}
            for name, value in values.items():
                measured[clip["model_name"]][name][clip["prompt_id"]].append(value)
            progress.advance(1, 0)
    finally:
        progress.stop()
    return measured


def _sheet_groups(inner: Run, clips: Sequence[dict[str, Any]]) -> list[tuple[str, list[Strip]]]:
    """The truth and the first seed of every model, for the first prompts."""
    groups: dict[str, tuple[str, list[Strip]]] = {}
    seeds: dict[str, int] = {}
    for clip in clips:
        prompt_id = clip["prompt_id"]
        if prompt_id not in groups:
            if len(groups) == _SHEET_PROMPTS:
                break
            groups[prompt_id] = (clip["prompt"]["text"], _truth_strips(clip))
            seeds[prompt_id] = clip["seed"]
        if clip["seed"] == seeds[prompt_id]:
            label = f"{clip['model_name']}\nerror {clip['error']:.4g}"
            groups[prompt_id][1].append(
                Strip(label=label, frames_THW3=read_video(inner.resolve(clip["video_uri"])))
            )
    return list(groups.values())


def _truth_strips(clip: dict[str, Any]) -> list[Strip]:
    prompt = world_prompt(clip["prompt"]["text"], clip["prompt"]["metadata"])
    if prompt is None:
        return []
    frames = (true_clip(prompt) * 255).round().byte().numpy()
    return [Strip(label="ground truth", frames_THW3=frames)]
