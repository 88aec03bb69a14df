"""Parquet shards: immutable, durable once named, named by a hash of the rows they hold."""

from __future__ import annotations

import hashlib
import struct
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from storage.atomic import atomic_writer, sync_directory
from storage.tables.reading import reading
from storage.tables.records import Record, TensorBlob
from storage.tables.schemas import (
    KEYS,
    VOLATILE,
    Vanished,
    default_columns,
    open_shard,
    stamped,
    table_schema,
    unreadable,
)

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


_COMPRESSION = "zstd"
# How often a listing is made again because another command replaced shards in the meantime.
_LISTINGS = 5


def write_shard(directory: Path, table_name: str, records: Sequence[Record] | pa.Table) -> Path:
    """Write rows of one table as one durable shard and return its path.

    The name is a hash of the rows (without timings), whatever their order: the same rows written again, or by
    two processes at once, give the same file. Raises ValueError for no rows or for two rows with one key,
    UserError when the disk refuses.
    """
    table = _sorted_by_key(table_name, _to_table(table_name, records))
    path = directory / f"{shard_key(table_name, table)}.parquet"
    with atomic_writer(path) as handle:
        pq.write_table(
            table.cast(stamped(table.schema, table_name)),
            handle,
            compression=_COMPRESSION,
            write_page_checksum=True,
        )
    return path


def shard_files(directory: Path) -> list[Path]:
    """The shards of a directory in the order of their names; none when there is no such directory."""
    return sorted(path for path in directory.glob("*.parquet") if not path.name.startswith("."))


def read_rows(directory: Path, table_name: str, columns: Sequence[str] | None = None) -> pa.Table:
    """Every row of a table's directory, one per key, in the order of shard names.

    `columns` defaults to all but tensors of pairs. Of rows with equal keys a candidate with status ok goes
    before a failed one and one with latents before one without, then the first shard by name. Raises
    UserError naming a shard that cannot be read.
    """
    wanted = list(columns) if columns is not None else default_columns(table_name)
    extra = ["status", "latent_uri"] if table_name == "candidates" else []
    needed = list(dict.fromkeys([*wanted, *KEYS[table_name], *extra]))
    schema = pa.schema([table_schema(table_name).field(name) for name in needed])
    with reading(directory):
        parts = _read_files(directory, table_name, schema)
    table = pa.concat_tables([schema.empty_table(), *parts])
    return one_per_key(table_name, table).select(wanted)


def keep_only(directory: Path, kept: Iterable[Path]) -> list[Path]:
    """Remove every shard of a directory but `kept`, durably; return what was removed."""
    names = {path.name for path in kept}
    removed = [path for path in shard_files(directory) if path.name not in names]
    remove(directory, removed)
    return removed


def remove(directory: Path, paths: Sequence[Path]) -> None:
    """Remove these shards of a directory, durably; one that is gone already is no error."""
    for path in paths:
        path.unlink(missing_ok=True)
    if paths:
        sync_directory(directory)


def one_per_key(table_name: str, table: pa.Table) -> pa.Table:
    """The preferred row of every key, in the order in which they stand."""
    keys = list(KEYS[table_name])
    order = np.arange(table.num_rows, dtype=np.int64)
    if table_name == "candidates":
        # Multiples of the number of rows, so that what is left of the division is the row.
        worse_by = {2: pc.not_equal(table["status"], "ok"), 1: pc.is_null(table["latent_uri"])}
        for times, worse in worse_by.items():
            order += np.asarray(worse).astype(np.int64) * times * table.num_rows
    ranked = table.select(keys).append_column("order", pa.array(order))
    first = ranked.group_by(keys).aggregate([("order", "min")])["order_min"]
    if len(first) == table.num_rows:
        return table
    return table.take(pa.array(np.sort(np.asarray(first) % table.num_rows)))


def _read_files(directory: Path, table_name: str, schema: pa.Schema) -> list[pa.Table]:
    for _ in range(_LISTINGS - 1):
        try:
            return [read_shard(path, table_name, schema) for path in shard_files(directory)]
        except Vanished:
            continue
    return [read_shard(path, table_name, schema) for path in shard_files(directory)]


def read_shard(path: Path, table_name: str, schema: pa.Schema | None = None) -> pa.Table:
    """The rows of one shard with the columns of `schema`, null where an older shard has none.

    Without a schema: all columns of the table but tensors of pairs. Raises UserError for a file that cannot
    be read.
    """
    if schema is None:
        whole = table_schema(table_name)
        schema = pa.schema([whole.field(name) for name in default_columns(table_name)])
    shard = open_shard(path, table_name, schema.names)
    try:
        table = shard.read(columns=schema.names)
    except (pa.ArrowException, OSError) as error:
        raise unreadable(path) from error
    for name in set(schema.names) - set(table.column_names):
        table = table.append_column(name, pa.nulls(table.num_rows, schema.field(name).type))
    return table.select(schema.names).cast(schema)


def _to_table(table_name: str, records: Sequence[Record] | pa.Table) -> pa.Table:
    schema = table_schema(table_name)
    if isinstance(records, pa.Table):
        table = records
    else:
        names = default_columns(table_name) if _is_index(table_name, records) else schema.names
        schema = pa.schema([schema.field(name) for name in names])
        columns = {name: [_plain(getattr(record, name)) for record in records] for name in names}
        table = pa.table([pa.array(columns[name], schema.field(name).type) for name in names], schema=schema)
    if table.num_rows == 0:
        raise ValueError(f"a shard of {table_name} needs at least one row, got none: skip the write")
    return table


def _is_index(table_name: str, records: Sequence[Record]) -> bool:
    return table_name == "pairs" and all(
        getattr(record, "winner_latents", None) is None for record in records
    )


def _sorted_by_key(table_name: str, table: pa.Table) -> pa.Table:
    keys = list(KEYS[table_name])
    if not _rises(table, keys):
        table = table.sort_by([(key, "ascending") for key in keys])
    if not _rises(table, keys):
        unique = table.select(keys).group_by(keys).aggregate([]).num_rows
        raise ValueError(
            f"rows of {table_name} must differ in {', '.join(keys)}, got {table.num_rows} rows "
            f"with {unique} keys: write every row once"
        )
    return table


def _rises(table: pa.Table, keys: list[str]) -> bool:
    """Whether every row's key is above that of the row before it."""
    count = table.num_rows - 1
    rises, same = pa.scalar(False), pa.scalar(True)
    for key in keys:
        here, after = table[key].slice(0, count), table[key].slice(1)
        rises = pc.or_(rises, pc.and_(same, pc.less(here, after)))
        same = pc.and_(same, pc.equal(here, after))
    return count < 1 or bool(pc.all(rises).as_py())


def _plain(value: Any) -> Any:
    if isinstance(value, TensorBlob):
        return {"data": value.data, "shape": list(value.shape), "dtype": value.dtype}
    return value


ROWS_PER_SHARD = 2**18
_WRITERS = 2


def write_shards(
    directory: Path, table_name: str, batches: Iterable[pa.RecordBatch], rows: int = ROWS_PER_SHARD
) -> list[Path]:
    """Write rows as shards of at most `rows` rows each, in the order in which they come; return the paths.

    Equal rows in equal order give the same files. No rows give no shard. Raises what `write_shard` raises.
    """
    done: list[Path] = []
    running: deque[Future[Path]] = deque()
    with ThreadPoolExecutor(_WRITERS) as pool:
        for table in in_tables(batches, rows):
            if len(running) == _WRITERS:
                done.append(running.popleft().result())
            running.append(pool.submit(write_shard, directory, table_name, table))
        return done + [future.result() for future in running]


def in_tables(batches: Iterable[pa.RecordBatch], rows: int) -> Iterator[pa.Table]:
    """The same rows as tables of `rows` rows, the last one smaller."""
    held: list[pa.RecordBatch] = []
    count = 0
    for batch in batches:
        while count + batch.num_rows >= rows:
            first = rows - count
            yield pa.Table.from_batches([*held, batch.slice(0, first)])
            held, count, batch = [], 0, batch.slice(first)
        if batch.num_rows:
            held.append(batch)
            count += batch.num_rows
    if held:
        yield pa.Table.from_batches(held)
