"""The training loop: steps, checkpoints, interruption, export.

OUT/config.json      the resolved configuration
    metrics.jsonl    a line per step (and tensorboard/)
    checkpoints/     the last few; the same call continues from the newest
    adapter/         written at the end
"""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor

from storage.errors import UserError
from trainer.checkpoint import (
    Checkpoint,
    load_latest,
    load_optimizer_state,
    optimizer_state,
    require_same_config,
    save_checkpoint,
)
from trainer.config import TrainConfig, learning_rate
from trainer.data import (
    PairBatch,
    PairLoader,
    PairSource,
    open_pairs,
    pair_indices,
    pairs_fingerprint,
    require_same_model,
)
from trainer.errors import Interrupted, NonFiniteLossError
from trainer.export import export_adapter
from trainer.files import write_json
from trainer.lora import load_lora_state, lora_parameters, lora_state
from trainer.metrics import MetricsLog, recent_means
from trainer.setup import cpu_threads, load_adapted, timestep_range
from trainer.signals import StopRequest, stop_requests
from trainer.step import draw, preference_loss

logger = logging.getLogger(__name__)

Progress = Callable[[int, dict[str, float]], None]


@dataclass(frozen=True, kw_only=True)
class TrainResult:
    """A finished training; `metrics` are means over its last 20 steps."""

    adapter_dir: Path
    steps: int
    metrics: dict[str, float]


def train(
    config: TrainConfig, progress: Progress | None = None, *, source: PairSource | None = None
) -> TrainResult:
    """Train an adapter, or continue the training that `config.out_dir` holds, or return it when finished.

    `progress` is called after each step with the number of steps done and its metrics. `source` replaces the
    shards of `config.pairs_dir`. Raises UserError for pairs, model, or a resumed configuration that do not
    fit, NonFiniteLossError before the optimiser step it would spoil, and Interrupted after SIGINT or SIGTERM,
    when a checkpoint has been written.
    """
    with stop_requests() as stop, cpu_threads(config.threads):
        pairs = open_pairs(config.pairs_dir, config.split) if source is None else source
        require_same_model(pairs, config.model, config.revision)
        trainer = Trainer(config, pairs)
        trainer.resume()
        trainer.run(stop, progress)
        return trainer.finish()


class Trainer:
    """The state of one training: model with adapter, optimiser, data, number of steps done."""

    def __init__(self, config: TrainConfig, pairs: PairSource) -> None:
        self.config = config
        self.accelerator = Accelerator(cpu=config.device == "cpu", mixed_precision="no")
        self.loader = PairLoader(pairs, self.accelerator.device)
        self.family = load_adapted(config, self.loader)
        self.parameters = lora_parameters(self.family.transformer)
        self.model = self.accelerator.prepare_model(self.family.transformer)
        self.optimizer = torch.optim.AdamW(
            self.parameters.values(), lr=config.lr, weight_decay=config.weight_decay
        )
        self.counted = self.family.counted(self.loader.shapes)
        self.timesteps = timestep_range(config, self.family)
        self.fixed = {
            **config.fixed_fields(),
            "pairs": pairs_fingerprint(pairs),
            "processes": self.accelerator.num_processes,
        }
        self.step = 0

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
        logger.info("continuing after step %d of %d", self.step, self.config.steps)

    def run(self, stop: StopRequest, progress: Progress | None) -> None:
        """Do the steps that are left."""
        if self.step >= self.config.steps:
            return
        self.config.out_dir.mkdir(parents=True, exist_ok=True)
        with self._log() as log:
            while self.step < self.config.steps:
                metrics = self._timed_step()
                if log is not None:
                    log.write(self.step, metrics)
                stopping = self._agreed(stop.name is not None)
                last = self.step == self.config.steps
                if last or stopping or self.step % self.config.checkpoint_every == 0:
                    self._checkpoint(log)
                if progress is not None and log is not None:
                    progress(self.step, metrics)
                if stopping and not last:
                    name = stop.name or "a signal"
                    raise Interrupted(name, self.step, self.config.steps, self.config.out_dir)

    def finish(self) -> TrainResult:
        """Write the adapter."""
        config, family = self.config, self.family
        adapter_dir = config.out_dir / "adapter"
        if self.accelerator.is_main_process:
            export_adapter(
                adapter_dir,
                lora_state(family.transformer),
                component=family.component,
                base=(config.model, config.revision),
                family=family.name,
                rank=config.rank,
                alpha=config.alpha,
                targets=family.lora_targets,
                training={"objective": config.objective, "beta": config.beta, "pairs": self.fixed["pairs"]}
                | {"steps": self.step, "seed": config.seed, "lr": config.lr},
            )
        self.accelerator.wait_for_everyone()
        return TrainResult(adapter_dir=adapter_dir, steps=self.step, metrics=recent_means(config.out_dir))

    def _timed_step(self) -> dict[str, float]:
        started = time.perf_counter()
        metrics = self._optimise()
        seconds = time.perf_counter() - started
        pairs = self.config.batch_size * self.config.grad_accum * self.accelerator.num_processes
        metrics |= {"seconds": seconds, "pairs_per_second": pairs / seconds}
        if self.accelerator.device.type == "cuda":
            metrics["peak_memory_bytes"] = float(torch.cuda.max_memory_allocated())
        return metrics

    def _optimise(self) -> dict[str, float]:
        """One optimiser step over the micro-batches; not taken when a loss or gradient is not finite."""
        self.optimizer.zero_grad(set_to_none=True)
        totals: dict[str, float] = {}
        pair_ids: tuple[str, ...] = ()
        for micro in range(self.config.grad_accum):
            batch, noise, timestep = self._inputs(micro)
            pair_ids += batch.pair_ids
            with self._synchronised(micro):
                metrics = self._accumulate(batch, noise, timestep)
            for name, value in metrics.items():
                totals[name] = totals.get(name, 0.0) + value / self.config.grad_accum
        norm = torch.nn.utils.clip_grad_norm_(list(self.parameters.values()), self.config.max_grad_norm)
        grad_norm = float(norm)
        if not math.isfinite(grad_norm):
            raise NonFiniteLossError("the gradient", self.step + 1, pair_ids)
        rate = learning_rate(self.config, self.step)
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        self.optimizer.step()
        self.step += 1
        return totals | {"grad_norm": grad_norm, "lr": rate}

    def _accumulate(self, batch: PairBatch, noise: Tensor, timestep: Tensor) -> dict[str, float]:
        loss, metrics = preference_loss(
            self.family, self.model, batch, noise, timestep, self.config.beta, self.counted
        )
        names = ["loss", *metrics]
        values = torch.stack([loss.detach(), *metrics.values()])
        if self.accelerator.num_processes > 1:
            # Before the backward pass: a process that stopped alone would leave the others waiting in it.
            values = self.accelerator.reduce(values, reduction="mean")
        found = dict(zip(names, values.tolist(), strict=True))
        for name, value in found.items():
            # An infinite margin can hide behind a loss of zero, so every figure is looked at.
            if not math.isfinite(value):
                raise NonFiniteLossError(f"the {name}", self.step + 1, batch.pair_ids)
        self.accelerator.backward(loss / self.config.grad_accum)
        return found

    def _inputs(self, micro: int) -> tuple[PairBatch, Tensor, Tensor]:
        """This process's share of a micro-batch: slots of the global batch decide its pairs and draws."""
        config, size = self.config, self.config.batch_size
        share = micro * self.accelerator.num_processes + self.accelerator.process_index
        slots = range(share * size, (share + 1) * size)
        per_step = size * config.grad_accum * self.accelerator.num_processes
        first = self.step * per_step + slots.start
        batch = self.loader.batch(pair_indices(config.seed, len(self.loader.source), first, size))
        noise, timestep = draw(config.seed, self.step, slots, batch.winner_BX.shape[1:], self.timesteps)
        return batch, noise, timestep

    def _checkpoint(self, log: MetricsLog | None) -> None:
        if log is not None:
            log.sync()
            checkpoint = Checkpoint(
                step=self.step,
                config=self.fixed,
                lora=lora_state(self.family.transformer),
                optimizer=optimizer_state(self.optimizer, self.parameters),
                rng=torch.get_rng_state(),
            )
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

    def _synchronised(self, micro: int) -> Any:
        """Gradients are exchanged between processes in the last micro-batch only."""
        if self.accelerator.num_processes > 1 and micro + 1 < self.config.grad_accum:
            return self.accelerator.no_sync(self.model)
        return nullcontext()

    def _agreed(self, flag: bool) -> bool:
        """Whether any process wants it: all must leave the loop at the same step."""
        if self.accelerator.num_processes == 1:
            return flag
        value = torch.tensor(float(flag), device=self.accelerator.device)
        return bool(self.accelerator.reduce(value, reduction="sum") > 0)
