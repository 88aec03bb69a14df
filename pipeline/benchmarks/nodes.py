"""Several simulated nodes on this machine, each with a raylet of its own, that can be killed."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from pipeline.engine.ray_session import local_environment

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
