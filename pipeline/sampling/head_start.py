"""What the first candidates of a new run wait for begins before the driver has found out which they are."""

from __future__ import annotations

from pathlib import Path

from pipeline.engine import warm
from pipeline.engine.worker_settings import WorkerSettings
from pipeline.models import PACKAGED, resolve_model
from pipeline.sampling.samplers import sampler_module
from storage.errors import UserError


def begin_sampling(
    run: Path, workers: WorkerSettings, model: str, revision: str | None, beside: int = 0
) -> None:
    """Start Ray, and what its workers have in common, when the run holds no candidate yet.

    `beside` are the workers of another stage at the same time. A run that was sampled may lack nothing, and
    then needs no Ray. What is wrong with the model is left to the plan to say.
    """
    if any((run / "candidates").glob("*.parquet")) or not (model in PACKAGED or Path(model).is_dir()):
        return
    try:
        module = sampler_module(resolve_model(model, revision))
    except UserError:
        return
    warm.head_start(workers, workers.workers + beside, [module])
