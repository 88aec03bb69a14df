"""Durable writes of JSON, tensors and whole folders."""

from __future__ import annotations

import hashlib
import json
import shutil
from pathlib import Path
from typing import Any

from safetensors.torch import save
from torch import Tensor

from storage.atomic import sync_directory, write_bytes


def write_json(path: Path, value: Any) -> None:
    """Replace the file with indented JSON; NaN and infinity are refused (ValueError)."""
    write_bytes(path, (json.dumps(value, indent=2, sort_keys=True, allow_nan=False) + "\n").encode())


def write_tensors(path: Path, tensors: dict[str, Tensor], metadata: dict[str, str] | None = None) -> None:
    """Replace the file with these tensors as safetensors; the same tensors always give the same bytes."""
    write_bytes(path, _settled(save(tensors, metadata=metadata)))


def _settled(data: bytes) -> bytes:
    """The file with its metadata in order of their names: safetensors writes them in an order of its own."""
    end = 8 + int.from_bytes(data[:8], "little")
    header = json.loads(data[8:end])
    if "__metadata__" in header:
        header["__metadata__"] = dict(sorted(header["__metadata__"].items()))
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    text = text.ljust(-8 * (-len(text) // 8))  # the tensors begin at a multiple of 8
    return len(text).to_bytes(8, "little") + text + data[end:]


def publish_directory(temporary: Path, final: Path) -> None:
    """Give a finished folder its name; what stood under that name is replaced."""
    sync_directory(temporary)
    if final.exists():
        shutil.rmtree(final)
    temporary.rename(final)
    sync_directory(final.parent)


def sha256(path: Path) -> str:
    """Hex digest of a file's bytes."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
