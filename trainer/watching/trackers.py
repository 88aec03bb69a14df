"""Where a training reports to beside its own log: the trackers of accelerate."""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from accelerate.tracking import LOGGER_TYPE_TO_CLASS, get_available_trackers

from storage.atomic import write_bytes
from storage.errors import UserError
from trainer.config import TrainConfig

_PROJECT = "gpa"
_PACKAGES = {"comet_ml": "comet-ml"}


def require_trackers(config: TrainConfig) -> None:
    """Raise UserError for a tracker whose package is not installed."""
    there = {str(one) for one in get_available_trackers()}
    for name in _named(config):
        if name not in there:
            package = _PACKAGES.get(name, name)
            raise UserError(
                f"`report_to` {name} needs the package {package}, which is not installed: pip install "
                f"{package}, or name another tracker, or none"
            )


def open_trackers(config: TrainConfig) -> list[Any]:
    """The trackers that are asked for, started, those with a folder in that of the training."""
    opened = []
    for name in _named(config):
        kind = LOGGER_TYPE_TO_CLASS[name]
        if name == "tensorboard":
            tracker = kind(name, config.out_dir)
        elif kind.requires_logging_directory:
            tracker = kind(_PROJECT, config.out_dir / name)
        else:
            tracker = kind(_PROJECT, **_identity(config.out_dir) if name == "wandb" else {})
        tracker.start()
        if name != "tensorboard":
            # It would begin another folder of events for them.
            tracker.store_init_configuration(config.to_json())
        opened.append(tracker)
    return opened


def _named(config: TrainConfig) -> Sequence[str]:
    return [name for name in config.report_to if name != "none"]


def _identity(out_dir: Path) -> dict[str, Any]:
    """What has a resumed training go on in the run that it began, kept beside it."""
    path = out_dir / "wandb-run"
    if not path.exists():
        out_dir.mkdir(parents=True, exist_ok=True)
        write_bytes(path, uuid.uuid4().hex.encode())
    name = f"{out_dir.parent.parent.name}/{out_dir.name}"
    return {"id": path.read_text().strip(), "resume": "allow", "name": name, "dir": str(out_dir)}
