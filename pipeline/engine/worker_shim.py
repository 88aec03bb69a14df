"""What Ray starts as the interpreter of a worker: has the fork server fork one, and lives as long as it.

Run as a script by a bare interpreter, so that it costs next to nothing: it imports nothing of this project.
"""

import json
import os
import socket
import sys


def main(address: str, *words: str) -> None:
    """Ask for a fork; without a fork server run the worker here, as Ray would have."""
    asked = {"words": words, "environment": dict(os.environ), "folder": os.getcwd()}
    try:
        with socket.socket(socket.AF_UNIX) as connection:
            connection.connect(address)
            connection.sendall(json.dumps(asked).encode() + b"\n")
            connection.recv(1)  # nothing comes: it ends with the worker
    except OSError:
        os.execv(sys.executable, [sys.executable, *words])


if __name__ == "__main__":
    main(*sys.argv[1:])
