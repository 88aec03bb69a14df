"""What looks at a training between its steps: held-out pairs, sampled videos."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from accelerate import Accelerator

from trainer.config import TrainConfig
from trainer.data import PairLoader, PairSource
from trainer.families.base import PairShapes
from trainer.metrics import HELD_OUT
from trainer.sampled import OnSample, SampledValidation
from trainer.signals import StopRequest
from trainer.step import Step
from trainer.validation import Agreed, Check, PairValidation, require_same_shapes


def make_checks(
    config: TrainConfig,
    *,
    accelerator: Accelerator,
    compute: Step,
    timesteps: tuple[int, int],
    trained: PairShapes,
    export: Callable[[Path], None],
    held_out: PairSource | None,
    on_sample: OnSample | None,
) -> list[Check]:
    """The checks that configuration and caller ask for.

    Raises UserError for held-out pairs of another shape than those trained on.
    """
    checks: list[Check] = []
    if held_out is not None:
        loader = PairLoader(held_out, accelerator.device)
        require_same_shapes(loader.shapes, trained)
        checks.append(
            PairValidation(
                config=config, loader=loader, compute=compute, timesteps=timesteps, accelerator=accelerator
            )
        )
    if config.sample_every and on_sample is not None:
        checks.append(
            SampledValidation(config=config, accelerator=accelerator, export=export, on_sample=on_sample)
        )
    return checks


def look(checks: Sequence[Check], step: int, stop: StopRequest, agreed: Agreed) -> dict[str, float]:
    """What the checks that are due after this many steps find, under the names of held-out figures."""
    found: dict[str, float] = {}
    for check in checks:
        if check.due(step):
            found |= check.figures(step, stop, agreed)
    return {f"{HELD_OUT}{name}": value for name, value in found.items()}
