"""The pairs of a run as a folder for the Hugging Face Hub: shards by split, their card, and their videos.

README.md                    the card (card.py)
data/SPLIT-NAME.parquet      pairs, with their tensors where the run has them
videos/SPLIT/ID.mp4          where they are asked for, with metadata.parquet: a VideoFolder of datasets
"""

from __future__ import annotations

import shutil
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from storage.atomic import atomic_writer, write_bytes
from storage.errors import UserError
from storage.hub.card import DATA, VIDEOS, card
from storage.hub.columns import ADDED, OF_BOTH, OF_EACH, SIDES
from storage.hub.origins import Origin, origins, public_model
from storage.hub.provenance import pair_provenance
from storage.pairs.index import pair_folder
from storage.pairs.writer import INDEX, tensor_writer
from storage.run import Run
from storage.tables.schemas import PAIR_TENSORS, open_shard
from storage.tables.shards import read_shard, shard_files, write_shard
from storage.upkeep.compact import first_of_each, row_groups

_CARD_NAME = "README.md"


@dataclass(frozen=True, kw_only=True)
class Exported:
    """What an export holds: pairs by split, files, bytes, whether pairs carry their tensors, and videos."""

    directory: Path
    splits: dict[str, int]
    files: int
    bytes: int
    tensors: bool
    videos: int


def export_pairs(run: Run, destination: Path, pairs: Path | None = None, *, videos: bool = False) -> Exported:
    """Write the pairs of a directory (default: the run's), a shard for each split of a shard, and a card.

    With `videos` copies of these too. Nothing in the folder names a place on this machine: a model that is a
    local folder goes by its last name, and so does a video that was imported by an absolute path. The card
    comes last, so that a folder without one is not whole. Raises UserError when there are no pairs, for a
    destination that holds anything, for a shard that cannot be read, and for a video that is not there.
    """
    directory = pair_folder(pairs or run.shard_dir("pairs"))
    if destination.exists() and (not destination.is_dir() or any(destination.iterdir())):
        raise UserError(f"{destination} is there and not an empty folder: give a new one")
    source = pair_provenance(run, directory, None)
    if source is None:
        raise UserError(f"there are no pairs in {directory}: run gpa pair first")
    shards = first_of_each({path: read_shard(path, "pairs", INDEX) for path in shard_files(directory)})
    about = _About(run, shards.values(), videos)
    copies = about.copied(run, destination) if videos else []
    written: list[Path] = []
    tensors = True
    for path, ids in shards.items():
        carries = _has_tensors(path)
        tensors = tensors and carries
        for split in pc.unique(ids["split"]).to_pylist():
            rows = ids.filter(pc.equal(ids["split"], split))
            place = destination / DATA / f"{split}-{path.name}"
            (_write_tensors if carries else _write_index)(path, place, rows, about)
            written.append(place)
    if videos:
        written += _write_metadata(destination, about, shards.values())
    write_bytes(destination / _CARD_NAME, card(source, tensors=tensors, videos=videos).encode())
    size = sum(path.stat().st_size for path in written + copies)
    return Exported(
        directory=destination,
        splits=source.splits,
        files=len(written),
        bytes=size,
        tensors=tensors,
        videos=len(copies),
    )


class _About:
    """What an export says of the videos of pairs; where the run no longer holds a candidate, nothing."""

    def __init__(self, run: Run, shards: Iterable[pa.Table], videos: bool) -> None:
        self._split = {
            name: row["split"]
            for table in shards
            for row in table.select(["winner_id", "loser_id", "split"]).to_pylist()
            for name in (row["winner_id"], row["loser_id"])
        }
        self._known = origins(run, self._split)
        self._videos = videos

    def added(self, rows: pa.Table) -> pa.Table:
        """The rows with the columns of an export, and without the places of local models."""
        models = [None if one is None else public_model(one) for one in rows["model"].to_pylist()]
        rows = rows.set_column(rows.column_names.index("model"), "model", pa.array(models, pa.string()))
        known = {side: [self._known.get(one) for one in rows[f"{side}_id"].to_pylist()] for side in SIDES}
        for name in OF_BOTH:
            rows = _with(rows, name, [None if one is None else getattr(one, name) for one in known["winner"]])
        for side in SIDES:
            ids = rows[f"{side}_id"].to_pylist()
            told = [self._of_one(name, one) for name, one in zip(ids, known[side], strict=True)]
            for name in OF_EACH:
                rows = _with(rows, f"{side}_{name}", [one.get(name) for one in told])
        return rows

    def copied(self, run: Run, destination: Path) -> list[Path]:
        """Copies of the videos. Raises UserError for one that is not there."""
        lost = [name for name in self._split if name not in self._known]
        if lost:
            raise UserError(
                f"{run.path} holds no candidate {lost[0]} ({len(lost)} of these pairs are not in it): give "
                "the run that the pairs are of, or leave `videos` out"
            )
        gone = [name for name, one in self._known.items() if not run.resolve(str(one.uri)).is_file()]
        if gone:
            raise UserError(
                f"{run.path} has lost the video of candidate {gone[0]} ({len(gone)} in all): leave `videos` "
                "out, or run the command again that made it"
            )
        return [self._copy(run, destination, name, one) for name, one in self._known.items()]

    def _copy(self, run: Run, destination: Path, name: str, one: Origin) -> Path:
        target = destination / self._copy_name(name)
        with run.resolve(str(one.uri)).open("rb") as file, atomic_writer(target) as handle:
            shutil.copyfileobj(file, handle)
        return target

    def _copy_name(self, name: str) -> str:
        return f"{VIDEOS}/{self._split[name]}/{name}.mp4"

    def _of_one(self, name: str, one: Origin | None) -> dict[str, Any]:
        if one is None:
            return {}
        uri = self._copy_name(name) if self._videos else one.uri
        return vars(one) | {"video": uri, "origin": one.kind}


def _with(rows: pa.Table, name: str, values: list[Any]) -> pa.Table:
    return rows.append_column(name, pa.array(values, ADDED.field(name).type))


def _write_index(path: Path, destination: Path, kept: pa.Table, about: _About) -> None:
    write_shard(destination.parent, "pairs", about.added(kept)).rename(destination)


def _write_tensors(path: Path, destination: Path, kept: pa.Table, about: _About) -> None:
    with tensor_writer(destination, ADDED) as writer:
        for rows in row_groups(path, kept["pair_id"]):
            writer.write_table(about.added(rows).cast(writer.schema))


def _write_metadata(destination: Path, about: _About, shards: Iterable[pa.Table]) -> list[Path]:
    """What makes folders of videos a VideoFolder: paths of a pair's two videos, and all else of it."""
    rows = about.added(pa.concat_tables(shards))
    for side in SIDES:
        names = [Path(name).name for name in rows[f"{side}_video"].to_pylist()]
        at = rows.column_names.index(f"{side}_video")
        rows = rows.set_column(at, f"{side}_file_name", pa.array(names, pa.string()))
    places = []
    for split in pc.unique(rows["split"]).to_pylist():
        places.append(destination / VIDEOS / split / "metadata.parquet")
        with atomic_writer(places[-1]) as handle:
            pq.write_table(rows.filter(pc.equal(rows["split"], split)).replace_schema_metadata(), handle)
    return places


def _has_tensors(path: Path) -> bool:
    with open_shard(path, "pairs") as shard:
        return set(PAIR_TENSORS[:3]) <= set(shard.schema_arrow.names)
