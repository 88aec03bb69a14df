"""Which pairs a step sees, and the batches made of them.

Legend: B pairs, F latent frames, C latent channels, H W latent size, L prompt tokens, D their width.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor

from storage.errors import UserError
from storage.ids import content_id
from storage.pair_dataset import PairDataset

CACHE_BYTES = 512 * 2**20


class PairSource(Protocol):
    """What the trainer needs of a set of pairs; `storage.pair_dataset.PairDataset` is the real one."""

    model: str
    """Name of the base model that the pairs were sampled from."""
    revision: str
    latent_shape: tuple[int, ...]
    """F C H W of every pair."""

    def __len__(self) -> int:
        """Number of pairs."""

    def read(self, index: int) -> Any:
        """A row: pair_id and the tensors winner_latents, loser_latents, prompt_embeds, image_latents|None."""


@dataclass(frozen=True, kw_only=True)
class PairBatch:
    """B pairs; winner and loser of one share everything else."""

    pair_ids: tuple[str, ...]
    winner_BFCHW: Tensor
    loser_BFCHW: Tensor
    prompt_BLD: Tensor
    image_BFCHW: Tensor | None

    def __post_init__(self) -> None:
        if self.winner_BFCHW.shape != self.loser_BFCHW.shape or self.winner_BFCHW.ndim != 5:
            raise ValueError(
                "winner and loser must be [B, F, C, H, W] of one shape, got "
                f"{list(self.winner_BFCHW.shape)} and {list(self.loser_BFCHW.shape)}: check the pair"
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
        has_image = self.first.image_latents is not None
        return PairBatch(
            pair_ids=tuple(row.pair_id for row in rows),
            winner_BFCHW=self._stack(rows, "winner_latents"),
            loser_BFCHW=self._stack(rows, "loser_latents"),
            prompt_BLD=self._stack(rows, "prompt_embeds"),
            image_BFCHW=self._stack(rows, "image_latents") if has_image else None,
        )

    def _row(self, index: int) -> Any:
        if self._cache is None:
            return self.source.read(index)
        if index not in self._cache:
            self._cache[index] = self.source.read(index)
        return self._cache[index]

    def _stack(self, rows: Sequence[Any], name: str) -> Tensor:
        tensors = []
        expected = getattr(self.first, name).shape
        for row in rows:
            tensor = getattr(row, name)
            if tensor is None or tensor.shape != expected:
                found = None if tensor is None else list(tensor.shape)
                raise UserError(
                    f"pair {row.pair_id} has {name} of shape {found}, the others {list(expected)}: "
                    "pair again, with candidates of one preset only"
                )
            tensors.append(tensor)
        return torch.stack(tensors).to(self.device)


def open_pairs(directory: Path, split: str | None) -> PairSource:
    """The pair shards of a directory. Raises UserError when there are none of this split."""
    return PairDataset(directory, split)


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
    tensors = (row.winner_latents, row.loser_latents, row.prompt_embeds, row.image_latents)
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors if tensor is not None)
