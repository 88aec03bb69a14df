"""What a command's workers wait for begins before the command has imported torch and found out what to do.

Only where it is sure to be needed: a run that was sampled or scored may lack nothing, and then needs no Ray.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from jobs.settings.from_dataclass import built


def begin_sampling(run: Path, chosen: Mapping[str, Any], *, beside: int = 0) -> None:
    """Start Ray, and what samplers have in common, when the run holds no candidate yet.

    `chosen` are the options of gpa sample; `beside` are the workers of another stage at the same time. What
    is wrong with the model or the prompts is left to the plan to say. Raises UserError for options of
    workers.
    """
    from pipeline.components import require_components
    from pipeline.models import PACKAGED, resolve_model
    from pipeline.sampling.samplers import sampler_module
    from storage.errors import UserError

    model, prompts = str(chosen["model"]), chosen["prompts"]
    here = model in PACKAGED or Path(model).is_dir()
    if not here or _holds(run, "candidates") or (prompts is not None and not Path(prompts).is_file()):
        return
    try:
        found = resolve_model(model, chosen["revision"])
        require_components(found)
        module = sampler_module(found)
    except UserError:
        return
    _begin(chosen, module, beside)


def begin_scoring(run: Path, chosen: Mapping[str, Any]) -> None:
    """Start Ray, and what rewards have in common, when the run holds candidates and no score yet.

    `chosen` are the options of gpa score. Raises UserError for options of workers.
    """
    if _holds(run, "candidates") and not _holds(run, "scores"):
        _begin(chosen, "pipeline.scoring.stage")


def _holds(run: Path, table: str) -> bool:
    return any((run / table).glob("*.parquet"))


def _begin(chosen: Mapping[str, Any], module: str, beside: int = 0) -> None:
    from pipeline.engine import warm
    from pipeline.engine.worker_settings import WorkerSettings

    workers = built(WorkerSettings, chosen)
    warm.head_start(workers, workers.workers + beside, [module])
