"""Workers that need not import anything: forks of a process that has imported it while Ray starts.

Importing torch and diffusers takes a worker longer than all else before its first candidate, and Ray starts a
worker only when it itself has started. So a process of this file imports them meanwhile. Ray is told to start
its workers with `worker_shim.py`, which has this process fork, and waits for the fork; what Ray would have
run in a new interpreter runs in the fork. For workers without a GPU: CUDA does not outlive a fork.
"""

from __future__ import annotations

import gc
import importlib
import json
import os
import runpy
import select
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

from pipeline.engine.imports import postpone, swift_imports
from pipeline.engine.ray_places import socket_folder

_SHIM = Path(__file__).with_name("worker_shim.py")


class ForkServer:
    """The process that imports, as the driver sees it. Forks live on when it is closed: Ray ends them."""

    def __init__(self, modules: Sequence[str], environment: Mapping[str, str]) -> None:
        self._folder = tempfile.TemporaryDirectory(prefix="gpa-fork-server-", dir=socket_folder())
        address = Path(self._folder.name) / "socket"
        # Its end is closed by the kernel with the driver, however that ends.
        watched, self._lifeline = os.pipe()
        with socket.socket(socket.AF_UNIX) as listener:
            listener.bind(str(address))
            listener.listen(64)
            # -P: as for a worker of Ray, the working directory is not searched for modules.
            words = [sys.executable, "-P", "-m", "pipeline.engine.fork_server"]
            self._process = subprocess.Popen(
                [*words, str(listener.fileno()), str(watched), *modules],
                pass_fds=(listener.fileno(), watched),
                env={**os.environ, **environment, "OMP_NUM_THREADS": "1"},
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                # Ctrl-C is for the driver, which decides what becomes of the workers.
                process_group=0,
            )
        os.close(watched)
        self.python = f"{sys.executable} -I -S {_SHIM} {address}"

    def close(self) -> None:
        """End it."""
        os.close(self._lifeline)
        self._process.kill()
        self._process.wait()
        self._folder.cleanup()


def _serve(listener: socket.socket, lifeline: int) -> None:
    """Fork for every request, until the driver is gone."""
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    while True:
        ready, _, _ = select.select([listener.fileno(), lifeline], [], [])
        if lifeline in ready:
            return
        connection, _ = listener.accept()
        if os.fork():
            connection.close()
            continue
        listener.close()
        os.close(lifeline)
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        _become(connection)


def _become(connection: socket.socket) -> None:
    """Run what Ray asked for in this fork; the connection is open as long as it lives."""
    # Ray ends the process group of a worker that is gone: it must hold no other.
    os.setpgid(0, 0)
    with connection.makefile("r", encoding="utf-8") as lines:
        asked = json.loads(lines.readline())
    os.environ.clear()
    os.environ.update(asked["environment"])
    os.chdir(asked["folder"])
    sys.argv = asked["words"]
    sys.path.insert(0, os.path.dirname(sys.argv[0]))
    # Ray is imported in the fork: on import it reads from the environment how it is reached.
    runpy.run_path(sys.argv[0], run_name="__main__")
    sys.exit()


def _main(listener: str, lifeline: str, *modules: str) -> None:
    # diffusers and peft import it, and with it torch's compiler, for models that are quantised.
    postpone("bitsandbytes")
    with swift_imports():
        for module in modules:
            importlib.import_module(module)
    # Forks share what is there as long as nobody writes to it.
    gc.freeze()
    _serve(socket.socket(fileno=int(listener)), int(lifeline))


if __name__ == "__main__":
    _main(*sys.argv[1:])
