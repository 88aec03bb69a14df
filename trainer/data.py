"""Which pairs a step sees, the batches made of them, and their loading a little ahead of use.

Legend: B pairs, X the axes of a latent video in its family's order, L tokens, D their width.

Legend: B pairs of a micro-batch, X the axes of a latent video, K fixed draws of a pair.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, Protocol, TypeVar

import torch
from torch import Tensor

from storage.errors import UserError
from storage.pairs.dataset import PairDataset
from storage.tables.ids import content_id
from storage.tables.schemas import PAIR_TENSORS
from trainer.config import TrainConfig
from trainer.families.base import Condition, PairShapes

_CACHE_BYTES = 512 * 2**20


class PairSource(Protocol):
    """What the trainer needs of a set of pairs; `storage.pairs.dataset.PairDataset` is the real one."""

    model: str
    """Name of the base model that the pairs were sampled from."""
    revision: str
    latent_shape: tuple[int, ...]
    """X of every pair."""

    def __len__(self) -> int:
        """Number of pairs."""

    def read(self, index: int) -> Any:
        """A row as `storage.pairs.dataset.PairRow` has it."""


@dataclass(frozen=True, kw_only=True)
class PairBatch:
    """B pairs; winner and loser of one share everything else."""

    pair_ids: tuple[str, ...]
    winner_BX: Tensor
    loser_BX: Tensor
    condition: Condition

    def __post_init__(self) -> None:
        if self.winner_BX.shape != self.loser_BX.shape or self.winner_BX.ndim != 5:
            raise ValueError(
                "winner and loser must be [B, X] of one shape with five axes, got "
                f"{list(self.winner_BX.shape)} and {list(self.loser_BX.shape)}: check the pair"
            )


def derived_seed(seed: int, purpose: str, *keys: int) -> int:
    """A seed below 2**62 of its own for every purpose and key: no generator is carried from step to step."""
    return int(content_id("train", seed, purpose, list(keys))[:16], 16) >> 2


def pair_indices(seed: int, count: int, first: int, number: int) -> list[int]:
    """The pairs at positions first to first + number of an endless walk: a new permutation every epoch."""
    permutations: dict[int, list[int]] = {}
    indices = []
    for position in range(first, first + number):
        epoch, offset = divmod(position, count)
        if epoch not in permutations:
            generator = torch.Generator().manual_seed(derived_seed(seed, "epoch", epoch))
            permutations[epoch] = torch.randperm(count, generator=generator).tolist()
        indices.append(permutations[epoch][offset])
    return indices


class PairLoader:
    """Batches of any pairs by index; keeps decoded pairs in memory while the whole set is small."""

    def __init__(self, source: PairSource, device: torch.device, cache_bytes: int = _CACHE_BYTES) -> None:
        """Read one pair to learn the sizes. Raises UserError when there is none."""
        if len(source) == 0:
            raise UserError("there are no pairs to train on: run the pairing again with a smaller gap")
        self.source = source
        self.device = device
        self.first = source.read(0)
        self._cache: dict[int, Any] | None = (
            {} if _row_bytes(self.first) * len(source) < cache_bytes else None
        )

    def batch(self, indices: Sequence[int]) -> PairBatch:
        """The pairs at these indices, stacked on the device."""
        rows = [self._row(index) for index in indices]
        return PairBatch(
            pair_ids=tuple(row.pair_id for row in rows),
            winner_BX=self._stack(rows, "winner_latents"),
            loser_BX=self._stack(rows, "loser_latents"),
            condition=Condition(
                prompt_BLD=self._stack(rows, "prompt_embeds"),
                image_BX=self._stack_optional(rows, "image_latents"),
                image_embeds_BLD=self._stack_optional(rows, "image_embeds"),
            ),
        )

    @property
    def shapes(self) -> PairShapes:
        """What the first pair holds; `batch` refuses a pair that differs."""
        row = self.first
        return PairShapes(
            latent=tuple(row.winner_latents.shape),
            prompt=tuple(row.prompt_embeds.shape),
            image=None if row.image_latents is None else tuple(row.image_latents.shape),
            image_embeds=None if row.image_embeds is None else tuple(row.image_embeds.shape),
            num_frames=row.num_frames,
        )

    def _row(self, index: int) -> Any:
        if self._cache is None:
            return self.source.read(index)
        if index not in self._cache:
            self._cache[index] = self.source.read(index)
        return self._cache[index]

    def _stack_optional(self, rows: Sequence[Any], name: str) -> Tensor | None:
        if getattr(self.first, name) is not None:
            return self._stack(rows, name)
        for row in rows:
            if getattr(row, name) is not None:
                raise UserError(
                    f"pair {row.pair_id} has {name}, the others none: pair again, with candidates of prompts "
                    "that all have a first frame or none"
                )
        return None

    def _stack(self, rows: Sequence[Any], name: str) -> Tensor:
        tensors = []
        expected = getattr(self.first, name).shape
        for row in rows:
            if row.num_frames != self.first.num_frames:
                raise UserError(
                    f"pair {row.pair_id} is of videos of {row.num_frames} frames, the others of "
                    f"{self.first.num_frames}: pair again, with candidates of one preset only"
                )
            tensor = getattr(row, name)
            if tensor is None or tensor.shape != expected:
                found = None if tensor is None else list(tensor.shape)
                raise UserError(
                    f"pair {row.pair_id} has {name} of shape {found}, the others {list(expected)}: "
                    "pair again, with candidates of one preset only"
                )
            tensors.append(tensor)
        return torch.stack(tensors).to(self.device)


def open_pairs(directory: Path, split: str | None, limit: int | None = None) -> PairSource:
    """The pair shards of a directory, at most `limit` pairs. Raises UserError for none of this split."""
    return PairDataset(directory, split, limit)


def require_same_model(source: PairSource, model: str, revision: str) -> None:
    """Raise UserError when the pairs were sampled from another model or revision than the one trained."""
    for field, found, expected in (("model", source.model, model), ("revision", source.revision, revision)):
        if found != expected:
            raise UserError(
                f"the pairs were sampled from {field} {found}, the model to train is {field} {expected}: "
                "train the model that the pairs were sampled from, or sample and pair again with this one"
            )


def pairs_fingerprint(source: PairSource) -> str:
    """What the set of pairs is, wherever it lies, so that a training is not resumed on another one."""
    if isinstance(source, PairDataset):
        return source.fingerprint
    return content_id([source.read(index).pair_id for index in range(len(source))])


def _row_bytes(row: Any) -> int:
    tensors = [getattr(row, name) for name in PAIR_TENSORS]
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors if tensor is not None)


T = TypeVar("T")
_AHEAD = 2


@dataclass(frozen=True, kw_only=True)
class MicroBatch:
    """A micro-batch with its draws; `fixed` names them (pair, draw) when they are of the K fixed ones."""

    batch: PairBatch
    noise_BX: Tensor
    timestep_index_B: Tensor
    fixed: tuple[tuple[int, int], ...] | None = None


def draw_from(
    seeds: Sequence[int], latent_shape: Sequence[int], timesteps: tuple[int, int]
) -> tuple[Tensor, Tensor]:
    """(noise_BX fp32, timestep_index_B long), one per seed, on the CPU.

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


class MicroBatchSource:
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

    def load(self, number: int) -> MicroBatch:
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
            noise_BX, timestep_index_B = draw(config.seed, step, slots, shape, self._timesteps)
            return MicroBatch(batch=batch, noise_BX=noise_BX, timestep_index_B=timestep_index_B)
        epochs = [position // count for position in range(first, first + size)]
        fixed = tuple(
            (index, epoch % config.cache_reference) for index, epoch in zip(indices, epochs, strict=True)
        )
        noise_BX, timestep_index_B = draw_fixed(config.seed, fixed, shape, self._timesteps)
        return MicroBatch(batch=batch, noise_BX=noise_BX, timestep_index_B=timestep_index_B, fixed=fixed)


class Prefetcher(Generic[T]):
    """Calls `load(0)`, `load(1)`, ... in a thread of its own, a few ahead of the one that is asked for.

    An error of `load` is raised by the `get` of its number.
    """

    def __init__(self, load: Callable[[int], T], end: int, ahead: int = _AHEAD) -> None:
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
