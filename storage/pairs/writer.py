"""Pair shards that carry their tensors, written from a run's media; the reader is in pair_dataset.py."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from storage.atomic import atomic_writer, sweep_stale
from storage.errors import UserError
from storage.run import Run
from storage.tables.records import TensorBlob
from storage.tables.schemas import TABLES, default_columns, open_shard, stamped
from storage.tables.shards import keep_only, read_rows, shard_files, shard_key, write_shards

if TYPE_CHECKING:
    from torch import Tensor

# A row group is what one read fetches, so a pair of a large model has one of its own; a shard is what a crash
# while writing costs.
ROWS_PER_GROUP = 4
GROUP_BYTES = 2 * 2**20
ROWS_PER_SHARD = 256
SHARD_BYTES = 2**30
_LATENTS_NAME = "latents"
_EMBEDS_NAME = "prompt_embeds"
INDEX = pa.schema([TABLES["pairs"].field(name) for name in default_columns("pairs")])
# What an image-to-video model is given of the first frame: latents, features of an image encoder, or both.
_OPTIONAL_NAMES = ("image_latents", "image_embeds")


def write_pair_shards(
    run: Run,
    rows: pa.Table | pa.RecordBatchReader,
    directory: Path | None = None,
    *,
    index_only: bool = False,
) -> list[Path]:
    """Write mined rows as the pair shards of a directory (default: the run's), which then holds no others.

    Shards of at most 256 rows and about a GiB, in groups of at most 4 rows and about 2 MiB, each with the
    tensors of its pairs from the run's media; `index_only` writes large shards without tensors, and takes a
    reader of rows in order of pair_id without holding them all. Shards that already hold these pairs are
    kept, merged ones too: a repeated command writes only what is missing. The shards of an earlier selection
    go once the new ones are durable. Raises ValueError for no rows, UserError for latents that are missing,
    not finite, or of two shapes.
    """
    directory = directory or run.shard_dir("pairs")
    if index_only:
        paths = write_shards(directory, "pairs", _index_batches(rows))
    else:
        index = pa.Table.from_batches(_index_batches(rows), schema=INDEX)
        paths = _held(directory, index) or _write_tensors(run, index, directory)
    if not paths:
        raise ValueError(
            "pair shards need at least one row, got none: lower min_gap or sample more candidates"
        )
    keep_only(directory, paths)
    return paths


def _index_batches(rows: pa.Table | pa.RecordBatchReader) -> Iterator[pa.RecordBatch]:
    if isinstance(rows, pa.Table):
        rows = rows.select(INDEX.names).cast(INDEX).sort_by("pair_id")
        return iter(rows.to_batches())
    return iter(rows)


def _write_tensors(run: Run, index: pa.Table, directory: Path) -> list[Path]:
    if not index.num_rows:
        return []
    source = _TensorSource(run, index)
    row_bytes = source.row_bytes(index.slice(0, 1).to_pylist()[0])
    chunks = _slices(index, _rows_within(SHARD_BYTES, row_bytes, ROWS_PER_SHARD))
    group = _rows_within(GROUP_BYTES, row_bytes, ROWS_PER_GROUP)
    paths = [_write_tensor_shard(directory, chunk, source, group) for chunk in chunks]
    sweep_stale(directory)
    return paths


class _TensorSource:
    """The tensors of pairs, looked up in the run's media by the URIs of its candidates."""

    def __init__(self, run: Run, index: pa.Table) -> None:
        wanted = pa.concat_arrays([*index["winner_id"].chunks, *index["loser_id"].chunks])
        held = run.rows("candidates", ["candidate_id", "latent_uri"])
        held = held.filter(pc.is_in(held["candidate_id"], value_set=wanted))
        self._run = run
        self._uris = dict(zip(*(held[name].to_pylist() for name in held.column_names), strict=True))

    def of(self, row: dict[str, Any]) -> dict[str, TensorBlob | None]:
        from storage.media.tensors import from_tensor, read_tensors  # with torch: pairs may all be there

        # First, because a candidate without latents says why, and its prompt may have no condition either.
        winner, loser = self._latents(row["winner_id"]), self._latents(row["loser_id"])
        condition_path = self._run.resolve(self._run.condition_uri(row["prompt_id"]))
        condition = read_tensors(condition_path)
        if winner.shape != loser.shape:
            raise UserError(
                f"candidates {row['winner_id']} and {row['loser_id']} have latents of shape "
                f"{tuple(winner.shape)} and {tuple(loser.shape)}: sample a prompt with one size"
            )
        given = {name: condition.get(name) for name in _OPTIONAL_NAMES}
        return {
            "winner_latents": from_tensor(winner),
            "loser_latents": from_tensor(loser),
            "prompt_embeds": from_tensor(_named(condition_path, condition, _EMBEDS_NAME)),
            **{name: None if held is None else from_tensor(held) for name, held in given.items()},
        }

    def row_bytes(self, row: dict[str, Any]) -> int:
        """How large the tensors of a pair are."""
        return sum(len(blob.data) for blob in self.of(row).values() if blob is not None)

    def _latents(self, candidate_id: str) -> Tensor:
        uri = self._uris.get(candidate_id)
        if uri is None:
            raise UserError(
                f"candidate {candidate_id} has no latents (imported without a model?): run `gpa import` of "
                "its source with --model NAME, or pair with index_only"
            )
        from storage.media.tensors import read_tensors

        path = self._run.resolve(uri)
        return _named(path, read_tensors(path), _LATENTS_NAME)


def _slices(index: pa.Table, rows: int) -> list[pa.Table]:
    return [index.slice(start, rows) for start in range(0, index.num_rows, rows)]


def _rows_within(limit_bytes: int, row_bytes: int, most: int) -> int:
    return max(1, min(most, limit_bytes // max(1, row_bytes)))


def _write_tensor_shard(directory: Path, chunk: pa.Table, source: _TensorSource, group_rows: int) -> Path:
    path = directory / f"{shard_key('pairs', chunk)}.parquet"
    if _is_whole(path, chunk.num_rows):
        return path
    with tensor_writer(path) as writer:
        for part in _slices(chunk, group_rows):
            group = part.to_pylist()
            filled = [row | {name: _plain(blob) for name, blob in source.of(row).items()} for row in group]
            writer.write_table(pa.Table.from_pylist(filled, schema=writer.schema), row_group_size=group_rows)
    return path


@contextmanager
def tensor_writer(path: Path, added: Iterable[pa.Field] = ()) -> Iterator[pq.ParquetWriter]:
    """Writes a durable shard of pairs with tensors, each table that it is given as row groups of its own.

    `added` are columns behind those of the pairs.
    """
    # Latents are noise to a compressor, and statistics of them are of no use.
    with (
        atomic_writer(path) as handle,
        pq.ParquetWriter(
            handle,
            stamped(pa.schema([*TABLES["pairs"], *added]), "pairs"),
            compression="none",
            use_dictionary=False,
            write_statistics=False,
            write_page_checksum=True,
        ) as writer,
    ):
        yield writer


def _held(directory: Path, index: pa.Table) -> list[Path]:
    """The shards of a directory when they hold these pairs with their tensors and no others, or none."""
    paths = shard_files(directory)
    rows = sum(_tensor_rows(path) for path in paths)
    if rows < max(index.num_rows, 1):
        return []
    held = read_rows(directory, "pairs").sort_by("pair_id")
    return paths if held.equals(index) else []


def _is_whole(path: Path, rows: int) -> bool:
    return path.exists() and _tensor_rows(path) == rows


def _tensor_rows(path: Path) -> int:
    """The rows of a shard that has tensors; 0 for one that has none or cannot be read."""
    try:
        with open_shard(path, "pairs", list(TABLES["pairs"].names)) as shard:
            return int(shard.metadata.num_rows)
    except UserError:
        return 0


def _named(path: Path, tensors: dict[str, Tensor], name: str) -> Tensor:
    if name not in tensors:
        held = ", ".join(sorted(tensors)) or "nothing"
        raise UserError(f"{path} holds {held} but no tensor {name!r}: delete it and sample again")
    return tensors[name]


def _plain(blob: TensorBlob | None) -> dict[str, Any] | None:
    return None if blob is None else {"data": blob.data, "shape": list(blob.shape), "dtype": blob.dtype}
