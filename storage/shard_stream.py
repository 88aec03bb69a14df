"""Many rows into shards, a few at a time: nothing but the shards being written is in memory."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import pyarrow as pa

from storage.shards import write_shard

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
