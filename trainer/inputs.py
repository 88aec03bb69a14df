"""What each micro-batch of a training is made of, loaded a little ahead of its use.

Legend: B pairs of a micro-batch, X the axes of a latent video, K fixed draws of a pair.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Generic, TypeVar

import torch
from torch import Tensor

from trainer.config import TrainConfig
from trainer.data import PairBatch, PairLoader, derived_seed, pair_indices

T = TypeVar("T")
AHEAD = 2


@dataclass(frozen=True, kw_only=True)
class Inputs:
    """A micro-batch with its draws; `fixed` names them (pair, draw) when they are of the K fixed ones."""

    batch: PairBatch
    noise_BX: Tensor
    drawn_B: Tensor
    fixed: tuple[tuple[int, int], ...] | None = None


def draw_from(
    seeds: Sequence[int], latent_shape: Sequence[int], timesteps: tuple[int, int]
) -> tuple[Tensor, Tensor]:
    """(noise_BX fp32, drawn_B long), one per seed, on the CPU.

    `timesteps` are the first and last training step of the scheduler that may be drawn.
    """
    low, high = timesteps
    noise, chosen = [], []
    for seed in seeds:
        generator = torch.Generator().manual_seed(seed)
        chosen.append(torch.randint(low, high + 1, (), generator=generator))
        noise.append(torch.randn(tuple(latent_shape), generator=generator))
    return torch.stack(noise), torch.stack(chosen)


def draw(
    seed: int, step: int, slots: Sequence[int], latent_shape: Sequence[int], timesteps: tuple[int, int]
) -> tuple[Tensor, Tensor]:
    """The draws of the pairs at these slots of a step's global batch.

    Each is a function of (seed, step, slot) alone, so that neither resuming nor the number of processes nor
    the size of a micro-batch changes it.
    """
    return draw_from([derived_seed(seed, "draw", step, slot) for slot in slots], latent_shape, timesteps)


def draw_fixed(
    seed: int,
    places: Sequence[tuple[int, int]],
    latent_shape: Sequence[int],
    timesteps: tuple[int, int],
) -> tuple[Tensor, Tensor]:
    """The draws of these (pair, number) places: the same in every epoch."""
    return draw_from([derived_seed(seed, "fixed", *place) for place in places], latent_shape, timesteps)


class InputSource:
    """The micro-batches of one process: a function of their number alone."""

    def __init__(
        self,
        config: TrainConfig,
        loader: PairLoader,
        timesteps: tuple[int, int],
        processes: int = 1,
        process: int = 0,
    ) -> None:
        self._config, self._loader, self._timesteps = config, loader, timesteps
        self._processes, self._process = processes, process

    def load(self, number: int) -> Inputs:
        """Micro-batch `number`, counted over all steps: slots of the global batch decide pairs and draws."""
        config, size, count = self._config, self._config.batch_size, len(self._loader.source)
        step, micro = divmod(number, config.grad_accum)
        first_slot = (micro * self._processes + self._process) * size
        slots = range(first_slot, first_slot + size)
        first = step * size * config.grad_accum * self._processes + first_slot
        indices = pair_indices(config.seed, count, first, size)
        batch = self._loader.batch(indices)
        shape = batch.winner_BX.shape[1:]
        if not config.cache_reference:
            noise_BX, drawn_B = draw(config.seed, step, slots, shape, self._timesteps)
            return Inputs(batch=batch, noise_BX=noise_BX, drawn_B=drawn_B)
        epochs = [position // count for position in range(first, first + size)]
        fixed = tuple(
            (index, epoch % config.cache_reference) for index, epoch in zip(indices, epochs, strict=True)
        )
        noise_BX, drawn_B = draw_fixed(config.seed, fixed, shape, self._timesteps)
        return Inputs(batch=batch, noise_BX=noise_BX, drawn_B=drawn_B, fixed=fixed)


class Ahead(Generic[T]):
    """Calls `load(0)`, `load(1)`, ... in a thread of its own, a few ahead of the one that is asked for.

    An error of `load` is raised by the `get` of its number.
    """

    def __init__(self, load: Callable[[int], T], end: int, ahead: int = AHEAD) -> None:
        self._load, self._end, self._ahead = load, end, ahead
        self._pool = ThreadPoolExecutor(max_workers=1, thread_name_prefix="inputs")
        self._futures: dict[int, Future[T]] = {}

    def get(self, number: int) -> T:
        """What `load(number)` gives; numbers are asked for in order, starting anywhere."""
        for wanted in range(number, min(number + 1 + self._ahead, self._end)):
            if wanted not in self._futures:
                self._futures[wanted] = self._pool.submit(self._load, wanted)
        return self._futures.pop(number).result()

    def close(self) -> None:
        """Stop loading."""
        self._pool.shutdown(wait=True, cancel_futures=True)
