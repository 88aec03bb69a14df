"""A run: one directory that holds everything, addressed by relative paths, and run.yaml, its header.

The header is written whole, and known to be whole when it is read.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

import pyarrow as pa
import yaml

from storage import locks
from storage.atomic import TEMP_SUFFIX, write_bytes, write_error
from storage.errors import UserError
from storage.locks import FOLDER as LOCK_FOLDER
from storage.tables.records import utc_now
from storage.tables.schemas import SCHEMA_VERSION, TABLES, open_shard, table_schema
from storage.tables.shards import read_rows, shard_files
from storage.tables.versions import git_revision, gpa_version, require_readable, versions
from storage.texts import require_utf8_name

_FORMAT = "gpa-run"
RUN_FILE = "run.yaml"
# YAML's own mark for the end of a document: without it the start of a header is a header too.
_END = b"...\n"
# In C where it can be: every command reads the header, some several times.
_LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
_FOLDERS = {*TABLES, "media", "train", "eval", "report", LOCK_FOLDER}
_RESTORE = "restore it from a copy, or delete it and repeat the gpa sample that made the run"


def _new_header() -> dict[str, Any]:
    """The header of a run that no command has written to."""
    return {
        "format": _FORMAT,
        "schema_version": SCHEMA_VERSION,
        "gpa": gpa_version(),
        "created_at": utc_now(),
        "commands": {},
    }


def _read_header(run: Path) -> dict[str, Any]:
    """The header of the run at `run`. Raises UserError when it is damaged or of a version not read here."""
    path = run / RUN_FILE
    try:
        data = path.read_bytes()
        header = yaml.load(data.decode("utf-8"), Loader=_LOADER)  # noqa: S506 (a safe one)
    except FileNotFoundError as error:
        raise UserError(f"{path} is gone: {_RESTORE}") from error
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise UserError(f"{path} cannot be read as YAML: {_RESTORE}") from error
    if not data.strip():
        raise UserError(f"{path} is empty: {_RESTORE}")
    if not isinstance(header, dict) or header.get("format") != _FORMAT:
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


def _write_header(run: Path, header: dict[str, Any]) -> None:
    """Replace the header, durably; a failed write leaves the old one. Raises UserError."""
    whole = _new_header() | header | {"gpa": gpa_version()}
    text = yaml.safe_dump(whole, sort_keys=False, allow_unicode=True, explicit_end=True)
    write_bytes(run / RUN_FILE, text.encode("utf-8"))


def is_run(path: Path) -> bool:
    """Whether a directory is a run, of whatever version and state; a run.yaml of others makes none."""
    file = path / RUN_FILE
    try:
        # A pipe of this name would never end.
        return file.is_file() and f"format: {_FORMAT}".encode() in file.read_bytes().splitlines()
    except OSError:
        return False


def _would_be_run(path: Path) -> bool:
    """Whether a directory without a header may become a run: it is empty, or a run that lost its header."""
    entries = [entry for entry in path.iterdir() if not _is_leftover(entry)]
    return not entries or ({entry.name for entry in entries} <= _FOLDERS and _holds_shards(path))


def _holds_shards(path: Path) -> bool:
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


_PAIRS_KEPT = "pairs-kept"
_ID = re.compile(r"[A-Za-z0-9_-]{1,128}")


@dataclass(frozen=True)
class Run:
    """An opened run directory. Nothing is written by opening it: a read-only copy can be read."""

    path: Path

    @classmethod
    def create_or_open(cls, path: Path | str) -> Run:
        """Open the run at `path`, or make one in a missing or empty directory. Raises UserError otherwise."""
        path = Path(path)
        require_utf8_name(path, "the run")
        if (path / RUN_FILE).exists():
            return cls.open(path)
        if path.exists() and not path.is_dir():
            raise UserError(f"{path} is a file: a run is a directory, give another path")
        if path.is_dir() and not _would_be_run(path):
            raise UserError(f"{path} is not empty and has no {RUN_FILE}: give a new or an empty directory")
        try:
            path.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise write_error(path, error) from error
        with locks.hold(path, locks.HEADER, wait=True):
            if not (path / RUN_FILE).exists():
                _write_header(path, _new_header())
        return cls(path)

    @classmethod
    def open(cls, path: Path | str) -> Run:
        """Open an existing run. Raises UserError when it is missing, no run, or of another schema version."""
        run = cls(Path(path))
        require_utf8_name(run.path, "the run")
        if not run.path.exists():
            raise UserError(f"there is no run at {path}: check the path, or start one with gpa sample")
        if not (run.path / RUN_FILE).is_file():
            if _holds_shards(run.path):
                raise UserError(
                    f"{path} has lost its {RUN_FILE}: restore it from a copy, or repeat the gpa sample that "
                    "made the run, which writes a new one and samples nothing twice"
                )
            raise UserError(f"{path} is not a run (it has no {RUN_FILE}): check the path")
        run.header()
        return run

    def header(self) -> dict[str, Any]:
        """What run.yaml says: format, schema_version, created_at, commands. Raises UserError when broken."""
        return _read_header(self.path)

    def shard_dir(self, table: str) -> Path:
        """The directory of a table's shards, which need not exist. Raises KeyError for an unknown table."""
        table_schema(table)
        return self.path / table

    def rows(self, table: str, columns: Sequence[str] | None = None) -> pa.Table:
        """Every row of a table, one per key; no rows when nothing was written. See `shards.read_rows`."""
        return read_rows(self.shard_dir(table), table, columns)

    def resolve(self, uri: str) -> Path:
        """The file of a URI stored in a row. Raises UserError for one that leaves the run, links included."""
        pure = PurePosixPath(uri)
        if not pure.parts or pure.is_absolute() or ".." in pure.parts or "\\" in uri or "\0" in uri:
            raise UserError(
                f"{uri!r} is not a relative path inside the run {self.path}: correct the row that holds it"
            )
        path = self.path / pure
        if not path.resolve().is_relative_to(self.path.resolve()):
            raise UserError(f"{uri!r} leads out of the run {self.path} by a link: copy the file into the run")
        return path

    def video_uri(self, candidate_id: str) -> str:
        """Where the video of a candidate lies, relative to the run."""
        return f"media/videos/{_safe(candidate_id)}.mp4"

    def latent_uri(self, candidate_id: str) -> str:
        """Where the final latents of a candidate lie, relative to the run."""
        return f"media/latents/{_safe(candidate_id)}.safetensors"

    def condition_uri(self, prompt_id: str) -> str:
        """Where the encoded condition of a prompt lies, relative to the run."""
        return f"media/conditions/{_safe(prompt_id)}.safetensors"

    def image_uri(self, prompt_id: str) -> str:
        """Where the first frame of a prompt lies, relative to the run."""
        return f"media/images/{_safe(prompt_id)}.png"

    def record(self, command: str, config: dict[str, Any], preset: dict[str, Any] | None = None) -> None:
        """Merge the resolved configuration of a command that writes here into run.yaml, with all versions.

        The first `preset` that is given is what the run was made with, and stays.
        """
        entry = {"config": config, "versions": versions(), "git_revision": git_revision(), "at": utc_now()}
        with locks.hold(self.path, locks.HEADER, wait=True):
            header = self.header()
            header.setdefault("commands", {})[command] = entry
            if preset is not None:
                header.setdefault("preset", preset)
            # From now on the run holds what only this gpa and newer ones read.
            header["schema_version"] = SCHEMA_VERSION
            _write_header(self.path, header)

    def require_model(self, model: str, revision: str, besides: str | None = None) -> None:
        """Refuse, as UserError, a run whose candidates are of another model or revision.

        Those of the model `besides` may be there too.
        """
        held = self.rows("candidates", ["model", "revision"]).group_by(["model", "revision"]).aggregate([])
        for row in held.to_pylist():
            if row["model"] != besides and (row["model"], row["revision"]) != (model, revision):
                raise UserError(
                    f"{self.path} holds candidates of {row['model']} at revision {row['revision']}, this "
                    f"command uses {model} at revision {revision}: give that model and revision, "
                    "or another run directory"
                )

    @contextmanager
    def lock(self, stage: str) -> Iterator[None]:
        """Write as `stage`, alone; other stages may write too. Raises UserError when the lock is taken.

        The lock dies with the process.
        """
        with locks.hold(self.path, locks.RUN, shared=True), locks.hold(self.path, _safe(stage)):
            yield

    @contextmanager
    def lock_alone(self, stage: str) -> Iterator[None]:
        """Write while nobody else does: for what removes rows or files. Raises UserError as `lock` does."""
        with locks.hold(self.path, locks.RUN), locks.hold(self.path, _safe(stage)):
            yield

    @contextmanager
    def keep_pairs(self) -> Iterator[None]:
        """Have the run's pair shards stay as they are while they are read for long."""
        with locks.hold(self.path, _PAIRS_KEPT, shared=True):
            yield

    @contextmanager
    def replace_pairs(self) -> Iterator[None]:
        """Replace the run's pair shards. Raises UserError naming the training that reads them."""
        with ExitStack() as stack:
            try:
                stack.enter_context(locks.hold(self.path, _PAIRS_KEPT))
            except locks.Taken as error:
                who = ", ".join(locks.holders(self.path)) or "a training"
                raise UserError(
                    f"the pairs of {self.path} are being read ({who}): wait for it, or write the new "
                    "selection elsewhere (`out` DIR, then gpa train-dpo --pairs DIR)"
                ) from error
            yield


def _safe(name: str) -> str:
    if not _ID.fullmatch(name):
        raise ValueError(f"an id must be 1-128 letters, digits, - or _, got {name!r}: use ids.content_id")
    return name
