"""Where the bytes of a tensor lie in a pair shard, so that they are read again without decoding the file.

A pair of a large model has a row group of its own, uncompressed: the bytes of each tensor are the end of its
column chunk. That is never assumed: a place is kept when the bytes there were those that Arrow decoded.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import pyarrow.parquet as pq
import torch
from torch import Tensor

from storage.tensors import empty_tensor


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


def locate(
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
