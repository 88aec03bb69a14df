"""One file of pairs: rows with their tensors, checked when first read and fetched directly afterwards."""

from __future__ import annotations

import os
from bisect import bisect_right
from itertools import accumulate
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from torch import Tensor

from storage.errors import UserError
from storage.records import TensorBlob
from storage.schemas import PAIR_TENSORS, TABLES, open_shard, unreadable
from storage.tensor_places import TensorPlace, locate
from storage.tensors import require_finite, to_tensor

REQUIRED_TENSORS = ("winner_latents", "loser_latents", "prompt_embeds")
_COLUMNS = list(TABLES["pairs"].names)


class PairShard:
    """A pair shard. Nothing is opened before the first read; `close` may be called between two reads."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._file: pq.ParquetFile | None = None
        self._descriptor: int | None = None
        self._checked: set[int] = set()
        self._ends: list[int] = []
        self._known: dict[int, tuple[dict[str, Any], dict[str, TensorPlace]]] = {}

    def read(self, row: int) -> dict[str, Any]:
        """The values of a row, tensors as tensors (None where it has none).

        Raises UserError for a damaged file, a missing tensor and, at the first read of a row, for checksums
        that do not hold and numbers that are not finite.
        """
        if row in self._known:
            return self._fetch(row)
        shard = self._opened()
        values, blobs = self._decode(shard, row)
        if row in self._checked:
            return values
        self._check(values)
        places = locate(shard, self._group_of(row)[0], blobs, self._handle())
        self._checked.add(row)
        if places is not None:
            self._known[row] = ({name: values[name] for name in values if name not in places}, places)
        return values

    def close(self) -> None:
        """Give back the file handles; what was learned of the rows stays."""
        if self._file is not None:
            self._file.close()
            self._file = None
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None

    def __del__(self) -> None:
        self.close()

    def _fetch(self, row: int) -> dict[str, Any]:
        text, places = self._known[row]
        values = dict(text)
        for name, place in places.items():
            values[name] = place.read(self._handle())
            if values[name] is None:
                raise unreadable(self.path)
        return values

    def _decode(self, shard: pq.ParquetFile, row: int) -> tuple[dict[str, Any], dict[str, dict[str, Any]]]:
        """A row's values, and its tensors as they were read."""
        group, row = self._group_of(row)
        try:
            table = shard.read_row_group(group, columns=_COLUMNS).slice(row, 1)
        except (pa.ArrowException, OSError) as error:
            raise unreadable(self.path) from error
        names = [name for name in table.column_names if name not in PAIR_TENSORS]
        values: dict[str, Any] = {name: table[name][0].as_py() for name in names}
        found = {name: _blob(table[name].chunk(0)) for name in table.column_names if name in PAIR_TENSORS}
        blobs = {name: blob for name, blob in found.items() if blob is not None}
        try:
            missing = [name for name in REQUIRED_TENSORS if name not in blobs]
            if missing:
                raise ValueError(f"{missing[0]} is missing")
            for name in PAIR_TENSORS:
                values[name] = to_tensor(TensorBlob(**blobs[name])) if name in blobs else None
        except (TypeError, ValueError) as error:
            raise unusable(self.path, values.get("pair_id"), error) from error
        return values, blobs

    def _check(self, values: dict[str, Any]) -> None:
        for name in PAIR_TENSORS:
            if isinstance(values[name], Tensor):
                try:
                    require_finite(name, values[name])
                except ValueError as error:
                    raise unusable(self.path, values.get("pair_id"), error) from error

    def _opened(self) -> pq.ParquetFile:
        if self._file is None:
            self._file = open_shard(self.path, "pairs", _COLUMNS)
            self._ends = _group_ends(self._file)
        return self._file

    def _group_of(self, row: int) -> tuple[int, int]:
        """The row group that holds a row of the file, and its place there."""
        group = bisect_right(self._ends, row)
        return group, row - (self._ends[group - 1] if group else 0)

    def _handle(self) -> int:
        if self._descriptor is None:
            self._descriptor = os.open(self.path, os.O_RDONLY | os.O_CLOEXEC)
        return self._descriptor


def unusable(path: Path, pair_id: object, error: Exception) -> UserError:
    """The error for a pair whose values make no sense."""
    return UserError(
        f"{path}: pair {pair_id} is not usable ({error}): delete the file and run gpa pair again"
    )


def _group_ends(shard: pq.ParquetFile) -> list[int]:
    metadata = shard.metadata
    return list(accumulate(metadata.row_group(group).num_rows for group in range(metadata.num_row_groups)))


def _blob(column: pa.StructArray) -> dict[str, Any] | None:
    """The first tensor of a column, its bytes where they were read: a scalar of Arrow would be a copy."""
    if not column.is_valid()[0].as_py():
        return None
    data = column.field("data")
    _, offsets, values = data.buffers()
    start, end = np.frombuffer(offsets, np.int64, 2, offset=8 * data.offset).tolist()
    about = {name: column.field(name)[0].as_py() for name in ("shape", "dtype")}
    return {"data": memoryview(values.slice(start, end - start)).cast("B"), **about}
