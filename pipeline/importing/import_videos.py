"""gpa import: videos made elsewhere become candidates of a run."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path

from pipeline.engine.runners import Summary, execute, make_runner
from pipeline.engine.stage import Progress, Resources, Silent
from pipeline.engine.worker_settings import WorkerSettings
from pipeline.importing.manifest import STAGE
from pipeline.importing.plan import ImportPlan, plan_import
from pipeline.importing.stage import Encoding, Fit, ImportStage, Target
from pipeline.models import resolve_model
from pipeline.sampling.sampler import Execution, SamplerSettings
from storage.errors import UserError
from storage.media.external_video import VideoLimits
from storage.run import Run
from storage.tables.shards import write_shard


@dataclass(frozen=True, kw_only=True)
class ImportSettings(WorkerSettings):
    """What `gpa import` is asked for. Raises UserError for a value that makes no sense.

    Without a `model` videos are only registered, for scores and an index of pairs. With one they are encoded
    as if it had sampled them; `sampler` says the size and how it would be run.
    """

    source: Path
    limits: VideoLimits
    sampler: SamplerSettings
    link: bool = False
    allow_outside: bool = False
    model: str | None = None
    revision: str | None = None
    fit: Fit = "exact"
    execution: Execution = field(default_factory=Execution)
    batch: int = 8

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.batch < 1:
            raise UserError(f"--batch must be at least 1, got {self.batch}")
        if self.model is None and (self.fit != "exact" or self.revision is not None):
            given = "--revision" if self.revision is not None else f"--fit {self.fit}"
            raise UserError(f"{given} is for videos that are encoded: give --model NAME, or leave it out")
        if self.model is not None:
            self.execution.loading_device("cuda" if self.gpus_per_worker else "cpu")

    def encoding(self) -> Encoding | None:
        """What the videos are encoded with, if they are. Raises UserError for a model that is not there."""
        if self.model is None:
            return None
        one = self.sampler
        target = Target(frames=one.num_frames, height=one.height, width=one.width, fit=self.fit)
        return Encoding(
            model=resolve_model(self.model, self.revision),
            settings=one,
            target=target,
            execution=self.execution,
        )


def run_import(
    run: Run,
    settings: ImportSettings,
    *,
    progress: Progress | None = None,
    before_work: Callable[[ImportPlan], None] | None = None,
) -> Summary:
    """Take in every video of the source that the run does not have yet.

    What is refused goes to rejects with its reason, and counts as failed. Raises UserError for a source that
    cannot be read as a whole, for a run of another model, and when another process imports into it.
    """
    with run.lock(STAGE):
        if settings.link:
            _require_one_file_system(run, settings.source)
        encoding = settings.encoding()
        plan = _plan(run, settings, encoding, write=True)
        if before_work is not None:
            before_work(plan)
        if plan.rejects:
            write_shard(run.shard_dir("rejects"), "rejects", plan.rejects)
        stage = ImportStage(
            run_path=run.path.absolute(),
            limits=settings.limits,
            link=settings.link,
            encoding=encoding,
            resources=Resources(gpus=settings.gpus_per_worker),
        )
        runner = make_runner(settings)
        summary = execute(
            run, stage, plan.tasks, runner=runner, progress=progress or Silent(), wanted=plan.wanted
        )
    refused = len(plan.rejects)
    reason = summary.reason or (plan.rejects[-1].detail if refused else None)
    return replace(summary, wanted=summary.wanted + refused, failed=summary.failed + refused, reason=reason)


def dry_run(run: Run | None, settings: ImportSettings) -> ImportPlan:
    """What `run_import` would do. Nothing is written or decoded."""
    return _plan(run, settings, settings.encoding(), write=False)


def _require_one_file_system(run: Run, source: Path) -> None:
    """Found before anything is done: a link that cannot be made would refuse one video after the other."""
    if source.exists() and source.stat().st_dev != run.path.stat().st_dev:
        raise UserError(
            f"{source} and {run.path} are on different file systems, which links do not cross: "
            "leave --link out"
        )


def _plan(run: Run | None, settings: ImportSettings, encoding: Encoding | None, *, write: bool) -> ImportPlan:
    return plan_import(
        run,
        settings.source,
        settings.limits,
        encoding,
        allow_outside=settings.allow_outside,
        batch=settings.batch,
        write=write,
    )
