"""Tensors as bytes in a row, and as safetensors files."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from storage.atomic import write_bytes
from storage.errors import UserError
from storage.tables.records import DTYPE_BYTES, TensorBlob

_DTYPES: dict[str, torch.dtype] = {name: getattr(torch, name) for name in DTYPE_BYTES}
_NAMES = {dtype: name for name, dtype in _DTYPES.items()}


def from_tensor(tensor: Tensor) -> TensorBlob:
    """The bytes, shape and dtype of a tensor of any device, bfloat16 included. Raises ValueError for NaN."""
    require_finite("tensor", tensor)
    if tensor.dtype not in _NAMES:
        raise ValueError(
            f"a tensor column holds {', '.join(_NAMES.values())}, got {tensor.dtype}: convert it"
        )
    flat = tensor.detach().cpu().contiguous().reshape(-1)
    data = flat.view(torch.uint8).numpy().tobytes()
    return TensorBlob(data=data, shape=tuple(tensor.shape), dtype=_NAMES[tensor.dtype])


def empty_tensor(shape: Sequence[int], dtype: str) -> Tensor:
    """Memory for a tensor of a recorded dtype, to be filled."""
    return torch.empty(tuple(shape), dtype=_DTYPES[dtype])


def to_tensor(blob: TensorBlob) -> Tensor:
    """A writable CPU tensor that owns its memory."""
    dtype = _DTYPES[blob.dtype]
    if not blob.data:
        return torch.empty(tuple(blob.shape), dtype=dtype)
    return torch.frombuffer(bytearray(blob.data), dtype=dtype).reshape(tuple(blob.shape))


def require_finite(name: str, tensor: Tensor) -> None:
    """Raise ValueError naming the tensor when it holds NaN or infinity."""
    if not tensor.is_floating_point() or not tensor.numel():
        return
    # One pass without memory for a mask: NaN and infinity are in the extremes.
    if not all(bool(torch.isfinite(extreme)) for extreme in torch.aminmax(tensor)):
        bad = int((~torch.isfinite(tensor)).sum())
        raise ValueError(f"{name} holds NaN or infinity in {bad} of {tensor.numel()} numbers")


def write_tensors(
    path: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, str] | None = None
) -> None:
    """Write named tensors with text metadata as one safetensors file, atomically.

    Raises UserError naming the tensor that holds NaN or infinity: nothing is written then.
    """
    for name, tensor in tensors.items():
        _refuse_nan(path, name, tensor)
    kept = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    write_bytes(path, save(kept, dict(metadata or {})))


def read_tensors(path: Path) -> dict[str, Tensor]:
    """The named tensors of a safetensors file, on the CPU.

    Raises UserError for a missing, truncated or foreign file, and for NaN or infinity, naming the tensor.
    """
    tensors, _ = read_tensors_and_metadata(path)
    return tensors


def read_tensors_and_metadata(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """As `read_tensors`, with the text metadata of the file."""
    try:
        with safe_open(path, framework="pt") as file:
            metadata = dict(file.metadata() or {})
            # A copy: the file may be replaced while the tensors live.
            tensors = {name: file.get_tensor(name).clone() for name in file.keys()}  # noqa: SIM118
    except (SafetensorError, OSError) as error:
        raise UserError(
            f"{path} cannot be read as safetensors (missing, truncated or foreign): "
            "delete it and the shard that names it, then run the command that wrote it again"
        ) from error
    for name, tensor in tensors.items():
        _refuse_nan(path, name, tensor)
    return tensors, metadata


def _refuse_nan(path: Path, name: str, tensor: Tensor) -> None:
    try:
        require_finite(f"{path}: tensor {name!r}", tensor)
    except ValueError as error:
        raise UserError(f"{error}: sample this one again, in float32 if it happens again") from error
