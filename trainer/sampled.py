"""Videos of the adapter as it is, made and measured by somebody else while the training waits."""

from __future__ import annotations

import gc
import logging
import math
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from accelerate import Accelerator

from storage.errors import UserError
from trainer.config import TrainConfig
from trainer.signals import StopRequest
from trainer.validation import Agreed, undisturbed

logger = logging.getLogger(__name__)

# (steps done, adapter folder, whether to stop) -> figures; those in WATCHED are ratios to the base model.
OnSample = Callable[[int, Path, Callable[[], bool]], dict[str, float]]
WATCHED = {"motion_ratio": "motion", "sharpness_ratio": "sharpness"}
# DPO is known to suppress motion and detail: a fall by more than a tenth is worth a word.
LEAST_RATIO = 0.9


@dataclass(frozen=True, kw_only=True)
class SampledValidation:
    """Exports the adapter and hands it to `on_sample` in the main process.

    `export` writes an adapter folder and is a collective. A sampling that fails is warned of and left out:
    the training does not depend on it.
    """

    config: TrainConfig
    accelerator: Accelerator
    export: Callable[[Path], None]
    on_sample: OnSample

    def due(self, step: int) -> bool:
        """Every `sample_every` steps and after the last."""
        return step == self.config.steps or step % self.config.sample_every == 0

    def figures(self, step: int, stop: StopRequest, agreed: Agreed) -> dict[str, float]:
        """What `on_sample` says, in the main process; nothing in the others and after a request to stop."""
        if agreed(stop.name is not None):
            return {}
        folder = self.config.out_dir / "sampled-adapter"
        self.export(folder)
        found: dict[str, float] = {}
        if self.accelerator.is_main_process:
            with undisturbed(self.accelerator.device):
                found = self._sampled(step, folder, stop)
            _warn(step, found)
            shutil.rmtree(folder)
        self.accelerator.wait_for_everyone()
        return found

    def _sampled(self, step: int, folder: Path, stop: StopRequest) -> dict[str, float]:
        try:
            self._free()
            found = self.on_sample(step, folder, lambda: stop.name is not None)
        except (UserError, torch.OutOfMemoryError) as error:
            logger.warning("step %d: no videos were measured: %s", step, error)
            return {}
        finally:
            self._free()
            if self.accelerator.device.type == "cuda":
                # The peak in the log is the training's.
                torch.cuda.reset_peak_memory_stats()
        return {name: value for name, value in found.items() if math.isfinite(value)}

    def _free(self) -> None:
        """Leave the device to whoever comes next."""
        gc.collect()
        if self.accelerator.device.type == "cuda":
            torch.cuda.empty_cache()


def _warn(step: int, found: dict[str, float]) -> None:
    for name, what in WATCHED.items():
        if found.get(name, 1.0) < LEAST_RATIO:
            logger.warning(
                "step %d: the %s of sampled videos is %.0f %% of the base model's: look at them, and think "
                "of fewer steps, a larger beta, or pairs with a bound on that ratio",
                step,
                what,
                100 * found[name],
            )
