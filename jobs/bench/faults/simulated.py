"""A sampler that only waits and writes, for measuring what surrounds one: faults, scaling, memory.

Its candidates lie in a run as real ones do: a video, latents, the condition of the prompt, one shard a task.
Each finished candidate leaves a line in a journal, so that work done twice can be counted.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
from safetensors.numpy import save

from pipeline.damage import mend_candidates, mend_tables
from pipeline.engine.runners import Summary, execute, make_runner
from pipeline.engine.stage import Progress, Resources, Silent, TaskOutcome, heartbeat
from pipeline.engine.worker_settings import WorkerSettings
from storage.atomic import write_bytes
from storage.errors import UserError
from storage.media.video import is_whole
from storage.run import Run
from storage.tables.ids import content_id
from storage.tables.records import Candidate, utc_now
from storage.tables.shards import write_shard
from storage.upkeep.repair import MEDIA_FOLDERS, sweep_leftovers

_OF_PROMPT = 4
JOURNAL = "journal"
_CLIP = "clip.mp4"
_READY = "ready"


@dataclass(frozen=True, kw_only=True)
class SimulatedSettings(WorkerSettings):
    """`candidates` of `seconds` each and `kilobytes` of latents, `batch` of a prompt to a task.

    With `barrier` no worker begins before so many are ready. With `wild_clock` every worker's clock is wrong
    by up to thirty years, another amount for every candidate.
    """

    candidates: int = 24
    batch: int = 1
    seconds: float = 0.05
    kilobytes: int = 16
    barrier: int = 0
    wild_clock: bool = False


@dataclass(frozen=True, kw_only=True)
class SimulatedTask:
    """Candidates of one prompt, by their ids and numbers."""

    ids: tuple[str, ...]
    numbers: tuple[int, ...]

    @property
    def key(self) -> str:
        """The first candidate's id."""
        return self.ids[0]

    def split(self) -> tuple[SimulatedTask, ...]:
        """A task for each candidate."""
        one_each = zip(self.ids, self.numbers, strict=True)
        return tuple(SimulatedTask(ids=(name,), numbers=(number,)) for name, number in one_each)


@dataclass(kw_only=True)
class SimulatedStage:
    """Waits, writes, and keeps the journal."""

    run_path: Path
    journal: Path
    settings: SimulatedSettings
    clip: bytes
    resources: Resources = field(default_factory=Resources)
    name: str = "simulate"

    def setup(self) -> None:
        """Wait until all workers are ready, if they are to begin together."""
        self._run = Run.open(self.run_path)
        if self.settings.barrier:
            name = f"{_READY}-{time.monotonic_ns()}-{id(self)}"
            (self.journal / name).touch()
            while len(list(self.journal.glob(f"{_READY}-*"))) < self.settings.barrier:
                time.sleep(0.01)

    def process(self, task: SimulatedTask) -> TaskOutcome:
        """Make the candidates of a task."""
        started = time.perf_counter()
        rows = [self._make(*one) for one in zip(task.ids, task.numbers, strict=True)]
        write_shard(self._run.shard_dir("candidates"), "candidates", rows)
        for name in task.ids:
            with (self.journal / name).open("a") as file:
                file.write("done\n")
        return TaskOutcome(key=task.key, done=task.ids, seconds=time.perf_counter() - started)

    def _make(self, name: str, number: int) -> Candidate:
        begun = time.perf_counter()
        run, random = self._run, np.random.default_rng(number)
        prompt = _prompt(number)
        condition = run.resolve(run.condition_uri(prompt))
        if not is_whole(condition):
            write_bytes(condition, save({"prompt_embeds": np.zeros(4, np.float32)}))
        latents = random.integers(0, 256, self.settings.kilobytes * 1024, dtype=np.uint8)
        write_bytes(run.resolve(run.latent_uri(name)), save({"latents": latents}))
        write_bytes(run.resolve(run.video_uri(name)), self.clip)
        # What remains of the time: a real sampler computes, and then writes.
        while (left := self.settings.seconds - (time.perf_counter() - begun)) > 0:
            time.sleep(min(left, 0.5))
            heartbeat()
        return _row(run, name, number, self._now(random))

    def _now(self, random: np.random.Generator) -> str:
        if not self.settings.wild_clock:
            return utc_now()
        return (datetime.now(UTC) + timedelta(days=float(random.uniform(-11_000, 11_000)))).isoformat()


def run_simulated(
    run: Run, journal: Path, settings: SimulatedSettings, *, progress: Progress | None = None
) -> Summary:
    """Make every candidate that is missing or damaged, as `gpa sample` does.

    `journal` holds the clip that every candidate is. Raises UserError when it does not.
    """
    mend_tables(run, "sample", "candidates", "rejects")
    mend_candidates(run, "sample", lambda: {simulated_id(one) for one in range(settings.candidates)})
    with run.lock("sample"):
        sweep_leftovers(run, "candidates", *MEDIA_FOLDERS)
        have = set(run.rows("candidates", ["candidate_id"])["candidate_id"].to_pylist())
        tasks = list(_missing(settings, have))
        stage = SimulatedStage(
            run_path=run.path.absolute(),
            journal=journal.absolute(),
            settings=settings,
            clip=_clip(journal),
            resources=Resources(gpus=settings.gpus_per_worker),
        )
        for path in journal.glob(f"{_READY}-*"):
            path.unlink()
        return execute(
            run,
            stage,
            tasks,
            runner=make_runner(settings),
            progress=progress or Silent(),
            wanted=settings.candidates,
        )


def simulated_id(number: int) -> str:
    """The id of a simulated candidate."""
    return content_id("simulated", number)


def make_journal(journal: Path) -> None:
    """Make the folder of a journal, with the clip. Imports the video library, and torch with it."""
    from storage.media.video import write_video

    frames = np.random.default_rng(0).integers(0, 256, (3, 16, 16, 3), dtype=np.uint8)
    write_video(journal / _CLIP, frames, 8)


def _missing(settings: SimulatedSettings, have: set[str]) -> Iterator[SimulatedTask]:
    for prompt in range(0, settings.candidates, _OF_PROMPT):
        last = min(prompt + _OF_PROMPT, settings.candidates)
        for start in range(prompt, last, settings.batch):
            numbers = range(start, min(start + settings.batch, last))
            names = {simulated_id(number): number for number in numbers}
            lacking = {name: number for name, number in names.items() if name not in have}
            if lacking:
                yield SimulatedTask(ids=tuple(lacking), numbers=tuple(lacking.values()))


def _prompt(number: int) -> str:
    return content_id("simulated prompt", number // _OF_PROMPT)


def _row(run: Run, name: str, number: int, now: str) -> Candidate:
    return Candidate(
        candidate_id=name,
        prompt_id=_prompt(number),
        seed=number,
        model="simulated",
        revision="1",
        num_frames=3,
        height=16,
        width=16,
        fps=8,
        video_uri=run.video_uri(name),
        latent_uri=run.latent_uri(name),
        seconds=0.0,
        created_at=now,
    )


def _clip(journal: Path) -> bytes:
    try:
        return (journal / _CLIP).read_bytes()
    except OSError as error:
        raise UserError(f"{journal} holds no {_CLIP}: make it with jobs.bench.faults.simulated") from error
