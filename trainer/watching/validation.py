"""What looks at a training between its steps: held-out pairs under fixed draws, and sampled videos.

Legend: V places (a pair under one draw), B places of a batch, N = 2B samples (winners, then losers), X the
axes of a latent video.
"""

from __future__ import annotations

import gc
import logging
import math
import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Protocol

import torch
from accelerate import Accelerator
from torch import Tensor

from storage.errors import UserError
from trainer.config import TrainConfig
from trainer.data import MicroBatch, PairLoader, PairSource, derived_seed, open_pairs, require_same_model
from trainer.families.base import PairShapes
from trainer.processes import StopRequest
from trainer.saving.metrics import HELD_OUT
from trainer.step import PairForward

_logger = logging.getLogger(__name__)

# (steps done, adapter folder, whether to stop) -> figures; those in _WATCHED are ratios to the base model.
OnSample = Callable[[int, Path, Callable[[], bool]], dict[str, float]]
_WATCHED = {"motion_ratio": "motion", "sharpness_ratio": "sharpness"}
# DPO is known to suppress motion and detail: a fall by more than a tenth is worth a word.
_LEAST_RATIO = 0.9


@dataclass(frozen=True, kw_only=True)
class _SampledValidation:
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
            with _undisturbed(self.accelerator.device):
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
            _logger.warning("step %d: no videos were measured: %s", step, error)
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
    for name, what in _WATCHED.items():
        if found.get(name, 1.0) < _LEAST_RATIO:
            _logger.warning(
                "step %d: the %s of sampled videos is %.0f %% of the base model's: look at them, and think "
                "of fewer steps, a larger beta, or pairs with a bound on that ratio",
                step,
                what,
                100 * found[name],
            )


# Where in the range of timesteps a pair is looked at: the middles of four equal parts.
LEVELS = (0.125, 0.375, 0.625, 0.875)
# (flag of this process) -> whether any process raises it; a collective.
Agreed = Callable[[bool], bool]


class Check(Protocol):
    """Something that looks at a training between two steps and leaves no trace in it."""

    def due(self, step: int) -> bool:
        """Whether to look after this many steps."""

    def figures(self, step: int, stop: StopRequest, agreed: Agreed) -> dict[str, float]:
        """What it sees, by name; none when a stop is requested first. Every process calls it."""


@dataclass(kw_only=True)
class PairValidation:
    """Loss and advantages on held-out pairs; noise and timesteps follow from the seed alone.

    Every figure is over the same places each time, so that a change is a change of the policy. The
    reference's errors are computed at the first look. Processes share the places.
    """

    config: TrainConfig
    loader: PairLoader
    compute: PairForward
    timesteps: tuple[int, int]
    accelerator: Accelerator
    _reference_V2: Tensor | None = field(default=None, init=False)

    def due(self, step: int) -> bool:
        """Every `validate_every` steps and after the last."""
        return step == self.config.steps or step % self.config.validate_every == 0

    def figures(self, step: int, stop: StopRequest, agreed: Agreed) -> dict[str, float]:
        """`loss` and the scalars of `preference_loss`, of the same meaning as in training.

        For supervised training the loss is the winners' error; the others compare with the base model, and
        `saturated`, which needs a beta, is left out. What is not finite is left out with a warning.
        """

        def stopped() -> bool:
            return agreed(stop.name is not None)

        with _undisturbed(self.accelerator.device):
            if self._reference_V2 is None:
                self._reference_V2 = self._errors(self.compute.reference_errors, stopped)
            policy_V2 = None if self._reference_V2 is None else self._errors(self._policy_errors, stopped)
        if policy_V2 is None or self._reference_V2 is None:
            return {}
        found = self._described(policy_V2, self._reference_V2)
        for name in [name for name, value in found.items() if not math.isfinite(value)]:
            _logger.warning("step %d: the %s of the held-out pairs is %s", step, name, found.pop(name))
        return found

    def _described(self, policy_V2: Tensor, reference_V2: Tensor) -> dict[str, float]:
        supervised = self.config.objective == "sft"
        compute = replace(self.compute, objective="dpo") if supervised else self.compute
        loss, metrics = compute.loss(policy_V2.t().flatten(), reference_V2.t().flatten())
        found = {"loss": loss.item(), **{name: value.item() for name, value in metrics.items()}}
        if supervised:
            found["loss"] = found["winner_error"]
            del found["saturated"]
        return found

    def _policy_errors(self, inputs: MicroBatch) -> Tensor:
        return self.compute.policy_errors(inputs)

    @property
    def _places(self) -> list[tuple[int, int]]:
        """(pair, level): the first pairs in the order of their ids, which are hashes."""
        pairs = min(self.config.validate_pairs, len(self.loader.source))
        return [(pair, level) for level in range(len(LEVELS)) for pair in range(pairs)]

    def _errors(self, of: Callable[[MicroBatch], Tensor], stopped: Callable[[], bool]) -> Tensor | None:
        """errors_V2 (winner, loser) in fp64; None when stopped."""
        places, size = self._places, self.config.batch_size
        processes, process = self.accelerator.num_processes, self.accelerator.process_index
        errors_V2 = torch.zeros(len(places), 2, dtype=torch.float64)
        own = range(len(places))[process::processes]
        # The first process has most. A sharded model runs in all processes or in none: one that is done
        # repeats a place and forgets it.
        for start in range(0, len(range(0, len(places), processes)), size):
            if stopped():
                return None
            mine = list(own[start : start + size])
            errors_N = of(self._inputs([places[number] for number in mine or [0]]))
            if mine:
                errors_V2[mine] = errors_N.double().cpu().view(2, -1).t()
        if processes > 1:
            shared: Tensor = self.accelerator.reduce(errors_V2.to(self.accelerator.device), reduction="sum")
            errors_V2 = shared.cpu()
        return errors_V2

    def _inputs(self, places: Sequence[tuple[int, int]]) -> MicroBatch:
        batch = self.loader.batch([pair for pair, _ in places])
        noise, drawn = [], []
        low, high = self.timesteps
        for place in places:
            generator = torch.Generator().manual_seed(derived_seed(self.config.seed, "validate", *place))
            noise.append(torch.randn(batch.winner_BX.shape[1:], generator=generator))
            drawn.append(low + round(LEVELS[place[1]] * (high - low)))
        return MicroBatch(batch=batch, noise_BX=torch.stack(noise), timestep_index_B=torch.tensor(drawn))


def validation_pairs(config: TrainConfig, given: PairSource | None = None) -> PairSource | None:
    """The held-out pairs, or None when the configuration asks for none.

    Raises UserError when there are none of that split or they are of another model.
    """
    if not config.validate_every:
        return None
    try:
        pairs = open_pairs(config.pairs_dir, config.validate_split) if given is None else given
    except UserError as error:
        raise UserError(
            f"validation: {error}; gpa pair --split all writes the pairs of every split that was sampled, "
            "and validate_every 0 goes without"
        ) from error
    require_same_model(pairs, config.model, config.revision)
    return pairs


def _require_same_shapes(held_out: PairShapes, trained: PairShapes) -> None:
    """Raise UserError when held-out pairs are not of the shape of those trained on."""
    if held_out != trained:
        raise UserError(
            f"the held-out pairs have {held_out}, those to train on {trained}: pair again, with candidates "
            "of one preset only"
        )


@contextmanager
def _undisturbed(device: torch.device) -> Iterator[None]:
    """Whatever is drawn or set inside, torch's generators and threads are afterwards what they were."""
    threads = torch.get_num_threads()
    devices = [device] if device.type == "cuda" else []
    try:
        with torch.random.fork_rng(devices=devices):
            yield
    finally:
        torch.set_num_threads(threads)


def make_checks(
    config: TrainConfig,
    *,
    accelerator: Accelerator,
    compute: PairForward,
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
        _require_same_shapes(loader.shapes, trained)
        checks.append(
            PairValidation(
                config=config, loader=loader, compute=compute, timesteps=timesteps, accelerator=accelerator
            )
        )
    if config.sample_every and on_sample is not None:
        checks.append(
            _SampledValidation(config=config, accelerator=accelerator, export=export, on_sample=on_sample)
        )
    return checks


def look(checks: Sequence[Check], step: int, stop: StopRequest, agreed: Agreed) -> dict[str, float]:
    """What the checks that are due after this many steps find, under the names of held-out figures."""
    found: dict[str, float] = {}
    for check in checks:
        if check.due(step):
            found |= check.figures(step, stop, agreed)
    return {f"{HELD_OUT}{name}": value for name, value in found.items()}
