"""The name of a shard: a hash of its rows, taken column by column, since shards can have many."""

from __future__ import annotations

import hashlib
import struct

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from storage.schemas import VOLATILE

_NAME_BYTES = 16


def shard_key(table_name: str, table: pa.Table) -> str:
    """32 hex characters that name rows in the order in which they stand, timings left out.

    Neither the order of the columns, nor how Arrow has cut or padded its buffers, nor what lies under a null
    changes it.
    """
    hasher = hashlib.sha256()
    _put(hasher, table_name.encode())
    for name in sorted(set(table.column_names) - set(VOLATILE.get(table_name, ()))):
        _put(hasher, name.encode())
        _put_array(hasher, _whole(table[name]))
    return hasher.digest()[:_NAME_BYTES].hex()


def _whole(column: pa.ChunkedArray) -> pa.Array:
    # Offsets of 32 bits hold 2 GiB of text, which a large shard can exceed.
    return column.cast(_large(column.type)).combine_chunks()


def _large(kind: pa.DataType) -> pa.DataType:
    wide = {pa.string(): pa.large_string(), pa.binary(): pa.large_binary()}
    return wide.get(kind, kind)


def _put(hasher: hashlib._Hash, data: bytes | np.ndarray) -> None:
    size = len(data) if isinstance(data, bytes) else data.nbytes
    hasher.update(struct.pack(">Q", size))
    if size:
        hasher.update(data if isinstance(data, bytes) else data.data)


def _put_array(hasher: hashlib._Hash, array: pa.Array) -> None:
    """The type, which rows are null, and the values of the rest."""
    array = array.cast(_large(array.type))
    _put(hasher, str(array.type).encode())
    _put(hasher, np.packbits(np.asarray(array.is_null())) if array.null_count else b"")
    array = array.drop_null()
    if pa.types.is_struct(array.type):
        for number, child in enumerate(array.flatten()):
            _put(hasher, array.type.field(number).name.encode())
            _put_array(hasher, child)
    elif pa.types.is_list(array.type):
        _put(hasher, _numbers(pc.list_value_length(array)))
        _put_array(hasher, array.flatten())
    elif array.type in (pa.large_string(), pa.large_binary()):
        _put(hasher, _numbers(pc.binary_length(array)))
        _put(hasher, _characters(array))
    else:
        _put(hasher, _numbers(array))


def _numbers(array: pa.Array) -> np.ndarray:
    return np.ascontiguousarray(array.to_numpy(zero_copy_only=False))


def _characters(array: pa.Array) -> np.ndarray:
    _, offsets, data = array.buffers()
    if data is None or not len(array):
        return np.zeros(0, np.uint8)
    ends = np.frombuffer(offsets, np.int64)[array.offset : array.offset + len(array) + 1]
    return np.frombuffer(data, np.uint8)[ends[0] : ends[-1]]
