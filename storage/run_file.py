"""run.yaml, the header of a run: written whole, and known to be whole when it is read."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

from storage.atomic import TEMP_SUFFIX, write_bytes
from storage.errors import UserError
from storage.locks import FOLDER as LOCK_FOLDER
from storage.tables.records import utc_now
from storage.tables.schemas import SCHEMA_VERSION, TABLES, open_shard
from storage.tables.shards import shard_files
from storage.tables.versions import gpa_version, require_readable

FORMAT = "gpa-run"
RUN_FILE = "run.yaml"
# YAML's own mark for the end of a document: without it the start of a header is a header too.
_END = b"...\n"
_FOLDERS = {*TABLES, "media", "train", "eval", "report", LOCK_FOLDER}
_RESTORE = "restore it from a copy, or delete it and repeat the gpa sample that made the run"


def new_header() -> dict[str, Any]:
    """The header of a run that no command has written to."""
    return {
        "format": FORMAT,
        "schema_version": SCHEMA_VERSION,
        "gpa": gpa_version(),
        "created_at": utc_now(),
        "commands": {},
    }


def read_header(run: Path) -> dict[str, Any]:
    """The header of the run at `run`. Raises UserError when it is damaged or of a version not read here."""
    path = run / RUN_FILE
    try:
        data = path.read_bytes()
        header = yaml.safe_load(data.decode("utf-8"))
    except FileNotFoundError as error:
        raise UserError(f"{path} is gone: {_RESTORE}") from error
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise UserError(f"{path} cannot be read as YAML: {_RESTORE}") from error
    if not data.strip():
        raise UserError(f"{path} is empty: {_RESTORE}")
    if not isinstance(header, dict) or header.get("format") != FORMAT:
        raise UserError(f"{path} is not the {RUN_FILE} of a gpa run: give another directory")
    if "schema_version" in header:
        writer = header.get("gpa")
        require_readable(
            path, header["schema_version"], SCHEMA_VERSION, None if writer is None else str(writer)
        )
    # Headers of the first gpa have neither the version of gpa nor the end mark.
    whole = "schema_version" in header and (data.endswith(_END) or "gpa" not in header)
    if not whole or "created_at" not in header or not isinstance(header.get("commands"), dict):
        raise UserError(f"{path} is cut off (its end is missing): {_RESTORE}")
    return header


def write_header(run: Path, header: dict[str, Any]) -> None:
    """Replace the header, durably; a failed write leaves the old one. Raises UserError."""
    whole = new_header() | header | {"gpa": gpa_version()}
    text = yaml.safe_dump(whole, sort_keys=False, allow_unicode=True, explicit_end=True)
    write_bytes(run / RUN_FILE, text.encode("utf-8"))


def would_be_run(path: Path) -> bool:
    """Whether a directory without a header may become a run: it is empty, or a run that lost its header."""
    entries = [entry for entry in path.iterdir() if not _is_leftover(entry)]
    return not entries or ({entry.name for entry in entries} <= _FOLDERS and holds_shards(path))


def holds_shards(path: Path) -> bool:
    """Whether a directory holds prompts or candidates that gpa wrote."""
    return any(
        _is_shard(file, table) for table in ("prompts", "candidates") for file in shard_files(path / table)
    )


def _is_shard(file: Path, table: str) -> bool:
    try:
        open_shard(file, table).close()
    except UserError:
        return False
    return True


def _is_leftover(entry: Path) -> bool:
    return entry.name == LOCK_FOLDER or entry.name.endswith(TEMP_SUFFIX)
