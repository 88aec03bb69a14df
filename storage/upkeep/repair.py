"""Damage is put aside, never deleted, so that the command that made a file makes it again.

For a command that holds the run alone (`Run.lock_alone`).
"""

from __future__ import annotations

import logging
import os
from collections.abc import Collection
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc

from storage.atomic import sweep_stale, sync_directory, write_error
from storage.run import Run
from storage.tables.schemas import KEYS, UnreadableShardError
from storage.tables.shards import read_shard, shard_files, write_shard

log = logging.getLogger(__name__)

_DAMAGED = "damaged"
MEDIA_FOLDERS = ("media/videos", "media/latents", "media/conditions", "media/images")


def set_aside_unreadable(run: Run, *tables: str) -> list[Path]:
    """Move shards of these tables that are truncated or damaged to RUN/damaged/TABLE; return where they are.

    A shard that is sound but of another schema version, or of another table, stays and is named by whoever
    reads it. Raises UserError when the run cannot be written.
    """
    moved = []
    for path in unreadable_shards(run, *tables):
        moved.append(_move(path, run.path / _DAMAGED / path.parent.name))
        log.warning("%s is damaged: now in %s; its rows are made again", path, moved[-1].parent)
    return moved


def unreadable_shards(run: Run, *tables: str) -> list[Path]:
    """The shards of these tables that are truncated or damaged. Raises UserError as reading does."""
    found = []
    for table in tables:
        for path in shard_files(run.shard_dir(table)):
            try:
                read_shard(path, table)
            except UnreadableShardError:
                found.append(path)
    return found


def sweep_leftovers(run: Run, *folders: str) -> None:
    """Remove what killed writers left in these folders of a run.

    Once a command and not with every write: were a clock set forward in between, a file that another worker
    is writing would look an hour old.
    """
    for folder in folders:
        sweep_stale(run.path / folder)


def drop_rows(run: Run, table: str, keys: Collection[str]) -> None:
    """Remove the rows whose first key column is in `keys`, durably.

    What else was in their shards is written as new ones first: a crash in between costs no row.
    """
    column, wanted = KEYS[table][0], pa.array(sorted(keys), pa.string())
    directory = run.shard_dir(table)
    for path in shard_files(directory) if keys else []:
        rows = read_shard(path, table)
        hit = pc.is_in(rows[column], value_set=wanted)
        if not pc.any(hit).as_py():
            continue
        rest = rows.filter(pc.invert(hit))
        if rest.num_rows:
            write_shard(directory, table, rest)
        path.unlink()
        sync_directory(directory)


def _move(path: Path, folder: Path) -> Path:
    target = folder / path.name
    try:
        folder.mkdir(parents=True, exist_ok=True)
        os.replace(path, target)
        sync_directory(folder)
        sync_directory(path.parent)
    except OSError as error:
        raise write_error(path, error) from error
    return target
