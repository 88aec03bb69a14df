"""gpa score: which candidates have no score of this reward version yet, and the tasks that score them."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import groupby
from typing import TYPE_CHECKING, Any

from pipeline.damage import mend_tables
from pipeline.engine.runners import Summary, execute, make_runner
from pipeline.engine.stage import Progress, Resources, Silent
from pipeline.models import WORLD
from pipeline.scoring.settings import ScoreSettings
from pipeline.scoring.tasks import ScoreTask
from pipeline.telling import tell_import
from rewards.geometry.reconstruction import GeometryInfo
from storage.errors import UserError
from storage.run import Run
from storage.sql.views import scored_ids
from storage.upkeep.repair import sweep_leftovers

if TYPE_CHECKING:
    from pipeline.scoring.stage import ScoreStage


@dataclass(frozen=True, kw_only=True)
class ScorePlan:
    """The version that the scores will carry, the geometry model, how many are wanted, and what is missing.

    `geometry` is None for a reward that needs none.
    """

    reward_version: str
    geometry: GeometryInfo | None
    wanted: int
    tasks: tuple[ScoreTask, ...]


def run_score(
    run: Run,
    settings: ScoreSettings,
    *,
    progress: Progress | None = None,
    before_work: Callable[[ScorePlan], None] | None = None,
) -> tuple[ScorePlan, Summary]:
    """Score every sampled candidate that has no score of this reward, options and geometry yet.

    Raises UserError for a run without candidates and when another process scores it by the same version,
    RewardError for a reward that cannot be built.
    """
    described = settings.reward.describe()
    mend_tables(run, "score", "scores", "rejects")
    # By reward and version: two of them write rows of different keys, and may do so side by side.
    with run.lock(score_lock(settings, described[0])):
        sweep_leftovers(run, "scores", "rejects")
        plan = plan_score(run, settings, described)
        if before_work is not None:
            before_work(plan)
        if not plan.tasks:
            return plan, Summary(wanted=plan.wanted, present=plan.wanted)
        tell_import("torch")
        stage = score_stage(run, settings)
        runner = make_runner(settings)
        summary = execute(
            run, stage, plan.tasks, runner=runner, progress=progress or Silent(), wanted=plan.wanted
        )
        return plan, summary


def score_lock(settings: ScoreSettings, version: str) -> str:
    """The name of the lock of a reward version."""
    return re.sub(r"[^A-Za-z0-9_-]", "-", f"score-{settings.reward.reward}-{version}")


def score_stage(run: Run, settings: ScoreSettings) -> ScoreStage:
    """The stage that scores by these settings."""
    from pipeline.scoring.stage import ScoreStage  # with torch, which a run that lacks nothing does without

    return ScoreStage(
        run_path=run.path.absolute(),
        settings=settings.reward,
        any_footage=settings.any_footage,
        clips_per_forward=settings.clips_per_forward,
        resources=Resources(gpus=settings.gpus_per_worker),
    )


def plan_score(
    run: Run, settings: ScoreSettings, described: tuple[str, GeometryInfo | None] | None = None
) -> ScorePlan:
    """What is wanted and what of it is missing, by the reward as its settings describe it.

    No network is built for it.
    """
    if settings.reward.knows_the_world_alone and not settings.any_footage:
        _require_clips_of_the_world(run)
    version, geometry = described or settings.reward.describe()
    candidates = _sampled(run, settings.limit)
    have = scored_ids(run, settings.reward.reward, version)
    tasks = tuple(task for rows in candidates for task in prompt_tasks(rows, settings.batch, have))
    return ScorePlan(reward_version=version, geometry=geometry, wanted=sum(map(len, candidates)), tasks=tasks)


def _require_clips_of_the_world(run: Run) -> None:
    """Raise UserError where a network that has seen nothing but the world's rooms would judge others."""
    prompts = run.rows("prompts", ["prompt_id", "metadata"]).to_pylist()
    of_world = {row["prompt_id"] for row in prompts if "world" in json.loads(row["metadata"] or "{}")}
    named = run.rows("candidates", ["prompt_id", "model"]).to_pylist()
    # Its model draws the world whatever it is asked for.
    foreign = sum(row["model"] != WORLD and row["prompt_id"] not in of_world for row in named)
    if foreign:
        raise UserError(
            f"{foreign:,} of {len(named):,} videos of {run.path} are not of the embedded world, and its "
            "geometry network knows no others: use `reward` epipolar, which needs no weights (`preset` "
            "videos), or `geometry` vggt or depth-anything; `any_footage` scores them all the same"
        )


def _sampled(run: Run, limit: int | None) -> list[list[dict[str, Any]]]:
    """The candidates that have a video, grouped by prompt, in an order that depends only on what they are."""
    table = run.rows("candidates", ["candidate_id", "prompt_id", "seed", "status", "video_uri"])
    if not table.num_rows:
        raise UserError(f"{run.path} holds no candidates: run `gpa sample {run.path}` first")
    rows = [row for row in table.to_pylist() if row["status"] == "ok"]
    if not rows:
        raise UserError(
            f"every candidate of {run.path} failed: see the reason column of its candidates table"
        )
    rows.sort(key=lambda row: (row["prompt_id"], row["candidate_id"]))
    prompts = [list(group) for _, group in groupby(rows, key=lambda row: row["prompt_id"])]
    return prompts if limit is None else prompts[:limit]


def prompt_tasks(rows: list[dict[str, Any]], batch: int, have: set[str]) -> Iterator[ScoreTask]:
    """The tasks of one prompt: fixed chunks of its candidates by id, without those that have a score."""
    for start in range(0, len(rows), batch):
        chunk = [row for row in rows[start : start + batch] if row["candidate_id"] not in have]
        if chunk:
            yield ScoreTask(
                ids=tuple(row["candidate_id"] for row in chunk),
                video_uris=tuple(row["video_uri"] for row in chunk),
            )
