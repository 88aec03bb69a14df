"""Several simulated nodes on this machine, each with a raylet of its own, that can be killed."""

from __future__ import annotations

import json
import math
import os
import subprocess
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil

from jobs.bench.faults.simulated import JOURNAL, make_journal
from pipeline.engine.ray_session import local_environment
from storage.errors import UserError

_STORE = {"object_store_memory": 80 * 2**20}


class Nodes:
    """A cluster whose head has no places for workers, so that every other node can be lost."""

    def __init__(self, count: int, cpus: int, gpus: int = 0) -> None:
        from ray.cluster_utils import Cluster

        head = {"num_cpus": 0, "num_gpus": 0, "include_dashboard": False, **_STORE}
        self._cluster = Cluster(initialize_head=True, head_node_args=head)
        self._each = {"num_cpus": cpus, "num_gpus": gpus, **_STORE}
        self._nodes: list[Any] = [self.add() for _ in range(count)]

    @property
    def address(self) -> str:
        """What `--ray-address` is given."""
        return str(self._cluster.address)

    def add(self) -> Any:
        """Start another node."""
        return self._cluster.add_node(**self._each)

    def kill(self, number: int) -> None:
        """End a node at once, as a machine that loses power."""
        self._cluster.remove_node(self._nodes[number], allow_graceful=False)

    def stop(self) -> None:
        """End everything."""
        self._cluster.shutdown()


@contextmanager
def simulated_nodes(count: int, cpus: int, gpus: int = 0) -> Iterator[Nodes]:
    """`count` nodes with room for `cpus` workers each, on the loopback interface."""
    # The processes of the nodes inherit it, and a driver in this process reads it again.
    os.environ.update(local_environment())
    nodes = Nodes(count, cpus, gpus)
    try:
        yield nodes
    finally:
        nodes.stop()


_SAMPLE_SECONDS = 0.2


@dataclass(frozen=True, kw_only=True)
class ScalingFigures:
    """Seconds from all actors ready to the last task's end, ideal seconds, and their excess in percent.

    `startup` are the seconds before. `driver_first` and `driver_most` are MiB that the driver holds in the
    first second of the work and at most, `written` the MiB that the workers wrote.
    """

    nodes: int
    actors: int
    startup: float
    wall: float
    ideal: float
    excess: float
    driver_first: float
    driver_most: float
    written: float


def measure_scaling(
    command: Sequence[str],
    nodes: Sequence[int],
    actors: Sequence[int],
    *,
    candidates: int,
    seconds: float,
    kilobytes: int,
) -> Iterator[ScalingFigures]:
    """Yield the figures for every number of nodes and actors. Raises UserError when the command fails."""
    for count in nodes:
        with simulated_nodes(count, cpus=math.ceil(max(actors) / count)) as cluster:
            for workers in actors:
                with tempfile.TemporaryDirectory(prefix="gpa-scale-") as name:
                    words = ["--candidates", candidates, "--seconds", seconds, "--kilobytes", kilobytes]
                    words += ["--workers", workers, "--barrier", workers, "--ray-address", cluster.address]
                    yield _measure(
                        Path(name),
                        [*command, *map(str, words)],
                        count,
                        workers,
                        candidates * seconds / workers,
                    )


def _measure(folder: Path, command: Sequence[str], nodes: int, actors: int, ideal: float) -> ScalingFigures:
    journal = folder / JOURNAL
    make_journal(journal)
    began = time.monotonic()
    words = [*command, str(folder / "run"), "--journal", str(journal), "--json"]
    process = subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    memory = list(_watch(process))
    out, said = process.communicate()
    if process.returncode:
        raise UserError(f"the simulated sampling ended with {process.returncode}: {said[-2000:]}")
    ready = max(int(path.name.split("-")[1]) for path in journal.glob("ready-*")) / 1e9
    wall = json.loads(out)["ended"] - ready
    held = [size for moment, size in memory if moment >= ready]
    first = [size for moment, size in memory if ready <= moment < ready + 1] or held
    written = sum(path.stat().st_size for path in (folder / "run").rglob("*") if path.is_file())
    return ScalingFigures(
        nodes=nodes,
        actors=actors,
        startup=ready - began,
        wall=wall,
        ideal=ideal,
        excess=100 * (wall / ideal - 1),
        driver_first=max(first) / 2**20,
        driver_most=max(held) / 2**20,
        written=written / 2**20,
    )


def _watch(process: subprocess.Popen[str]) -> Iterator[tuple[float, int]]:
    """The driver's memory now and then, until it ends."""
    driver = psutil.Process(process.pid)
    while process.poll() is None:
        try:
            yield time.monotonic(), driver.memory_info().rss
        except psutil.NoSuchProcess:
            return
        time.sleep(_SAMPLE_SECONDS)
