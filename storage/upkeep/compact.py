"""Many small shards of a table become few large ones, and no question's answer changes."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from storage.atomic import sync_directory
from storage.pairs.writer import INDEX, SHARD_BYTES, tensor_writer
from storage.run import Run
from storage.sql.views import Limits, session
from storage.tables.reading import no_readers
from storage.tables.schemas import KEYS, PAIR_TENSORS, TABLES, open_shard, unreadable
from storage.tables.shards import (
    ROWS_PER_SHARD,
    read_shard,
    shard_files,
    shard_key,
    write_shards,
)

# The footer names every column of every row group, and is read by whoever opens the shard.
_TENSOR_ROWS_PER_SHARD = 8192


def _merge_tensor_shards(paths: list[Path], *, write: bool = True) -> list[Path]:
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
        if group and (size + more > SHARD_BYTES or rows + count > _TENSOR_ROWS_PER_SHARD):
            yield group
            group, size, rows = [], 0, 0
        group.append(path)
        size, rows = size + more, rows + count
    if group:
        yield group


_WAIT_SECONDS = 10.0
_BATCH_ROWS = 2**16
_PARTS = {"rejects": "stage"}


@dataclass(frozen=True, kw_only=True)
class Compacted:
    """Shards of a table before and after, and its rows as written; `kept` are merged ones still in use."""

    table: str
    before: int
    after: int
    rows: int
    kept: int = 0


def compact_table(
    run: Run, table: str, *, write: bool = True, limits: Limits | None = None, wait: float = _WAIT_SECONDS
) -> Compacted:
    """Merge the shards of a table, sorted by key, one row per key.

    Shards that a process is reading stay for up to `wait` seconds; then they are left, to be removed by the
    next call. With `write` False nothing is merged, and `after` is how many there would be at most.

    Raises UserError for a shard that cannot be read, for a full disk, and while `gpa pair` or another
    `gpa compact` works in the run.
    """
    with ExitStack() as locks:
        if write:
            locks.enter_context(run.lock("compact"))
        if write and table in ("pairs", "rejects"):
            # The only command that removes shards itself.
            locks.enter_context(run.lock("pair"))
        files = shard_files(run.shard_dir(table))
        counts = {path: _shape(path, table) for path in files}
        rows = sum(count for count, _, _ in counts.values())
        merged: list[Path] = []
        expected = 0
        groups = _groups(counts)
        for (tensors, part), group in groups.items():
            few = _fewest(sum(counts[path][0] for path in group))
            if tensors:
                done = _merge_tensor_shards(group, write=write)
                expected += len(done)
                merged += done
            elif len(group) <= few or _is_mixed(table, part, groups):
                merged += group
                expected += len(group)
            else:
                expected += few
                merged += _merge(run, table, part, limits) if write else group
        if not write:
            return Compacted(table=table, before=len(files), after=expected, rows=rows)
        kept = _remove(run.shard_dir(table), set(files) - set(merged), wait)
        after = len(set(merged)) + kept
        return Compacted(table=table, before=len(files), after=after, rows=rows, kept=kept)


def _merge(run: Run, table: str, part: str | None, limits: Limits | None) -> list[Path]:
    """Write what readers see of a table (or of a part of it) as large shards."""
    keys = ", ".join(KEYS[table])
    column = _PARTS.get(table)
    where = f"WHERE {column} = $part" if column else ""
    values = {"part": part} if column else None
    with session(run, table, limits=limits) as connection:
        names = [row[0] for row in connection.execute(f"DESCRIBE {table}").fetchall()]
        held = ", ".join(name for name in names if table != "pairs" or name not in PAIR_TENSORS)
        found = connection.sql(f"SELECT {held} FROM {table} {where} ORDER BY {keys}", params=values)
        return write_shards(run.shard_dir(table), table, _typed(found.to_arrow_reader(_BATCH_ROWS), table))


def _typed(reader: pa.RecordBatchReader, table: str) -> Iterator[pa.RecordBatch]:
    """Batches with the types of the table; a column that it does not know stays as it is."""
    known = TABLES[table]
    fields = [known.field(one.name) if one.name in known.names else one for one in reader.schema]
    schema = pa.schema(fields)
    for batch in reader:
        yield pa.record_batch([batch[one.name].cast(one.type) for one in schema], schema=schema)


def _shape(path: Path, table: str) -> tuple[int, bool, str | None]:
    """Rows of a shard, whether it has tensors, and the part of the table that it alone holds."""
    column = _PARTS.get(table)
    with open_shard(path, table) as shard:
        rows = int(shard.metadata.num_rows)
        tensors = table == "pairs" and set(PAIR_TENSORS) <= set(shard.schema_arrow.names)
        if column is None:
            return rows, tensors, None
        parts = pc.unique(shard.read(columns=[column])[column]).to_pylist()
    return rows, tensors, parts[0] if len(parts) == 1 else None


def _groups(
    counts: dict[Path, tuple[int, bool, str | None]],
) -> dict[tuple[bool, str | None], list[Path]]:
    groups: dict[tuple[bool, str | None], list[Path]] = {}
    for path, (_, tensors, part) in counts.items():
        groups.setdefault((tensors, part), []).append(path)
    return groups


def _is_mixed(table: str, part: str | None, groups: Collection[tuple[bool, str | None]]) -> bool:
    """Whether rows of a group cannot be told from those of others: it stays as it is.

    That is an index of pairs beside pairs with tensors, and a shard of rejects of several stages.
    """
    return len(groups) > 1 if table == "pairs" else table in _PARTS and part is None


def _fewest(rows: int) -> int:
    return max(1, -(-rows // ROWS_PER_SHARD))


def _remove(directory: Path, merged: set[Path], wait: float) -> int:
    """Remove shards whose rows are elsewhere now; how many are still in use and stay."""
    if not merged:
        return 0
    with no_readers(directory, wait) as alone:
        if not alone:
            return len(merged)
        for path in sorted(merged, reverse=True):
            path.unlink(missing_ok=True)
        sync_directory(directory)
    return 0
