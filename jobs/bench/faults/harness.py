"""Trials: a fault, then the same command again, then the count of what is there."""

from __future__ import annotations

import random
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from jobs.bench.faults import injectors as kinds
from jobs.bench.faults.trial import Ground
from storage.errors import UserError

FAULTS: Final[dict[str, Callable[[Ground], int]]] = {
    "driver killed": kinds.driver_killed,
    "preempted": kinds.preempted,
    "worker killed": kinds.worker_killed,
    "node killed": kinds.node_killed,
    "disk full": kinds.disk_full,
    "read-only": kinds.read_only,
    "shard cut": kinds.shard_cut,
    "video cut": kinds.video_cut,
    "latents cut": kinds.latents_cut,
    "clock changed": kinds.clock_changed,
}


@dataclass(frozen=True, kw_only=True)
class Trial:
    """What became of the candidates after one trial.

    `struck` counts the faults that hit, `lost` candidates that are not there, `double` rows too many,
    `broken` shards and files that cannot be read, `again` how often finished work was done again, `worst`
    the most for one candidate. `trouble` is what the command did wrong, or None.
    """

    fault: str
    struck: int
    candidates: int
    lost: int
    double: int
    broken: int
    again: int
    worst: int
    seconds: float
    trouble: str | None = None

    @property
    def passed(self) -> bool:
        """Whether everything is there once, readable, and nothing finished was redone more than once."""
        return not (self.trouble or self.lost or self.double or self.broken or self.worst > 1)


def run_drill(
    command: Sequence[str],
    faults: Sequence[str],
    *,
    trials: int,
    seed: int = 0,
    candidates: int,
    seconds: float,
) -> Iterator[Trial]:
    """Yield the trials of every fault, each in a new run that is deleted afterwards."""
    for number in range(trials):
        for fault in faults:
            with tempfile.TemporaryDirectory(prefix="gpa-faults-", ignore_cleanup_errors=True) as folder:
                moments = random.Random(f"{seed} {fault} {number}")
                ground = Ground(
                    folder=Path(folder),
                    command=command,
                    random=moments,
                    candidates=candidates,
                    seconds=seconds,
                )
                yield _try(ground, fault)


def _try(ground: Ground, fault: str) -> Trial:
    started, trouble, struck = time.perf_counter(), None, 0
    try:
        struck = FAULTS[fault](ground)
        if ground.counted is None:
            before, finished = ground.durable(), ground.done()
            ground.finish()
            ground.counted = ground.count()
            if redone := [name for name in before if ground.done()[name] > finished[name]]:
                raise UserError(f"{len(redone)} finished candidates were done again by the next start")
    except (UserError, KeyError) as error:
        trouble = str(error)
    counted = ground.counted or ground.count()
    seconds = time.perf_counter() - started
    return Trial(
        fault=fault,
        struck=struck,
        candidates=ground.candidates,
        trouble=trouble,
        seconds=seconds,
        **counted,
    )
