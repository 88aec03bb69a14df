"""Errors of the reference for K fixed draws of every pair, computed once and kept beside the training.

The reference never changes, so with draws that repeat its two forward passes need not.

Legend: P pairs of the training, K fixed draws of each, B pairs of a micro-batch, N = 2B (winners, losers).
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from safetensors import SafetensorError, safe_open
from torch import Tensor

from storage.tables.ids import content_id
from trainer.config import TrainConfig
from trainer.data import MicroBatch, PairLoader, draw_fixed
from trainer.processes import agreed, most
from trainer.saving.checkpoint import write_tensors

_logger = logging.getLogger(__name__)

Place = tuple[int, int]
# (inputs) -> errors_N of the reference.
ReferenceErrors = Callable[[MicroBatch], Tensor]
_SAVE_SECONDS = 60.0
# What decides the errors: nothing that is trained, so another recipe on the same draws could use the file.
_DECIDES = (
    "model",
    "revision",
    "pairs",
    "seed",
    "precision",
    "min_timestep",
    "max_timestep",
    "cache_reference",
)


class ReferenceCache:
    """errors_PK2 (winner, loser) in fp64; what is not computed yet is NaN.

    Every process has a file of its own, written each minute, so that an interruption costs a minute. What
    another number of processes has computed is taken over.
    """

    def __init__(
        self, config: TrainConfig, loader: PairLoader, key: str, processes: int, process: int
    ) -> None:
        """`key` names everything that decides the errors: a file with another one is not used."""
        self._config, self._loader, self._key = config, loader, key
        self._process, self._processes = process, processes
        self._path = config.out_dir / "reference" / f"errors-{process}-of-{processes}.safetensors"
        shape = (len(loader.source), config.cache_reference, 2)
        self.errors_PK2 = self._read(self._path, shape)
        self._take_over(shape)

    def missing(self) -> list[Place]:
        """The (pair, draw) places of this process that are not computed yet."""
        unknown_PK = self.errors_PK2.isnan().any(dim=-1).tolist()
        return [(pair, number) for pair, number in self._own() if unknown_PK[pair][number]]

    def _own(self) -> list[Place]:
        """The places of this process."""
        pairs, draws, _ = self.errors_PK2.shape
        places = [(pair, number) for number in range(draws) for pair in range(pairs)]
        return places[self._process :: self._processes]

    def _take_over(self, shape: tuple[int, ...]) -> None:
        """What files of another number of processes hold and this process lacks."""
        lacking = len(self.missing())
        others = set(self._path.parent.glob("errors-*")) - set(
            self._path.parent.glob(f"errors-*-of-{self._processes}.*")
        )
        for path in sorted(others) if lacking else []:
            errors_PK2 = self._read(path, shape)
            self.errors_PK2 = torch.where(self.errors_PK2.isnan(), errors_PK2, self.errors_PK2)
        taken = lacking - len(self.missing())
        if taken:
            _logger.warning(
                "%d of %d errors of the reference are those that another number of processes computed",
                taken,
                len(self._own()),
            )

    def fill(
        self,
        reference: ReferenceErrors,
        timesteps: tuple[int, int],
        *,
        stopped: Callable[[], bool],
        rounds: Callable[[int], int] = lambda count: count,
        progress: Callable[[int, int], None] | None = None,
    ) -> bool:
        """Compute what is missing, in batches of the training's size. False when `stopped` said so first.

        `rounds` makes the number of batches that of the process with most: a sharded model runs in all
        processes or in none. One that is done computes a place and forgets it.
        """
        missing = self.missing()
        chunks = list(_chunks(missing, self._config.batch_size))
        chunks += [()] * (rounds(len(chunks)) - len(chunks))
        done, saved = 0, time.monotonic()
        try:
            for places in chunks:
                if stopped():
                    return False
                self._compute(places, reference, timesteps)
                done += len(places)
                if progress is not None:
                    progress(done, len(missing))
                if time.monotonic() - saved > _SAVE_SECONDS:
                    self._save()
                    saved = time.monotonic()
        finally:
            if done:
                self._save()
        return True

    def share(self, accelerator: Any) -> None:
        """Put the shares of all processes together."""
        if self._processes > 1:
            mine_PK2 = torch.zeros_like(self.errors_PK2)
            for place in self._own():
                mine_PK2[place] = self.errors_PK2[place]
            self.errors_PK2 = accelerator.reduce(mine_PK2.to(accelerator.device), reduction="sum").cpu()

    def of(self, places: Sequence[Place]) -> Tensor:
        """errors_N of a micro-batch: its winners', then its losers'."""
        errors_B2 = torch.stack([self.errors_PK2[place] for place in places])
        return errors_B2.t().reshape(-1)

    def _compute(
        self, places: Sequence[Place], reference: ReferenceErrors, timesteps: tuple[int, int]
    ) -> None:
        given = places or [(0, 0)]
        batch = self._loader.batch([pair for pair, _ in given])
        shape = batch.winner_BX.shape[1:]
        noise_BX, timestep_index_B = draw_fixed(self._config.seed, given, shape, timesteps)
        errors_N = reference(
            MicroBatch(batch=batch, noise_BX=noise_BX, timestep_index_B=timestep_index_B, fixed=tuple(given))
        )
        if not places:
            return
        for place, errors_2 in zip(places, errors_N.double().cpu().view(2, -1).t(), strict=True):
            self.errors_PK2[place] = errors_2

    def _read(self, path: Path, shape: tuple[int, ...]) -> Tensor:
        empty = torch.full(shape, torch.nan, dtype=torch.float64)
        if not path.exists():
            return empty
        try:
            with safe_open(path, framework="pt") as file:
                if (file.metadata() or {}).get("key") == self._key:
                    kept: Tensor = file.get_tensor("errors").clone()
                    return kept
            _logger.warning("%s is of another training: its errors are computed anew", path)
        except (SafetensorError, OSError) as error:
            _logger.warning("%s is damaged (%s): its errors are computed anew", path, error)
        return empty

    def _save(self) -> None:
        self._path.parent.mkdir(parents=True, exist_ok=True)
        write_tensors(self._path, {"errors": self.errors_PK2}, {"key": self._key})


def _chunks(places: Sequence[Place], size: int) -> Iterator[Sequence[Place]]:
    for start in range(0, len(places), size):
        yield places[start : start + size]


def reference_key(fixed: Mapping[str, Any]) -> str:
    """What names the errors of a training with these fixed settings."""
    decides = [fixed[name] for name in (*_DECIDES, "first_frame_weight") if name in fixed]
    # An adapter that is started from and not measured against decides nothing.
    if "from_adapter" in fixed and "reference" not in fixed:
        decides.append(fixed["from_adapter"])
    return content_id(decides)


def compute_ahead(
    config: TrainConfig,
    loader: PairLoader,
    accelerator: Accelerator,
    *,
    key: str,
    reference: ReferenceErrors,
    timesteps: tuple[int, int],
    stopped: Callable[[], bool],
    progress: Callable[[int, int], None] | None = None,
) -> ReferenceCache | None:
    """The errors of all pairs, every process computing its share; None when it was stopped before the end."""
    cache = ReferenceCache(config, loader, key, accelerator.num_processes, accelerator.process_index)
    finished = cache.fill(
        reference,
        timesteps,
        stopped=lambda: agreed(accelerator, stopped()),
        rounds=lambda count: most(accelerator, count),
        progress=progress if accelerator.is_main_process else None,
    )
    if not finished:
        return None
    cache.share(accelerator)
    return cache
