"""Where a trial takes place: a run, the command that fills it, and the count of what it made."""

from __future__ import annotations

import random
import signal
import subprocess
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import psutil
import pyarrow as pa
import pyarrow.parquet as pq

from jobs.bench.faults.simulated import JOURNAL, make_journal, simulated_id
from storage.errors import UserError
from storage.media.tensors import read_tensors
from storage.media.video import is_whole, read_video
from storage.run import Run
from storage.tables.shards import shard_files

_PATIENCE_SECONDS = 300.0


@dataclass(kw_only=True)
class Ground:
    """`command` starts the simulated sampling (`gpa bench simulate`), `folder` holds run and journal."""

    folder: Path
    command: Sequence[str]
    random: random.Random
    candidates: int = 24
    seconds: float = 0.05
    workers: int = 0
    words: list[str] = field(default_factory=list)
    """More options of every start of the command."""
    counted: dict[str, int] | None = None
    """What `count` said, when it had to be asked early."""

    def __post_init__(self) -> None:
        make_journal(self.journal)

    @property
    def run(self) -> Path:
        """The run directory."""
        return self.folder / "run"

    @property
    def journal(self) -> Path:
        """Where finished candidates are counted."""
        return self.folder / JOURNAL

    def start(self, before: Callable[[], None] | None = None) -> subprocess.Popen[str]:
        """Start the command, its process having called `before`."""
        words = [str(self.run), "--journal", str(self.journal), "--candidates", str(self.candidates)]
        words += ["--seconds", str(self.seconds), "--workers", str(self.workers), *self.words]
        return subprocess.Popen(
            [*self.command, *words],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            preexec_fn=before,
        )

    def end(self, process: subprocess.Popen[str], *codes: int) -> str:
        """Wait for the command; return what it said on stderr. Raises UserError for another exit code."""
        _, said = process.communicate(timeout=_PATIENCE_SECONDS)
        if process.returncode not in codes:
            wanted = " or ".join(map(str, codes))
            raise UserError(f"the command ended with {process.returncode}, not {wanted}: {said[-2000:]}")
        return said

    def finish(self) -> None:
        """The same command, undisturbed, to its end."""
        self.end(self.start(), 0)

    def wait_for_work(self, process: subprocess.Popen[str], more: int = 1) -> None:
        """Wait until `more` candidates than before are finished, or the command has ended."""
        enough = min(self.candidates, self.finished() + more)
        deadline = time.monotonic() + _PATIENCE_SECONDS
        while process.poll() is None and self.finished() < enough and time.monotonic() < deadline:
            time.sleep(0.005)

    def a_moment(self, longest: float = 0.4) -> None:
        """Let a random time pass."""
        time.sleep(self.random.random() * longest)

    def kill(self, process: subprocess.Popen[str], number: int = signal.SIGKILL) -> bool:
        """Send the command a signal; whether it was still there to receive it."""
        if process.poll() is not None:
            return False
        process.send_signal(number)
        return True

    def a_worker(self, process: subprocess.Popen[str]) -> psutil.Process | None:
        """A random Ray worker of the command."""
        try:
            below = psutil.Process(process.pid).children(recursive=True)
            workers = [one for one in below if one.name().startswith("ray::RayWorker")]
        except psutil.NoSuchProcess:
            return None
        return self.random.choice(workers) if workers else None

    def finished(self) -> int:
        """Candidates that were finished at least once."""
        return len(self.done())

    def done(self) -> dict[str, int]:
        """How often every candidate was finished."""
        names = (simulated_id(number) for number in range(self.candidates))
        files = ((name, self.journal / name) for name in names)
        return {name: path.read_text().count("done") for name, path in files if path.exists()}

    def durable(self) -> set[str]:
        """Candidates that the run holds, row and files."""
        if not self.run.exists():
            return set()
        run = Run.open(self.run)
        files = {
            name: [run.resolve(run.video_uri(name)), run.resolve(run.latent_uri(name))]
            for name in self.rows()[0]
        }
        return {name for name, paths in files.items() if all(map(is_whole, paths))}

    def count(self) -> dict[str, int]:
        """What is lost, double, broken, and how often finished work was done again, in all and at most."""
        ids, unreadable = self.rows()
        times = self.done().values()
        return {
            "lost": self.candidates - len(set(ids)),
            "double": len(ids) - len(set(ids)),
            "broken": unreadable + self.broken_files(),
            # A worker killed between its shard and its note has none.
            "again": sum(max(0, one - 1) for one in times),
            "worst": max(times, default=1) - 1,
        }

    def rows(self) -> tuple[list[str], int]:
        """The ids in the shards themselves, doubles included, and how many shards cannot be read."""
        found = [_ids(path) for path in shard_files(self.run / "candidates")]
        return [name for ids in found for name in ids], sum(not ids for ids in found)

    def broken_files(self) -> int:
        """Videos and latents that do not decode."""
        run, broken = Run.open(self.run), 0
        for name in sorted(set(self.rows()[0])):
            try:
                read_video(run.resolve(run.video_uri(name)))
                read_tensors(run.resolve(run.latent_uri(name)))
            except UserError:
                broken += 1
        return broken


def _ids(path: Path) -> list[str]:
    try:
        ids: list[str] = pq.read_table(path)["candidate_id"].to_pylist()
    except (pa.ArrowException, OSError):
        return []
    return ids
