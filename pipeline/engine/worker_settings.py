"""What a command is told about its workers: how many, on what, in which environment, how patiently."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from storage.errors import FieldError, UserError

# What Ray knows, so that a slip of the pen is found here and not minutes later on another machine.
_RUNTIME_ENV_KEYS = frozenset(
    {
        "conda",
        "config",
        "container",
        "env_vars",
        "excludes",
        "image_uri",
        "pip",
        "py_executable",
        "py_modules",
        "uv",
        "worker_process_setup_hook",
        "working_dir",
    }
)


def _workers(help_line: str, **metadata: Any) -> dict[str, Any]:
    return {"help": help_line, "group": "Workers", **metadata}


@dataclass(frozen=True, kw_only=True)
class WorkerSettings:
    """Workers of a command. Raises UserError for values that make no sense.

    There are `min_workers` to `workers` Ray actors, as many as there is work for and the cluster has room
    for; 0 `workers` is this process, without Ray. `runtime_env` is a YAML or JSON file with the Ray runtime
    environment of the actors. A worker that makes no progress for `stall_timeout` seconds is replaced (0:
    never). After SIGTERM, tasks in flight have `grace` seconds to finish.
    """

    workers: int = field(
        default=0,
        metadata=_workers("Most Ray actors; 0 works in this process, without Ray.", metavar="N", common=True),
    )
    min_workers: int = field(
        default=1,
        metadata=_workers(
            "Ray actors that are kept; above it their number follows the work and the room.", metavar="N"
        ),
    )
    gpus_per_worker: float = field(
        default=0, metadata=_workers("GPUs (or a share of one) for each worker.", metavar="N", common=True)
    )
    ray_address: str | None = field(
        default=None,
        metadata=_workers("Use this Ray cluster instead of a local one.", metavar="ADDRESS", common=True),
    )
    runtime_env: Path | None = field(
        default=None,
        metadata=_workers(
            "YAML or JSON with Ray's runtime_env of the workers, such as {py_executable: PYTHON}.",
            metavar="FILE",
        ),
    )
    stall_timeout: float = field(
        default=1800.0,
        metadata=_workers(
            "Replace a worker that makes no progress for so long; 0 never does. Loading weights has at least "
            "half an hour.",
            metavar="SECONDS",
        ),
    )
    grace: float = field(
        default=20.0,
        metadata=_workers("After SIGTERM, what tasks in flight have to finish.", metavar="SECONDS"),
    )
    dashboard: bool = field(
        default=False,
        metadata=_workers("Ray's dashboard beside a local Ray, on the loopback interface."),
    )

    def __post_init__(self) -> None:
        if self.workers < 0:
            raise FieldError("workers", "0 (no Ray) or more", self.workers)
        if self.min_workers < 0:
            raise FieldError("min_workers", "0 or more", self.min_workers)
        if self.workers and self.min_workers > self.workers:
            raise UserError(
                f"min_workers {self.min_workers} is more than `workers` {self.workers}, the most there "
                "may be: raise `workers`"
            )
        for name in ("gpus_per_worker", "stall_timeout", "grace"):
            if not 0 <= getattr(self, name) < math.inf:
                raise FieldError(name, "0 or more", getattr(self, name))
        if self.gpus_per_worker > 1 and self.gpus_per_worker != int(self.gpus_per_worker):
            raise FieldError("gpus_per_worker", "a share of one GPU or a whole number", self.gpus_per_worker)
        if self.runtime_env is not None and not self.workers:
            raise UserError("runtime_env is the environment of Ray workers: give `workers` 1 or more")

    def read_runtime_env(self) -> dict[str, Any]:
        """The runtime environment of the actors; empty without one. Raises UserError for a bad file."""
        return {} if self.runtime_env is None else read_runtime_env(self.runtime_env)


def read_runtime_env(path: Path) -> dict[str, Any]:
    """A Ray runtime environment from a YAML or JSON file. Raises UserError naming file and key."""
    try:
        # JSON is YAML.
        value = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise UserError(
            f"runtime_env {path} cannot be read as YAML or JSON ({type(error).__name__}): give a file such "
            "as {py_executable: /path/to/python}"
        ) from error
    if not isinstance(value, dict) or not all(isinstance(name, str) for name in value):
        raise UserError(
            f"runtime_env {path} must hold one mapping, got {type(value).__name__}: write a file such as "
            "{py_executable: /path/to/python}"
        )
    unknown = sorted(set(value) - _RUNTIME_ENV_KEYS)
    if unknown:
        raise UserError(
            f"runtime_env {path} has the key {unknown[0]!r}, which is none of Ray's: use "
            f"{', '.join(sorted(_RUNTIME_ENV_KEYS))}"
        )
    return value
