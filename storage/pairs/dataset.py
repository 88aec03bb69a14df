"""Reads one random pair of a directory of pair shards.

Shapes are those of the model's latents, read from the rows and never assumed here.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from storage.pairs.index import PairIndex
from storage.pairs.shard import PairShard, unusable

_OPEN_FILES = 64


@dataclass(frozen=True, kw_only=True, eq=False)
class PairRow:
    """One pair with its tensors, as the sampler left them: the latents of both, and what conditions both.

    `num_frames` is that of the videos; None in shards that were written before it was kept.
    """

    pair_id: str
    prompt_id: str
    scene_id: str
    split: str
    text: str
    winner_id: str
    loser_id: str
    winner_value: float
    loser_value: float
    gap: float
    num_frames: int | None = None
    winner_latents: Tensor
    loser_latents: Tensor
    prompt_embeds: Tensor
    image_latents: Tensor | None = None
    image_embeds: Tensor | None = None

    def __post_init__(self) -> None:
        if self.winner_latents.shape != self.loser_latents.shape:
            shapes = f"{tuple(self.winner_latents.shape)} and {tuple(self.loser_latents.shape)}"
            raise ValueError(f"winner and loser latents must have one shape, got {shapes}: sample them alike")


class PairDataset:
    """The pairs of a directory in order of pair_id, each read on its own: nothing but an index is kept.

    Files stay open, and the first read of a pair checks its checksums and its numbers; later reads (the next
    epoch) trust them. One thread may read at a time. While it lives, `gpa compact` removes no shard. `split`
    takes only its pairs, `limit` at most so many: the first by id, which is a hash.

    Raises UserError when there are none, for shards without tensors or that cannot be read, and for pairs of
    more than one latent shape, model or revision.
    """

    def __init__(self, directory: Path, split: str | None = None, limit: int | None = None) -> None:
        self._index = PairIndex(directory, split, limit)
        self.directory, self.table = self._index.directory, self._index.table
        self.latent_shape, self.model = self._index.latent_shape, self._index.model
        self.revision, self.fingerprint = self._index.revision, self._index.fingerprint
        self._shards = [PairShard(path) for path in self._index.files]
        self._open: list[int] = []

    def __len__(self) -> int:
        """The number of distinct pairs."""
        return int(self.table.num_rows)

    def read(self, index: int) -> PairRow:
        """One pair with its tensors, from one row group of one file. Raises UserError for a damaged one."""
        if not 0 <= index < len(self):
            raise IndexError(f"pair index must be in [0, {len(self)}), got {index}")
        number, row = (self.table[name][index].as_py() for name in ("file", "row"))
        shard = self._shard(number)
        values = shard.read(row)
        try:
            kept: dict[str, Any] = {name: values.get(name) for name in PairRow.__dataclass_fields__}
            return PairRow(**kept)
        except (TypeError, ValueError) as error:
            raise unusable(shard.path, values.get("pair_id"), error) from error

    def __iter__(self) -> Iterator[PairRow]:
        """Every pair in order."""
        return (self.read(i) for i in range(len(self)))

    def _shard(self, number: int) -> PairShard:
        shard = self._shards[number]
        if number not in self._open:
            if len(self._open) >= _OPEN_FILES:
                self._shards[self._open.pop(0)].close()
            self._open.append(number)
        return shard
