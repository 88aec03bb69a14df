"""A run: one directory that holds everything, addressed by relative paths."""

from __future__ import annotations

import fcntl
import os
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, TextIO

import pyarrow as pa
import yaml

from storage.atomic import TEMP_SUFFIX, write_bytes, write_error
from storage.errors import UserError
from storage.records import utc_now
from storage.schemas import SCHEMA_VERSION, table_schema
from storage.shards import read_rows
from storage.versions import git_revision, versions

FORMAT = "gpa-run"
RUN_FILE = "run.yaml"
LOCK_FOLDER = ".locks"
_ID = re.compile(r"[A-Za-z0-9_-]{1,128}")


@dataclass(frozen=True)
class Run:
    """An opened run directory. Nothing is written by opening it: a read-only copy can be read."""

    path: Path

    @classmethod
    def create_or_open(cls, path: Path | str) -> Run:
        """Open the run at `path`, or make one in a missing or empty directory. Raises UserError otherwise."""
        path = Path(path)
        if (path / RUN_FILE).exists():
            return cls.open(path)
        if path.exists() and not path.is_dir():
            raise UserError(f"{path} is a file: a run is a directory, give another path")
        if path.is_dir() and any(not _is_leftover(entry) for entry in path.iterdir()):
            raise UserError(f"{path} is not empty and has no {RUN_FILE}: give a new or an empty directory")
        try:
            path.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise write_error(path, error) from error
        run = cls(path)
        with run._header_lock():
            if not (path / RUN_FILE).exists():
                run._write_header(
                    {
                        "format": FORMAT,
                        "schema_version": SCHEMA_VERSION,
                        "created_at": utc_now(),
                        "commands": {},
                    }
                )
        return run

    @classmethod
    def open(cls, path: Path | str) -> Run:
        """Open an existing run. Raises UserError when it is missing, no run, or of another schema version."""
        run = cls(Path(path))
        if not run.path.exists():
            raise UserError(f"there is no run at {path}: check the path, or start one with gpa sample")
        if not (run.path / RUN_FILE).is_file():
            raise UserError(f"{path} is not a run (it has no {RUN_FILE}): check the path")
        version = run.header().get("schema_version")
        if version != SCHEMA_VERSION:
            raise UserError(
                f"{run.path / RUN_FILE} has schema version {version}, this gpa reads version "
                f"{SCHEMA_VERSION}: use the gpa that wrote the run, or start a new run directory"
            )
        return run

    def header(self) -> dict[str, Any]:
        """What run.yaml says: format, schema_version, created_at, commands. Raises UserError when broken."""
        path = self.path / RUN_FILE
        try:
            header = yaml.safe_load(path.read_text(encoding="utf-8"))
        except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
            raise UserError(
                f"{path} cannot be read as YAML: restore it or start a new run directory"
            ) from error
        if not isinstance(header, dict) or header.get("format") != FORMAT:
            raise UserError(f"{path} is not the {RUN_FILE} of a gpa run: give another directory")
        return header

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

    def record(self, command: str, config: dict[str, Any]) -> None:
        """Merge the resolved configuration of a command that writes here into run.yaml, with all versions."""
        entry = {"config": config, "versions": versions(), "git_revision": git_revision(), "at": utc_now()}
        with self._header_lock():
            header = self.header()
            header.setdefault("commands", {})[command] = entry
            self._write_header(header)

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
    def lock(self, stage: str = "run") -> Iterator[None]:
        """Hold the lock of a stage, which dies with the process. Raises UserError when another one has it."""
        with self._open_lock(_safe(stage)) as handle:
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as error:
                holder = handle.read().strip() or "unknown"
                raise UserError(
                    f"another process (pid {holder}) runs {stage} in {self.path}: wait for it or stop it"
                ) from error
            handle.seek(0)
            handle.truncate()
            handle.write(f"{os.getpid()}\n")
            handle.flush()
            yield

    def _open_lock(self, name: str) -> TextIO:
        path = self.path / LOCK_FOLDER / f"{name}.lock"
        try:
            path.parent.mkdir(exist_ok=True)
            return os.fdopen(os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644), "r+")
        except OSError as error:
            raise write_error(path, error) from error

    @contextmanager
    def _header_lock(self) -> Iterator[None]:
        with self._open_lock("header") as handle:
            fcntl.flock(handle, fcntl.LOCK_EX)
            yield

    def _write_header(self, header: dict[str, Any]) -> None:
        text = yaml.safe_dump(header, sort_keys=False, allow_unicode=True)
        write_bytes(self.path / RUN_FILE, text.encode("utf-8"))


def _is_leftover(entry: Path) -> bool:
    return entry.name == LOCK_FOLDER or entry.name.endswith(TEMP_SUFFIX)


def _safe(name: str) -> str:
    if not _ID.fullmatch(name):
        raise ValueError(f"an id must be 1-128 letters, digits, - or _, got {name!r}: use ids.content_id")
    return name
