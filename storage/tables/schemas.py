"""The Arrow schema of every table, and the check that a Parquet file has it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import Field, fields
from pathlib import Path
from types import NoneType
from typing import Any, Literal, get_args, get_origin, get_type_hints

import pyarrow as pa
import pyarrow.parquet as pq

from storage.errors import UserError
from storage.tables.records import CLIP_MEASURES, Candidate, Pair, Prompt, Reject, Score, TensorBlob
from storage.tables.versions import OlderShard, Source, gpa_version, require_readable, sources

SCHEMA_VERSION = 1
VERSION_KEY = b"gpa.schema_version"
TABLE_KEY = b"gpa.table"
WRITER_KEY = b"gpa.version"

_TENSOR_TYPE = pa.struct(
    [("data", pa.large_binary()), ("shape", pa.list_(pa.int64())), ("dtype", pa.string())]
)
_text = pa.string()
_number = pa.float64()
_NUMBERS = {(int, 64): pa.int64(), (int, 32): pa.int32(), (float, 64): _number, (float, 32): pa.float32()}
# The tables that are written as records, each of one class.
RECORDS: dict[str, type] = {
    "prompts": Prompt,
    "candidates": Candidate,
    "scores": Score,
    "pairs": Pair,
    "rejects": Reject,
}


def _of_record(cls: type) -> pa.Schema:
    """The schema of the rows that a record class describes."""
    kinds = get_type_hints(cls)
    return pa.schema([_column(one, kinds[one.name]) for one in fields(cls)])


def _column(one: Field[Any], kind: Any) -> pa.Field:
    inner = [each for each in get_args(kind) if each is not NoneType]
    optional = len(inner) < len(get_args(kind))
    return pa.field(
        one.name,
        _arrow(inner[0] if optional else kind, one.metadata.get("width", 64)),
        nullable=optional or bool(one.metadata.get("nullable")),
    )


def _arrow(kind: Any, width: int) -> pa.DataType:
    if kind is TensorBlob:
        return _TENSOR_TYPE
    if get_origin(kind) is Sequence:
        return pa.list_(_arrow(get_args(kind)[0], width))
    return _text if kind is str or get_origin(kind) is Literal else _NUMBERS[kind, width]


def _marked(cls: type, mark: str) -> tuple[str, ...]:
    return tuple(one.name for one in fields(cls) if one.metadata.get(mark))


def _of_records(mark: str) -> dict[str, tuple[str, ...]]:
    """The columns with a mark, of the tables that have any."""
    return {table: names for table, cls in RECORDS.items() if (names := _marked(cls, mark))}


def _schema(required: dict[str, pa.DataType], optional: dict[str, pa.DataType]) -> pa.Schema:
    columns = [pa.field(name, kind, nullable=False) for name, kind in required.items()]
    return pa.schema(columns + [pa.field(name, kind) for name, kind in optional.items()])


TABLES: dict[str, pa.Schema] = {
    **{table: _of_record(cls) for table, cls in RECORDS.items()},
    "judgements": _schema(
        {"candidate_id": _text, "judge": _text, "judge_version": _text},
        {
            "judge_license": _text,
            "names": pa.list_(_text),
            "values": pa.list_(_number),
            "seconds": _number,
        },
    ),
    "clips": _schema(
        {"model_name": _text, "candidate_id": _text, "prompt_id": _text, "seed": pa.int64()},
        {
            "adapter": _text,
            "adapter_weight": _number,
            "judges": _text,
            **dict.fromkeys(CLIP_MEASURES, _number),
            "more": _text,
        },
    ),
}

PAIR_TENSORS = tuple(one.name for one in TABLES["pairs"] if one.type == _TENSOR_TYPE)
REQUIRED_TENSORS = ("winner_latents", "loser_latents", "prompt_embeds")
# Columns that came after the first shards of their table: a shard without them is read with nulls there.
ADDED = _of_records("added")
# What makes a row itself. Two rows with equal keys are the same row written twice.
KEYS = _of_records("key") | {
    "judgements": ("candidate_id", "judge", "judge_version"),
    "clips": ("model_name", "candidate_id"),
}
# What differs when the same work is done again: it names no content.
VOLATILE = _of_records("volatile") | {"judgements": ("seconds",)}


def table_schema(table: str) -> pa.Schema:
    """The schema of `table`. Raises KeyError naming the known tables."""
    if table not in TABLES:
        raise KeyError(f"unknown table {table!r}: known are {', '.join(TABLES)}")
    return TABLES[table]


def default_columns(table: str) -> list[str]:
    """Every column but the tensors of pairs, which are read only where they are asked for by name."""
    return [name for name in table_schema(table).names if table != "pairs" or name not in PAIR_TENSORS]


def stamped(schema: pa.Schema, table: str) -> pa.Schema:
    """`schema` with the table's name, the schema version and this gpa's version in its metadata."""
    stamp = {TABLE_KEY: table.encode(), VERSION_KEY: str(SCHEMA_VERSION).encode()}
    writer = gpa_version()
    return schema.with_metadata(stamp if writer is None else stamp | {WRITER_KEY: writer.encode()})


class Vanished(UserError):
    """A shard that was listed a moment ago is gone: another command put others in its place."""


def open_shard(path: Path, table: str, columns: list[str] | None = None) -> pq.ParquetFile:
    """Open a Parquet file that must hold `table` with `columns` (default: all but tensors).

    A file of an older schema version that rules lead from reads as one of today. Raises Vanished for a file
    that is gone, and UserError naming the file and the remedy for a truncated, foreign, other-version or
    other-table file, and for a missing or differently typed column.
    """
    try:
        shard = pq.ParquetFile(path, page_checksum_verification=True)
    except FileNotFoundError as error:
        raise Vanished(
            f"{path} is gone: another command replaced the files of its folder; run the same command again"
        ) from error
    except (pa.ArrowException, OSError) as error:
        raise unreadable(path) from error
    found = shard.schema_arrow
    version = _check_stamp(path, table, found.metadata or {})
    places = sources(table, version, SCHEMA_VERSION, table_schema(table).names)
    _check_columns(path, table, found, columns or default_columns(table), places)
    if version == SCHEMA_VERSION:
        return shard
    shard.close()
    return OlderShard(path, table_schema(table), places, page_checksum_verification=True)


class UnreadableShardError(UserError):
    """The bytes of a shard are not what was written."""


def unreadable(path: Path) -> UnreadableShardError:
    """The error for a file whose bytes cannot be read as Parquet."""
    return UnreadableShardError(
        f"{path} is not a readable Parquet file (truncated or foreign): "
        "delete it and run the command that wrote it again; it redoes only the missing rows"
    )


def _check_stamp(path: Path, table: str, metadata: dict[bytes, bytes]) -> int:
    """The schema version of a shard that holds this table."""
    version = metadata.get(VERSION_KEY)
    if version is None:
        raise UserError(f"{path} was not written by gpa (no schema version inside): move it out of the run")
    writer = metadata.get(WRITER_KEY)
    number = require_readable(
        path,
        version.decode(errors="replace"),
        SCHEMA_VERSION,
        None if writer is None else writer.decode(errors="replace"),
    )
    held = metadata.get(TABLE_KEY, b"").decode(errors="replace")
    if held != table:
        raise UserError(f"{path} holds the table {held!r}, not {table!r}: move it to the folder {held}/")
    return number


def _check_columns(
    path: Path, table: str, found: pa.Schema, columns: list[str], places: dict[str, Source]
) -> None:
    wanted = table_schema(table)
    for name in columns:
        place = places[name]
        if place.column is None or found.get_field_index(place.column) < 0:
            if name in ADDED.get(table, ()) or place.fill is not None:
                continue
            if name in PAIR_TENSORS:
                raise UserError(
                    f"{path} has no column {name!r}: these pairs were written without tensors; pair without "
                    "`index_only`, of candidates that have latents (gpa import --model makes them)"
                )
            raise UserError(f"{path} has no column {name!r}: delete it and run the same command again")
        got, expected = found.field(place.column).type, wanted.field(name).type
        if got != expected and not place.changed:
            raise UserError(
                f"{path} has column {name!r} of type {got}, expected {expected}: "
                "delete it and run the command that wrote it again"
            )
