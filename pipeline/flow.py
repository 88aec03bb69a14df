"""gpa run: sampling and scoring as one flow, without a barrier between the stages.

A prompt is scored as soon as all of its candidates have been tried, while later prompts are sampled. That is
also what makes the results those of the two commands one after the other: the scoring tasks of a prompt are
chunks of all its candidates, so they must be known.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Generator, Iterable
from contextlib import closing
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from pipeline.damage import mend_tables
from pipeline.engine.runners import OutcomeCounter, Summary
from pipeline.engine.stage import Progress, Silent, TaskOutcome, attempt_here, settle_threads
from pipeline.sampling.sample import SamplePlan, mend_sampled, plan_told, sample_stage
from pipeline.sampling.settings import SampleSettings
from pipeline.scoring.score import prompt_tasks, score_lock, score_stage
from pipeline.scoring.settings import ScoreSettings
from pipeline.scoring.tasks import ScoreTask
from pipeline.telling import tell, tell_import
from storage.errors import UserError
from storage.run import Run
from storage.sql.views import scored_ids
from storage.upkeep.repair import MEDIA_FOLDERS, sweep_leftovers

if TYPE_CHECKING:
    from pipeline.sampling.stage import SampleStage
    from pipeline.scoring.stage import ScoreStage

SAMPLE, SCORE = "sample", "score"
_Stream = Generator[tuple[str, TaskOutcome], None, None]


@dataclass(frozen=True, kw_only=True)
class FlowSettings:
    """Sampling and scoring as their commands are told. Raises UserError where the two do not go together."""

    sample: SampleSettings
    score: ScoreSettings

    def __post_init__(self) -> None:
        if self.score.limit is not None:
            raise UserError("gpa run scores what it samples: give limit to sample, not to score")
        if bool(self.sample.workers) != bool(self.score.workers):
            raise UserError(
                f"workers is {self.sample.workers} for sample and {self.score.workers} for score: give "
                "both 0 (no Ray) or both 1 or more"
            )
        if self.sample.ray_address != self.score.ray_address:
            raise UserError("sample and score are on different Ray clusters: give both the same ray_address")


@dataclass(frozen=True, kw_only=True)
class FlowResult:
    """What both stages counted, and the version that the scores carry."""

    sample: Summary
    score: Summary
    reward_version: str


def run_flow(
    run: Run,
    settings: FlowSettings,
    *,
    progress: Progress | None = None,
    before_work: Callable[[SamplePlan], None] | None = None,
) -> FlowResult:
    """Sample and score what is missing. The same call again does only what is missing then.

    Raises UserError and RewardError as `run_sample` and `run_score` do.
    """
    version, _ = settings.score.reward.describe()
    mend_sampled(run, settings.sample)
    mend_tables(run, SCORE, "scores")
    with run.lock(SAMPLE), run.lock(score_lock(settings.score, version)):
        sweep_leftovers(run, "prompts", "candidates", "scores", "rejects", *MEDIA_FOLDERS)
        plan = plan_told(settings.sample, run)
        have = scored_ids(run, settings.score.reward.reward, version)
        if before_work is not None:
            before_work(plan)
        arrivals = _Arrivals(run, plan, settings.score.batch, have)
        counters = {
            SAMPLE: OutcomeCounter(run, SAMPLE, wanted=plan.wanted, present=plan.wanted - len(plan.ids)),
            SCORE: OutcomeCounter(run, SCORE, wanted=arrivals.expected, present=arrivals.scored),
        }
        _count(_stream(run, settings, plan, arrivals), counters, progress or Silent())
        scored = counters[SCORE].summary
        return FlowResult(
            sample=counters[SAMPLE].summary,
            score=replace(scored, wanted=scored.present + scored.done + scored.failed),
            reward_version=version,
        )


class _Arrivals:
    """The candidates of each prompt, and which prompts have all of theirs."""

    def __init__(self, run: Run, plan: SamplePlan, batch: int, have: set[str]) -> None:
        self._run, self._batch, self._have = run, batch, have
        self._prompt = {name: task.prompt.prompt_id for task in plan.tasks for name in task.ids}
        self._open: dict[str, set[str]] = defaultdict(set)
        for name, prompt in self._prompt.items():
            self._open[prompt].add(name)
        self._uris: dict[str, dict[str, str]] = defaultdict(dict)
        columns = ["candidate_id", "prompt_id", "status", "video_uri"]
        for row in run.rows("candidates", columns).to_pylist():
            if row["status"] == "ok":
                self._uris[row["prompt_id"]][row["candidate_id"]] = row["video_uri"]
        present = {name for uris in self._uris.values() for name in uris}
        self.scored = len(present & have)
        self.expected = len(present) + len(self._prompt)

    def complete(self) -> list[ScoreTask]:
        """The tasks of prompts that miss no candidate."""
        prompts = sorted(set(self._uris) - set(self._open))
        return [task for prompt in prompts for task in self._tasks(prompt)]

    def add(self, outcome: TaskOutcome) -> list[ScoreTask]:
        """Take note of sampled candidates; the tasks of the prompt if these were its last."""
        tried = [*outcome.done, *(failure.id for failure in outcome.failed)]
        for name in outcome.done:
            self._uris[self._prompt[name]][name] = self._run.video_uri(name)
        tasks: list[ScoreTask] = []
        for prompt in {self._prompt[name] for name in tried}:
            self._open[prompt].difference_update(tried)
            if not self._open[prompt]:
                tasks += self._tasks(prompt)
        return tasks

    def _tasks(self, prompt: str) -> Iterable[ScoreTask]:
        rows = [{"candidate_id": name, "video_uri": uri} for name, uri in sorted(self._uris[prompt].items())]
        return prompt_tasks(rows, self._batch, self._have)


def _count(stream: _Stream, counters: dict[str, OutcomeCounter], progress: Progress) -> None:
    summaries = [counter.summary for counter in counters.values()]
    present = sum(one.present for one in summaries)
    progress.start("sample and score", sum(one.wanted for one in summaries), present)
    try:
        with closing(stream):
            for stage, outcome in stream:
                counters[stage].add(outcome)
                progress.advance(len(outcome.done), len(outcome.failed))
    finally:
        progress.stop()


def _stream(run: Run, settings: FlowSettings, plan: SamplePlan, arrivals: _Arrivals) -> _Stream:
    if not plan.tasks and not arrivals.complete():
        return
    tell_import("torch")
    stages = sample_stage(run, settings.sample, plan), score_stage(run, settings.score)
    if settings.sample.workers:
        yield from _on_ray(settings, stages, plan, arrivals)
    else:
        yield from _in_process(stages, plan, arrivals)


def _in_process(stages: tuple[SampleStage, ScoreStage], plan: SamplePlan, arrivals: _Arrivals) -> _Stream:
    sampling, scoring = stages
    ready = arrivals.complete()
    tell("loading weights")
    if plan.tasks:
        sampling.setup()
    scoring.setup()
    settle_threads(scoring.resources.gpus)
    for found in ready:
        yield SCORE, attempt_here(scoring, found)
    for task in plan.tasks:
        outcome = attempt_here(sampling, task)
        yield SAMPLE, outcome
        for found in arrivals.add(outcome):
            yield SCORE, attempt_here(scoring, found)


def _on_ray(
    settings: FlowSettings, stages: tuple[SampleStage, ScoreStage], plan: SamplePlan, arrivals: _Arrivals
) -> _Stream:
    """Two pools side by side.

    Both may wait for the same GPUs: whoever has no work gives its place up, so scoring keeps no idle worker.
    """
    from pipeline.engine.ray_pool import Pool
    from pipeline.engine.ray_runner import deferred_sigterm, drive
    from pipeline.engine.warm import warm_actors_for

    ready = arrivals.complete()
    sample, score = settings.sample, settings.score
    hungrier: Any = max((sample, score), key=lambda one: one.gpus_per_worker)
    with (
        warm_actors_for(hungrier, sample.workers + score.workers) as warm_actors,
        deferred_sigterm() as termination,
    ):
        sampling = Pool(warm_actors, stages[0], sample)
        tell("loading weights in the workers")
        scoring = Pool(warm_actors, stages[1], replace(score, min_workers=0))
        sampling.feed(plan.tasks)
        sampling.close()
        scoring.feed(ready)
        try:
            if sampling.finished:
                scoring.close()
            for pool, outcome in drive([sampling, scoring], termination, sample.grace):
                yield SAMPLE if pool is sampling else SCORE, outcome
                if pool is sampling and not termination.requested:
                    scoring.feed(arrivals.add(outcome))
                if sampling.finished:
                    scoring.close()
        finally:
            sampling.stop()
            scoring.stop()
