"""Many small shards of a table become few large ones, and no question's answer changes.

A crash at any point leaves rows twice at worst, and readers see one row per key. The merged shards are
durable before any other goes, and these go last name first: of two different rows of one key, the one that
readers saw is never the first to go.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc

from storage.atomic import sync_directory
from storage.compact_pairs import merge_tensor_shards
from storage.reading import no_readers
from storage.run import Run
from storage.schemas import KEYS, PAIR_TENSORS, TABLES, open_shard
from storage.shard_stream import ROWS_PER_SHARD, write_shards
from storage.shards import shard_files
from storage.views import Limits, session

WAIT_SECONDS = 10.0
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
    run: Run, table: str, *, write: bool = True, limits: Limits | None = None, wait: float = WAIT_SECONDS
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
                done = merge_tensor_shards(group, write=write)
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
