"""The training loop: steps, checkpoints, interruption, export.

OUT/config.json      the resolved configuration
    metrics.jsonl    a line per step (and trackers); some carry figures of held-out data, val/...
    checkpoints/     the last few, each an adapter too; the same call continues from the newest
    adapter/         written at the end, with its model card
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from functools import partial
from pathlib import Path

import torch
from accelerate import Accelerator
from accelerate.utils import InitProcessGroupKwargs
from torch import Tensor

from storage.adapters import NOTE_NAME
from storage.hub.provenance import Provenance
from trainer.config import TrainConfig
from trainer.data import (
    MicroBatch,
    MicroBatchSource,
    PairLoader,
    PairSource,
    Prefetcher,
    pairs_fingerprint,
)
from trainer.lora import load_lora_state, lora_parameters, lora_state
from trainer.processes import Interrupted, StopRequest, agreed, distribute, require_several
from trainer.reference import compute_ahead, reference_key
from trainer.saving.checkpoint import (
    Checkpoint,
    load_latest,
    load_optimizer_state,
    optimizer_state,
    save_checkpoint,
    write_json,
)
from trainer.saving.ending import Patience, chosen_checkpoint, write_adapter
from trainer.saving.export import export_adapter
from trainer.saving.metrics import MetricsLog, steps_done
from trainer.saving.saved import (
    Ending,
    TrainResult,
    checkpoint_of,
    fixed_of,
    require_continuable,
    require_same_config,
)
from trainer.saving.start import steps_of
from trainer.schedule import continued
from trainer.setup import (
    load_adapted,
    make_optimizer,
    require_fit,
    require_installed,
    shell_of,
    timestep_range,
    write_plan,
)
from trainer.step import OptimizerStep, PairForward
from trainer.watching.trackers import open_trackers
from trainer.watching.validation import OnSample, look, make_checks

_logger = logging.getLogger(__name__)

Progress = Callable[[int, dict[str, float]], None]
ReferenceProgress = Callable[[int, int], None]
_SAMPLING = timedelta(hours=3)


class Trainer:
    """The state of one training: model with adapter, optimiser, data, number of steps done."""

    def __init__(
        self,
        config: TrainConfig,
        pairs: PairSource,
        held_out: PairSource | None = None,
        on_sample: OnSample | None = None,
    ) -> None:
        self.config = config
        require_installed(config)
        # Videos of a large model take minutes, in which the other processes wait.
        patience = [InitProcessGroupKwargs(timeout=_SAMPLING)] if config.sample_every else []
        self.accelerator = Accelerator(
            cpu=config.device == "cpu", mixed_precision="no", kwargs_handlers=patience
        )
        require_several(self.accelerator, sharded=config.shard)
        self.loader = PairLoader(pairs, self.accelerator.device)
        self.start = require_fit(config, shell_of(config), self.loader.shapes)
        self.fixed = fixed_of(config, pairs_fingerprint(pairs), self.accelerator.num_processes)
        require_continuable(config, self.fixed)
        writes = self.accelerator.is_main_process and steps_done(config.out_dir) < config.steps
        # Before weights are loaded: one may want a key or a server.
        self.trackers = open_trackers(config) if writes else []
        self.family, self.plan = load_adapted(config, self.loader, self.accelerator.device, self.start)
        self.model = distribute(self.accelerator, self.family.transformer, sharded=config.shard)
        self.parameters = lora_parameters(self.family.transformer)
        self.optimizer = make_optimizer(config, self.parameters.values())
        self.timesteps = timestep_range(config, self.family)
        self.update = OptimizerStep(
            config=config,
            accelerator=self.accelerator,
            compute=PairForward(
                family=self.family,
                model=self.model,
                objective=config.objective,
                beta=config.beta,
                winner_anchor=config.winner_anchor,
                winner_weight=config.winner_weight,
                loss_weight_X=self.family.loss_weight(self.loader.shapes, config.first_frame_weight),
                together=self.plan.together,
            ),
            parameters=list(self.parameters.values()),
            optimizer=self.optimizer,
        )
        self.step = 0
        self.schedule = [{"from_step": 0, "steps": config.steps}]
        self.patience = Patience(config, 0)
        self.checks = make_checks(
            config,
            accelerator=self.accelerator,
            compute=self.update.compute,
            timesteps=self.timesteps,
            trained=self.loader.shapes,
            export=self._export,
            held_out=held_out,
            on_sample=on_sample,
        )

    @property
    def checkpoints(self) -> Path:
        """The folder of checkpoints."""
        return self.config.out_dir / "checkpoints"

    def resume(self) -> None:
        """Continue from the newest whole checkpoint, if there is one.

        Raises UserError when it was made with another configuration.
        """
        checkpoint = load_latest(self.checkpoints)
        if checkpoint is None:
            return
        require_same_config(checkpoint.config, self.fixed, self.config.out_dir)
        self.schedule = continued(checkpoint.schedule, self.config, checkpoint.step)
        changed = len(self.schedule) > len(checkpoint.schedule or self.schedule[:1])
        if changed and self.accelerator.is_main_process:
            _logger.warning(
                "from step %d on the learning rate follows the schedule of %d steps: this is not the same as "
                "having asked for them at first",
                checkpoint.step,
                self.config.steps,
            )
        load_lora_state(self.family.transformer, checkpoint.lora)
        load_optimizer_state(self.optimizer, self.parameters, checkpoint.optimizer)
        torch.set_rng_state(checkpoint.rng)
        self.step = checkpoint.step
        self.patience = Patience(self.config, self.step)
        _logger.info("continuing after step %d of %d", self.step, self.config.steps)

    @property
    def unfinished(self) -> bool:
        """Whether there are steps left to do."""
        return self.step < self.config.steps and not self.patience.exhausted

    def run(
        self,
        stop: StopRequest,
        progress: Progress | None = None,
        reference_progress: ReferenceProgress | None = None,
    ) -> None:
        """Do the steps that are left."""
        if not self.unfinished:
            return
        self.config.out_dir.mkdir(parents=True, exist_ok=True)
        if self.accelerator.is_main_process:
            write_plan(self.plan, self.config)
        if self.config.cache_reference:
            self.update.reference = compute_ahead(
                self.config,
                self.loader,
                self.accelerator,
                key=reference_key(self.fixed),
                reference=self.update.compute.reference_errors,
                timesteps=self.timesteps,
                stopped=lambda: stop.name is not None,
                progress=reference_progress,
            )
            if self.update.reference is None:
                self._interrupt(stop)
        with self._log() as log, self._inputs() as inputs:
            while self.unfinished:
                metrics = self._timed_step(inputs)
                metrics |= look(self.checks, self.step, stop, partial(agreed, self.accelerator))
                if log is not None:
                    log.write(self.step, metrics)
                best = self.patience.look(self.step, metrics)
                stopping = agreed(self.accelerator, stop.name is not None)
                last = not self.unfinished
                if last or best or stopping or self.step % self.config.checkpoint_every == 0:
                    self.checkpoint(log)
                if progress is not None and log is not None:
                    progress(self.step, metrics)
                if stopping and not last:
                    self._interrupt(stop)

    def finish(self, provenance: Provenance | None = None) -> TrainResult:
        """Write the adapter, that of the last step or of the best look, and its model card."""
        config = self.config
        ending = Ending(
            by="steps" if self.step >= config.steps else "patience",
            after=self.step,
            of=config.steps,
            patience=config.patience,
        )
        chosen = chosen_checkpoint(config, self.patience.best, self.step)
        if agreed(self.accelerator, not (chosen / NOTE_NAME).exists()):
            # Of a version whose checkpoints were no adapters.
            self.checkpoint()
            chosen = checkpoint_of(self.checkpoints, self.step)
        result = write_adapter(config, chosen, ending, self.loader.source, provenance)
        self.accelerator.wait_for_everyone()
        return result

    def _export(self, directory: Path) -> None:
        """Write the adapter as it is; every process must call it."""
        state = lora_state(self.family.transformer)
        if self.accelerator.is_main_process:
            self._write(directory, state)

    def _write(self, directory: Path, state: dict[str, Tensor]) -> Path:
        config, family = self.config, self.family
        return export_adapter(
            directory,
            state,
            component=family.component,
            base=(config.model, config.revision),
            family=family.name,
            rank=config.rank,
            alpha=config.alpha,
            targets=family.lora_targets,
            training={"objective": config.objective, "beta": config.beta, "pairs": self.fixed["pairs"]}
            | {"steps": self.step, "seed": config.seed, "lr": config.lr, "schedule": self.schedule}
            | steps_of(self.step, self.start, config.reference),
        )

    def _timed_step(self, inputs: Prefetcher[MicroBatch]) -> dict[str, float]:
        started = time.perf_counter()
        metrics = self.update.step(self.step, inputs)
        self.step += 1
        seconds = time.perf_counter() - started
        pairs = self.config.batch_size * self.config.grad_accum * self.accelerator.num_processes
        metrics |= {"seconds": seconds, "pairs_per_second": pairs / seconds}
        if self.accelerator.device.type == "cuda":
            metrics["peak_memory_bytes"] = float(torch.cuda.max_memory_allocated())
        return metrics

    def checkpoint(self, log: MetricsLog | None = None) -> None:
        """Write a checkpoint of the present step; every process must call it."""
        checkpoint = Checkpoint(
            step=self.step,
            config=self.fixed,
            schedule=self.schedule,
            lora=lora_state(self.family.transformer),
            optimizer=optimizer_state(self.optimizer, self.parameters),
            rng=torch.get_rng_state(),
        )
        if self.accelerator.is_main_process:
            if log is not None:
                log.sync()
            save_checkpoint(
                self.checkpoints,
                checkpoint,
                self.config.keep,
                export=self._write,
                spared=self.patience.best,
            )
        self.accelerator.wait_for_everyone()

    @contextmanager
    def _log(self) -> Iterator[MetricsLog | None]:
        """The log in the main process, None in the others."""
        if not self.accelerator.is_main_process:
            yield None
            return
        write_json(self.config.out_dir / "config.json", self.config.to_json())
        with MetricsLog(self.config.out_dir, self.step, self.trackers) as log:
            yield log

    @contextmanager
    def _inputs(self) -> Iterator[Prefetcher[MicroBatch]]:
        """This process's micro-batches, loaded ahead."""
        source = MicroBatchSource(
            self.config,
            self.loader,
            self.timesteps,
            self.accelerator.num_processes,
            self.accelerator.process_index,
        )
        ahead = Prefetcher(source.load, self.config.steps * self.config.grad_accum)
        try:
            yield ahead
        finally:
            ahead.close()

    def _interrupt(self, stop: StopRequest) -> None:
        raise Interrupted(stop.name or "a signal", self.step, self.config.steps, self.config.out_dir)
