"""LoRA folders on the disk: which one a path stands for, and what it says of itself, read without torch.

An adapter folder holds the weights as diffusers names them and, where this project wrote it, a note beside
them. A training's folder holds `adapter` once it has ended, and `checkpoints`, which are adapter folders too.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from storage.errors import UserError

WEIGHTS_NAME, NOTE_NAME = "pytorch_lora_weights.safetensors", "adapter.json"
# The key under which diffusers looks for the LoRA configuration in the header of the weights.
METADATA_KEY = "lora_adapter_metadata"
_LENGTH_BYTES = 8
_MOST_HEADER_BYTES = 100 * 2**20


def sha256(path: Path) -> str:
    """Hex digest of a file's bytes."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def locate_adapter(path: Path) -> Path:
    """The adapter folder that a path stands for: itself, or what a training's folder holds.

    Of a training that is that of its end, and while there are later checkpoints the newest whole one. Raises
    UserError, naming the remedy.
    """
    if (path / WEIGHTS_NAME).is_file():
        return path
    final = path / "adapter"
    ended = _ended_after(final)
    for checkpoint in sorted((path / "checkpoints").glob("step-*"), reverse=True):
        if ended is not None and _step(checkpoint) <= ended:
            break
        if _whole(checkpoint):
            return checkpoint
    if (final / WEIGHTS_NAME).is_file():
        return final
    raise UserError(
        f"adapter {path} has no {WEIGHTS_NAME}: give the folder that `gpa train-dpo` wrote, a training's "
        "folder (RUN/train/NAME), or one of its checkpoints"
    )


def name_of(folder: Path) -> str:
    """What an adapter folder is called where its place says nothing: the training, perhaps the checkpoint."""
    folder = folder.absolute()
    if folder.parent.name == "checkpoints":
        return f"{folder.parent.parent.name}/{folder.name}"
    return folder.parent.name if folder.name == "adapter" else folder.name


@dataclass(frozen=True, kw_only=True)
class AdapterFile:
    """What the weights and the note of an adapter folder say, before a tensor is read.

    `note` is adapter.json, None without one. `header` has what diffusers reads, by name without component;
    None where the file does not say it. `shapes` are those of the tensors by their full names.
    """

    folder: Path
    sha256: str
    note: dict[str, Any] | None
    component: str | None
    header: dict[str, Any] | None
    shapes: dict[str, tuple[int, ...]]

    @property
    def weights(self) -> Path:
        """The file of the tensors."""
        return self.folder / WEIGHTS_NAME


def read_adapter(folder: Path) -> AdapterFile:
    """Read what an adapter folder says. Raises UserError for one that is not there or not whole."""
    path = folder / WEIGHTS_NAME
    try:
        digest, tensors, metadata = sha256(path), *_header(path)
        said = json.loads(metadata[METADATA_KEY]) if METADATA_KEY in metadata else None
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(
            f"adapter {path} cannot be read ({error or type(error).__name__}): give a whole adapter, its "
            "weights as safetensors"
        ) from error
    note = _note(folder)
    if note is not None and note.get("sha256") != digest:
        raise UserError(
            f"adapter {folder}: {WEIGHTS_NAME} is not the file that {NOTE_NAME} was written for: it is "
            "damaged or was replaced, train it again"
        )
    components = {name.partition(".")[0] for name in said or tensors}
    return AdapterFile(
        folder=folder,
        sha256=digest,
        note=note,
        component=components.pop() if len(components) == 1 else None,
        header=None if said is None else {name.partition(".")[2]: value for name, value in said.items()},
        shapes={name: tuple(one["shape"]) for name, one in tensors.items()},
    )


def _header(path: Path) -> tuple[dict[str, Any], dict[str, str]]:
    """The tensors' entries and the metadata of a safetensors file, once its length is what they say."""
    size = path.stat().st_size
    with path.open("rb") as file:
        length = int.from_bytes(file.read(_LENGTH_BYTES), "little")
        if not 0 < length <= min(size, _MOST_HEADER_BYTES):
            raise ValueError("it is no safetensors file")
        tensors = json.loads(file.read(length))
    metadata = tensors.pop("__metadata__", {})
    ends = [one["data_offsets"][1] for one in tensors.values()]
    if not ends or max(ends) + length + _LENGTH_BYTES != size:
        raise ValueError("its tensors are cut off")
    return tensors, metadata


def _note(folder: Path) -> dict[str, Any] | None:
    path = folder / NOTE_NAME
    if not path.exists():
        return None
    try:
        note = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(f"adapter {folder}: {NOTE_NAME} cannot be read ({error}): get it again") from error
    if not isinstance(note, dict):
        raise UserError(f"adapter {folder}: {NOTE_NAME} must hold a JSON object: get it again")
    return note


def _ended_after(folder: Path) -> int | None:
    """The steps after which a training wrote its adapter; None where it has not."""
    try:
        training = json.loads((folder / NOTE_NAME).read_text(encoding="utf-8"))["training"]
        return int(training["ended"]["after"] if "ended" in training else training["steps"])
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None


def _step(checkpoint: Path) -> int:
    number = checkpoint.name.removeprefix("step-")
    return int(number) if number.isdecimal() else 0


def _whole(folder: Path) -> bool:
    try:
        return read_adapter(folder).note is not None
    except UserError:
        return False
