"""Content ids: what a thing is made of decides its name, its seed and its split."""

from __future__ import annotations

import hashlib
import json
import struct
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

Split: TypeAlias = Literal["train", "val", "test"]
SPLITS: tuple[Split, ...] = ("train", "val", "test")
_SEED_BITS = 62
_ID_BYTES = 16
_TRAIN_PERCENT = 80
_VAL_PERCENT = 10


def canonical_json(value: Any) -> str:
    """JSON text that depends only on the value: sorted keys, no spaces, ASCII, no NaN or infinity.

    Tuples are written as lists. Raises ValueError for NaN or infinity, TypeError for a key that is not
    a string or a value that JSON does not have.
    """
    _require_json(value)
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=True, allow_nan=False)


def content_id(*parts: Any) -> str:
    """32 hex characters that name the parts: bytes, str, bool, int, float, dict, list, tuple or None.

    Every part carries its type and its length, so no two different lists of parts share an encoding
    ("ab", "c" against "a", "bc"; 1 against 1.0 against "1").
    """
    return _digest(parts)[:_ID_BYTES].hex()


def candidate_seed(run_seed: int, prompt_id: str, index: int) -> int:
    """The seed of candidate `index` of a prompt, 0 <= seed < 2**62: no worker, order or count enters."""
    if index < 0:
        raise ValueError(f"index must be >= 0, got {index}: count candidates from zero")
    digest = _digest(("candidate-seed", run_seed, prompt_id, index))
    return int.from_bytes(digest[:8], "big") >> (64 - _SEED_BITS)


def picture_parts(image_HW3: NDArray[np.uint8]) -> tuple[list[int], bytes]:
    """What of a picture enters an id: its shape and its pixels."""
    return list(image_HW3.shape), image_HW3.tobytes()


def content_scene(text: str, image_HW3: NDArray[np.uint8] | None = None) -> str:
    """The scene of a prompt that names none: its first frame, uint8 [H, W, 3], or its text without one."""
    return content_id("scene", *([text] if image_HW3 is None else picture_parts(image_HW3)))


def split_of(scene_id: str) -> Split:
    """train, val or test (80 / 10 / 10) by hash of the scene, so that a scene is never in two splits."""
    draw = int.from_bytes(_digest(("split", scene_id))[:8], "big") % 100
    if draw < _TRAIN_PERCENT:
        return "train"
    return "val" if draw < _TRAIN_PERCENT + _VAL_PERCENT else "test"


def _digest(parts: tuple[Any, ...]) -> bytes:
    hasher = hashlib.sha256()
    for part in parts:
        tag, payload = _encode(part)
        hasher.update(tag + struct.pack(">Q", len(payload)) + payload)
    return hasher.digest()


def _encode(part: Any) -> tuple[bytes, bytes]:
    if isinstance(part, bytes):
        return b"b", part
    if isinstance(part, str):
        return b"s", part.encode("utf-8", "surrogatepass")
    return b"j", canonical_json(part).encode("ascii")


def _require_json(value: Any) -> None:
    if isinstance(value, dict):
        for key, item in value.items():
            if not isinstance(key, str):
                raise TypeError(f"a key of canonical JSON must be a string, got {key!r}")
            _require_json(item)
    elif isinstance(value, (list, tuple)):
        for item in value:
            _require_json(item)
