"""One file of pairs: rows with their tensors, checked when first read and fetched directly afterwards."""

from __future__ import annotations

import os
from bisect import bisect_right
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from torch import Tensor

from storage.errors import UserError
from storage.media.tensors import empty_tensor, require_finite, to_tensor
from storage.tables.records import TensorBlob
from storage.tables.schemas import PAIR_TENSORS, REQUIRED_TENSORS, TABLES, open_shard, unreadable


@dataclass(frozen=True, kw_only=True)
class TensorPlace:
    """A tensor's first byte in its file, and how to read it."""

    offset: int
    shape: tuple[int, ...]
    dtype: str

    def read(self, descriptor: int) -> Tensor | None:
        """The tensor, from one read of an open file; None when the file ends before it does."""
        tensor = empty_tensor(self.shape, self.dtype)
        view = memoryview(tensor.flatten().view(torch.uint8).numpy())  # type: ignore[arg-type]
        done = 0
        while done < len(view):
            count = os.preadv(descriptor, [view[done:]], self.offset + done)
            if count == 0:
                return None
            done += count
        return tensor


def _locate(
    shard: pq.ParquetFile, group: int, blobs: Mapping[str, dict[str, Any]], descriptor: int
) -> dict[str, TensorPlace] | None:
    """The places of a row group's tensors, or None when one of them is not where it should be.

    `blobs` are the tensors as decoded: data, shape and dtype by column name.
    """
    row_group = shard.metadata.row_group(group)
    if row_group.num_rows != 1:
        return None
    chunks = {row_group.column(i).path_in_schema: row_group.column(i) for i in range(row_group.num_columns)}
    places = {}
    for name, blob in blobs.items():
        chunk, data = chunks.get(f"{name}.data"), blob["data"]
        if chunk is None:  # under another name in a shard of an older version
            return None
        start = min(chunk.data_page_offset, chunk.dictionary_page_offset or chunk.data_page_offset)
        offset = start + chunk.total_compressed_size - len(data)
        if offset < 0 or os.pread(descriptor, len(data), offset) != data:
            return None
        places[name] = TensorPlace(offset=offset, shape=tuple(blob["shape"]), dtype=blob["dtype"])
    return places


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
        places = _locate(shard, self._group_of(row)[0], blobs, self._handle())
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
