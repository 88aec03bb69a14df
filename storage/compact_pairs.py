"""Shards of pairs that carry tensors, joined end to end: their small row groups stay as they are."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from storage.pairs import INDEX, SHARD_BYTES, tensor_writer
from storage.schemas import TABLES, open_shard, unreadable
from storage.shard_names import shard_key
from storage.shards import read_shard

# The footer names every column of every row group, and is read by whoever opens the shard.
ROWS_PER_SHARD = 8192


def merge_tensor_shards(paths: list[Path], *, write: bool = True) -> list[Path]:
    """Join shards to ones of at most about a GiB and 8192 rows; return what holds the rows then.

    A pair that two shards hold stays where readers see it, in the first by name. Nothing is removed. Raises
    UserError for a shard that cannot be read.
    """
    indices = first_of_each({path: read_shard(path, "pairs", INDEX) for path in sorted(paths)})
    merged: list[Path] = []
    for group in _neighbours(indices):
        whole = len(group) == 1 and pq.read_metadata(group[0]).num_rows == indices[group[0]].num_rows
        if whole or not write:
            merged.append(group[0])
        else:
            merged.append(_join(group, indices))
    return merged


def _join(group: list[Path], indices: dict[Path, pa.Table]) -> Path:
    whole = pa.concat_tables([indices[path] for path in group]).sort_by("pair_id")
    path = group[0].with_name(f"{shard_key('pairs', whole)}.parquet")
    with tensor_writer(path) as writer:
        for source in group:
            for rows in row_groups(source, indices[source]["pair_id"]):
                writer.write_table(rows)
    return path


def row_groups(path: Path, kept: pa.ChunkedArray) -> Iterator[pa.Table]:
    """These pairs of a shard with tensors, row group by row group. Raises UserError for a damaged shard."""
    names = TABLES["pairs"].names
    with open_shard(path, "pairs", list(names)) as shard:
        for number in range(shard.num_row_groups):
            try:
                rows = shard.read_row_group(number)
            except (pa.ArrowException, OSError) as error:
                raise unreadable(path) from error
            for name in set(names) - set(rows.column_names):
                rows = rows.append_column(name, pa.nulls(rows.num_rows, TABLES["pairs"].field(name).type))
            rows = rows.select(names).filter(pc.is_in(rows["pair_id"], value_set=kept))
            if rows.num_rows:
                yield rows.cast(TABLES["pairs"])


def first_of_each(indices: dict[Path, pa.Table]) -> dict[Path, pa.Table]:
    """The rows that readers see of every shard, given in the order of names; shards without any left out."""
    seen: set[str] = set()
    first = {}
    for path, index in indices.items():
        mask = [pair_id not in seen for pair_id in index["pair_id"].to_pylist()]
        seen.update(index["pair_id"].to_pylist())
        first[path] = index.filter(pa.array(mask, pa.bool_()))
    return {path: index for path, index in first.items() if index.num_rows}


def _neighbours(indices: dict[Path, pa.Table]) -> Iterator[list[Path]]:
    """Shards in the order of their first pairs, as many together as a shard may hold."""
    group: list[Path] = []
    size = rows = 0
    for path in sorted(indices, key=lambda path: str(pc.min(indices[path]["pair_id"]))):
        more, count = path.stat().st_size, indices[path].num_rows
        if group and (size + more > SHARD_BYTES or rows + count > ROWS_PER_SHARD):
            yield group
            group, size, rows = [], 0, 0
        group.append(path)
        size, rows = size + more, rows + count
    if group:
        yield group
