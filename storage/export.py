"""The pairs of a run as a folder for the Hugging Face Hub: shards by split, and a card with their terms."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc

from storage.atomic import write_bytes
from storage.compact_pairs import first_of_each, row_groups
from storage.errors import UserError
from storage.export_card import DATA, card, public_name
from storage.pairs import INDEX, tensor_writer
from storage.provenance import pair_provenance
from storage.run import Run
from storage.schemas import PAIR_TENSORS, open_shard
from storage.shards import read_shard, shard_files, write_shard

CARD_NAME = "README.md"


@dataclass(frozen=True, kw_only=True)
class Exported:
    """What an export holds: pairs by split, files, bytes, and whether the pairs carry their tensors."""

    directory: Path
    splits: dict[str, int]
    files: int
    bytes: int
    tensors: bool


def export_pairs(run: Run, destination: Path, pairs: Path | None = None) -> Exported:
    """Write the pairs of a directory (default: the run's), a shard for each split of a shard, and a card.

    Nothing in the folder names a place on this machine: a model that is a local folder goes by its last name.
    The card comes last, so that a folder without one is not whole. Raises UserError when there are no pairs,
    for a destination that holds anything, and for a shard that cannot be read.
    """
    directory = pairs or run.shard_dir("pairs")
    if destination.exists() and (not destination.is_dir() or any(destination.iterdir())):
        raise UserError(f"{destination} is there and not an empty folder: give a new one")
    source = pair_provenance(run, directory, None)
    if source is None:
        raise UserError(f"there are no pairs in {directory}: run gpa pair first")
    written: list[Path] = []
    tensors = True
    for path, ids in first_of_each({path: _ids(path) for path in shard_files(directory)}).items():
        carries = _has_tensors(path)
        tensors = tensors and carries
        for split in pc.unique(ids["split"]).to_pylist():
            kept = ids.filter(pc.equal(ids["split"], split))["pair_id"]
            write = _write_tensor_part if carries else _write_index_part
            written.append(write(path, destination / DATA / f"{split}-{path.name}", kept))
    write_bytes(destination / CARD_NAME, card(source, tensors=tensors).encode())
    size = sum(path.stat().st_size for path in written)
    return Exported(
        directory=destination, splits=source.splits, files=len(written), bytes=size, tensors=tensors
    )


def _write_index_part(path: Path, destination: Path, kept: pa.ChunkedArray) -> Path:
    rows = read_shard(path, "pairs", INDEX)
    rows = _without_places(rows.filter(pc.is_in(rows["pair_id"], value_set=kept)))
    return write_shard(destination.parent, "pairs", rows).rename(destination)


def _write_tensor_part(path: Path, destination: Path, kept: pa.ChunkedArray) -> Path:
    with tensor_writer(destination) as writer:
        for rows in row_groups(path, kept):
            writer.write_table(_without_places(rows).cast(writer.schema))
    return destination


def _without_places(rows: pa.Table) -> pa.Table:
    models = pa.array([public_name(name) for name in rows["model"].to_pylist()], pa.string())
    return rows.set_column(rows.column_names.index("model"), "model", models)


def _has_tensors(path: Path) -> bool:
    with open_shard(path, "pairs") as shard:
        return set(PAIR_TENSORS[:3]) <= set(shard.schema_arrow.names)


def _ids(path: Path) -> pa.Table:
    with open_shard(path, "pairs") as shard:
        return shard.read(columns=["pair_id", "split"])
