"""The training loop: steps, checkpoints, interruption, export.

OUT/config.json      the resolved configuration
    metrics.jsonl    a line per step (and tensorboard/); some carry figures of held-out data, val/...
    checkpoints/     the last few; the same call continues from the newest
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

from storage.errors import UserError
from storage.hub.provenance import Provenance
from storage.pairs.dataset import PairDataset
from storage.trained_on import write_trained_on
from trainer.checkpoint import (
    Checkpoint,
    load_latest,
    load_optimizer_state,
    optimizer_state,
    save_checkpoint,
    write_json,
)
from trainer.config import TrainConfig
from trainer.data import (
    MicroBatch,
    MicroBatchSource,
    PairLoader,
    PairSource,
    Prefetcher,
    open_pairs,
    pairs_fingerprint,
    require_same_model,
)
from trainer.export import CardFacts, export_adapter, write_card
from trainer.lora import load_lora_state, lora_parameters, lora_state
from trainer.metrics import MetricsLog, recent_means
from trainer.processes import Interrupted, StopRequest, agreed, distribute, stop_requests
from trainer.reference import compute_ahead, reference_key
from trainer.saved import TrainResult, fixed_of, require_same_config
from trainer.setup import (
    cpu_threads,
    load_adapted,
    make_optimizer,
    require_optimizer,
    timestep_range,
    write_plan,
)
from trainer.step import OptimizerStep, PairForward
from trainer.validation import OnSample, look, make_checks, validation_pairs

_logger = logging.getLogger(__name__)

Progress = Callable[[int, dict[str, float]], None]
ReferenceProgress = Callable[[int, int], None]
_SAMPLING = timedelta(hours=3)


def train(
    config: TrainConfig,
    progress: Progress | None = None,
    *,
    source: PairSource | None = None,
    held_out: PairSource | None = None,
    reference_progress: ReferenceProgress | None = None,
    on_sample: OnSample | None = None,
    provenance: Provenance | None = None,
) -> TrainResult:
    """Train an adapter, or continue the training that `config.out_dir` holds, or return it when finished.

    `progress` is called after each step with the number of steps done and its metrics, `reference_progress`
    with done and all while errors of the reference are computed ahead, `on_sample` as sampled.py says.
    `source` and `held_out` replace the shards of `config.pairs_dir`. `provenance` is for the model card.

    Raises UserError for pairs, model, or a resumed configuration that do not fit, NonFiniteLossError before
    the optimiser step it would spoil, and Interrupted after SIGINT or SIGTERM, when a checkpoint has been
    written.
    """
    with stop_requests() as stop, cpu_threads(config.threads):
        pairs = open_pairs(config.pairs_dir, config.split, config.max_pairs) if source is None else source
        require_same_model(pairs, config.model, config.revision)
        trainer = Trainer(config, pairs, validation_pairs(config, held_out), on_sample)
        trainer.resume()
        trainer.run(stop, progress, reference_progress)
        return trainer.finish(provenance)


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
        require_optimizer(config)
        # Videos of a large model take minutes, in which the other processes wait.
        patience = [InitProcessGroupKwargs(timeout=_SAMPLING)] if config.sample_every else []
        self.accelerator = Accelerator(
            cpu=config.device == "cpu", mixed_precision="no", kwargs_handlers=patience
        )
        self.loader = PairLoader(pairs, self.accelerator.device)
        self.family, self.plan = load_adapted(config, self.loader, self.accelerator.device)
        self.model = distribute(self.accelerator, self.family.transformer, sharded=config.shard)
        self.parameters = lora_parameters(self.family.transformer)
        self.optimizer = make_optimizer(config, self.parameters.values())
        self.timesteps = timestep_range(config, self.family)
        self.fixed = fixed_of(config, pairs_fingerprint(pairs), self.accelerator.num_processes)
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
        if checkpoint.step > self.config.steps:
            raise UserError(
                f"the training in {self.config.out_dir} has done {checkpoint.step} steps, steps is now "
                f"{self.config.steps}: give at least as many, or another output name"
            )
        load_lora_state(self.family.transformer, checkpoint.lora)
        load_optimizer_state(self.optimizer, self.parameters, checkpoint.optimizer)
        torch.set_rng_state(checkpoint.rng)
        self.step = checkpoint.step
        _logger.info("continuing after step %d of %d", self.step, self.config.steps)

    def run(
        self,
        stop: StopRequest,
        progress: Progress | None = None,
        reference_progress: ReferenceProgress | None = None,
    ) -> None:
        """Do the steps that are left."""
        if self.step >= self.config.steps:
            return
        self.config.out_dir.mkdir(parents=True, exist_ok=True)
        if self.accelerator.is_main_process:
            write_plan(self.plan, self.config.out_dir)
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
            while self.step < self.config.steps:
                metrics = self._timed_step(inputs)
                metrics |= look(self.checks, self.step, stop, partial(agreed, self.accelerator))
                if log is not None:
                    log.write(self.step, metrics)
                stopping = agreed(self.accelerator, stop.name is not None)
                last = self.step == self.config.steps
                if last or stopping or self.step % self.config.checkpoint_every == 0:
                    self._checkpoint(log)
                if progress is not None and log is not None:
                    progress(self.step, metrics)
                if stopping and not last:
                    self._interrupt(stop)

    def finish(self, provenance: Provenance | None = None) -> TrainResult:
        """Write the adapter and its model card."""
        adapter_dir, metrics = self.config.out_dir / "adapter", recent_means(self.config.out_dir)
        self._export(adapter_dir)
        if self.accelerator.is_main_process:
            facts = CardFacts(
                config=self.config,
                targets=self.family.lora_targets,
                image_to_video=self.loader.shapes.image is not None,
                steps=self.step,
                processes=self.accelerator.num_processes,
                pairs=len(self.loader.source),
                metrics=metrics,
                provenance=provenance,
            )
            if isinstance(self.loader.source, PairDataset):
                write_trained_on(
                    adapter_dir,
                    self.loader.source.directory,
                    self.config.split,
                    self.config.max_pairs,
                    started_from=getattr(self.config, "from_adapter", None),
                )
            # Last: an adapter with a card is a finished one.
            write_card(adapter_dir, facts)
        self.accelerator.wait_for_everyone()
        return TrainResult(adapter_dir=adapter_dir, steps=self.step, metrics=metrics)

    def _export(self, directory: Path) -> None:
        """Write the adapter as it is; every process must call it."""
        config, family = self.config, self.family
        state = lora_state(family.transformer)
        if self.accelerator.is_main_process:
            export_adapter(
                directory,
                state,
                component=family.component,
                base=(config.model, config.revision),
                family=family.name,
                rank=config.rank,
                alpha=config.alpha,
                targets=family.lora_targets,
                training={"objective": config.objective, "beta": config.beta, "pairs": self.fixed["pairs"]}
                | {"steps": self.step, "seed": config.seed, "lr": config.lr},
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

    def _checkpoint(self, log: MetricsLog | None) -> None:
        checkpoint = Checkpoint(
            step=self.step,
            config=self.fixed,
            lora=lora_state(self.family.transformer),
            optimizer=optimizer_state(self.optimizer, self.parameters),
            rng=torch.get_rng_state(),
        )
        if log is not None:
            log.sync()
            save_checkpoint(self.checkpoints, checkpoint, self.config.keep)
        self.accelerator.wait_for_everyone()

    @contextmanager
    def _log(self) -> Iterator[MetricsLog | None]:
        """The log in the main process, None in the others."""
        if not self.accelerator.is_main_process:
            yield None
            return
        write_json(self.config.out_dir / "config.json", self.config.to_json())
        with MetricsLog(self.config.out_dir, self.step, tensorboard=self.config.tensorboard) as log:
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
