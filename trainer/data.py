"""Which pairs a step sees, and the batches made of them.

Legend: B pairs, X the axes of a latent video in its family's order, L tokens, D their width.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor

from storage.errors import UserError
from storage.pairs.dataset import PairDataset
from storage.tables.ids import content_id
from storage.tables.schemas import PAIR_TENSORS
from trainer.families.base import Condition, PairShapes

CACHE_BYTES = 512 * 2**20


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

    def __init__(self, source: PairSource, device: torch.device, cache_bytes: int = CACHE_BYTES) -> None:
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
        return content_id(source.table["pair_id"].to_pylist())
    return content_id([source.read(index).pair_id for index in range(len(source))])


def _row_bytes(row: Any) -> int:
    tensors = [getattr(row, name) for name in PAIR_TENSORS]
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors if tensor is not None)
