"""gpa import: videos made elsewhere become candidates of a run."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from pipeline.engine.runners import Summary, execute, make_runner
from pipeline.engine.stage import Progress, Resources, Silent
from pipeline.importing.manifest import STAGE
from pipeline.importing.plan import ImportPlan, plan_import
from pipeline.importing.settings import ImportSettings
from pipeline.importing.tasks import Encoding
from pipeline.models import resolve_model
from pipeline.sampling.fit import require_fit
from pipeline.sampling.prompt_length import LongPrompt, long_prompts, tell_long_prompts
from pipeline.telling import tell_import
from storage.errors import UserError
from storage.media.clip import Target
from storage.run import Run
from storage.tables.shards import write_shard

if TYPE_CHECKING:
    from pipeline.importing.stage import ImportStage


def encoding_of(settings: ImportSettings) -> Encoding | None:
    """What the videos are encoded with, if they are.

    Raises UserError for a model that is not there, and for a size that does not fit it.
    """
    if settings.model is None:
        return None
    one = settings.sampler
    target = Target(frames=one.num_frames, height=one.height, width=one.width, fps=one.fps, fit=settings.fit)
    model = resolve_model(settings.model, settings.revision)
    require_fit(model, one)
    return Encoding(
        model=model,
        settings=one,
        target=target,
        execution=settings.execution,
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
        encoding = encoding_of(settings)
        if settings.strict_prompts:
            # Before anything is written.
            _tell_long_prompts(_plan(run, settings, encoding, write=False), encoding, strict=True)
        plan = _plan(run, settings, encoding, write=True)
        _tell_long_prompts(plan, encoding, strict=settings.strict_prompts)
        if before_work is not None:
            before_work(plan)
        if plan.rejects:
            write_shard(run.shard_dir("rejects"), "rejects", plan.rejects)
        summary = Summary(wanted=plan.wanted, present=plan.wanted)
        if plan.tasks:
            tell_import("torch")
            stage, runner = _stage(run, settings, encoding), make_runner(settings)
            shown = progress or Silent()
            summary = execute(run, stage, plan.tasks, runner=runner, progress=shown, wanted=plan.wanted)
    refused = len(plan.rejects)
    reason = summary.reason or (plan.rejects[-1].detail if refused else None)
    return replace(summary, wanted=summary.wanted + refused, failed=summary.failed + refused, reason=reason)


def _stage(run: Run, settings: ImportSettings, encoding: Encoding | None) -> ImportStage:
    from pipeline.importing.stage import (
        ImportStage,  # with torch, which a run that lacks nothing does without
    )

    return ImportStage(
        run_path=run.path.absolute(),
        limits=settings.limits,
        link=settings.link,
        min_first_frame_psnr=settings.min_first_frame_psnr,
        encoding=encoding,
        resources=Resources(gpus=settings.gpus_per_worker),
    )


def dry_run(run: Run | None, settings: ImportSettings) -> ImportPlan:
    """What `run_import` would do. Nothing is written or decoded."""
    return _plan(run, settings, encoding_of(settings), write=False)


def long_prompts_of(plan: ImportPlan, encoding: Encoding | None) -> list[LongPrompt]:
    """Of the prompts with missing videos, those of which the model that encodes them does not see the end."""
    if encoding is None:
        return []
    return long_prompts(encoding.model, encoding.settings.max_sequence_length, plan.open_prompts)


def _tell_long_prompts(plan: ImportPlan, encoding: Encoding | None, *, strict: bool) -> None:
    if encoding is not None:
        limit = encoding.settings.max_sequence_length
        tell_long_prompts(encoding.model, limit, plan.open_prompts, strict=strict)


def _require_one_file_system(run: Run, source: Path) -> None:
    """Found before anything is done: a link that cannot be made would refuse one video after the other."""
    if source.exists() and source.stat().st_dev != run.path.stat().st_dev:
        raise UserError(
            f"{source} and {run.path} are on different file systems, which links do not cross: "
            "leave `link` out"
        )


def _plan(run: Run | None, settings: ImportSettings, encoding: Encoding | None, *, write: bool) -> ImportPlan:
    return plan_import(
        run,
        settings.source,
        settings.limits,
        encoding,
        allow_outside=settings.allow_outside,
        batch=settings.batch,
        split_by=settings.split_by,
        write=write,
    )
