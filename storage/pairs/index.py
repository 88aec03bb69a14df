"""Which pairs a directory of pair shards holds, and what all of them agree on, without reading a tensor."""

from __future__ import annotations

from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from storage.errors import UserError
from storage.tables.ids import content_id
from storage.tables.reading import ReadLock
from storage.tables.schemas import REQUIRED_TENSORS, default_columns, open_shard, unreadable
from storage.tables.shards import shard_files

_Shape: TypeAlias = tuple[int, ...]


class PairIndex:
    """The pairs of a directory in order of pair_id: `table` says in which row of which of `files` each is.

    While it lives, `gpa compact` removes no shard. Raises UserError as `PairDataset` does.
    """

    def __init__(self, directory: Path, split: str | None = None, limit: int | None = None) -> None:
        self.directory = pair_folder(Path(directory))
        self._lock = ReadLock(self.directory)
        self.files = shard_files(self.directory)
        if not self.files:
            raise UserError(f"there are no pair shards in {directory}: run gpa pair first")
        index = pa.concat_tables([_shard_index(path, number) for number, path in enumerate(self.files)])
        if split is not None:
            index = index.filter(pc.equal(index["split"], split))
        if index.num_rows == 0:
            raise UserError(f"there are no pairs of split {split!r} in {directory}: choose another split")
        self.table = _first_of_each(index).slice(0, limit)
        self.latent_shape: _Shape = tuple(self._only("latent_shape", "latent shape"))
        self.model: str = self._only("model", "model")
        self.revision: str = self._only("revision", "revision")

    @property
    def fingerprint(self) -> str:
        """What the set of pairs is, wherever it lies, so that a training is not resumed on another one."""
        return content_id(self.table["pair_id"].to_pylist())

    def _only(self, column: str, what: str) -> Any:
        values = {_hashable(value) for value in self.table[column].to_pylist()}
        if len(values) > 1:
            some = " and ".join(str(value) for value in sorted(values, key=str)[:2])
            raise UserError(
                f"the pairs in {self.directory} have more than one {what} ({some}): pair them apart"
            )
        return values.pop()


def pair_folder(directory: Path) -> Path:
    """Where the shards of pairs lie: of a folder that `gpa export` made, in its `data`."""
    inner = directory / "data"
    return inner if inner.is_dir() and not shard_files(directory) else directory


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
