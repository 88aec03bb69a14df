"""Reads one random pair of a directory of pair shards, and says what all of them agree on.

Shapes are those of the model's latents, read from the rows and never assumed here.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from torch import Tensor

from storage.errors import UserError
from storage.pairs.shard import REQUIRED_TENSORS, PairShard, unusable
from storage.tables.reading import ReadLock
from storage.tables.schemas import default_columns, open_shard, unreadable
from storage.tables.shards import shard_files

_OPEN_FILES = 64

_Shape: TypeAlias = tuple[int, ...]


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
        self.directory = Path(directory)
        self._lock = ReadLock(self.directory)
        files = shard_files(self.directory)
        if not files:
            raise UserError(f"there are no pair shards in {directory}: run gpa pair first")
        index = pa.concat_tables([_shard_index(path, number) for number, path in enumerate(files)])
        if split is not None:
            index = index.filter(pc.equal(index["split"], split))
        if index.num_rows == 0:
            raise UserError(f"there are no pairs of split {split!r} in {directory}: choose another split")
        self._shards = [PairShard(path) for path in files]
        self._open: list[int] = []
        self.table = _first_of_each(index).slice(0, limit)
        self.latent_shape: _Shape = tuple(self._only("latent_shape", "latent shape"))
        self.model: str = self._only("model", "model")
        self.revision: str = self._only("revision", "revision")

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

    def _only(self, column: str, what: str) -> Any:
        values = {_hashable(value) for value in self.table[column].to_pylist()}
        if len(values) > 1:
            some = " and ".join(str(value) for value in sorted(values, key=str)[:2])
            raise UserError(
                f"the pairs in {self.directory} have more than one {what} ({some}): pair them apart"
            )
        return values.pop()


def _shard_index(path: Path, number: int) -> pa.Table:
    """Where the pairs of a shard are, and what they say of themselves, without reading a tensor."""
    names = ["pair_id", "prompt_id", "scene_id", "split", "model", "revision"]
    with open_shard(path, "pairs", [*default_columns("pairs"), *REQUIRED_TENSORS]) as shard:
        try:
            table = shard.read(columns=[*names, "winner_latents.shape"])
        except (pa.ArrowException, OSError) as error:
            raise unreadable(path) from error
    shapes = pc.struct_field(table["winner_latents"], "shape")
    count = table.num_rows
    return (
        table.select(names)
        .append_column("latent_shape", shapes)
        .append_column("file", pa.array(np.full(count, number, dtype=np.int64)))
        .append_column("row", pa.array(np.arange(count, dtype=np.int64)))
    )


def _first_of_each(index: pa.Table) -> pa.Table:
    """One row per pair_id, in its order: the first shard by name holds it."""
    index = index.sort_by([("pair_id", "ascending"), ("file", "ascending"), ("row", "ascending")])
    ids = np.asarray(index["pair_id"].to_pylist(), dtype=object)
    return index.filter(pa.array(np.concatenate([[True], ids[1:] != ids[:-1]])))


def _hashable(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value
