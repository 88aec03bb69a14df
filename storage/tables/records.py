"""One frozen record per table row. A record that exists is valid.

A record is the table: its columns, their Arrow types, which may be null, what is its key and what came later
follow from the fields (storage/tables/schemas.py). A column may be null where the field may be None, or where
metadata says so; `width` is that of its numbers where it is not 64.
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Literal, TypeAlias

from storage.tables.ids import SPLITS

DTYPE_BYTES = {"float32": 4, "float16": 2, "bfloat16": 2, "float64": 8, "int64": 8, "int32": 4, "uint8": 1}
_MATRIX_W2C = 12
_MATRIX_INTRINSICS = 9


_KEY: dict[str, Any] = {"key": True}
_NULLABLE: dict[str, Any] = {"nullable": True}
# What differs when the same work is done again: it names no content.
_VOLATILE: dict[str, Any] = {"volatile": True}
# A column that came after the first shards of its table: a shard without it is read with nulls there.
_ADDED: dict[str, Any] = {"added": True}
_32: dict[str, Any] = {"width": 32}


def utc_now() -> str:
    """The present moment as ISO 8601 in UTC, the form of every `created_at`."""
    return datetime.now(UTC).isoformat(timespec="seconds")


@dataclass(frozen=True, kw_only=True)
class Prompt:
    """A prompt with its scene. `camera_motion` lists the primitives, `metadata` is a JSON object."""

    prompt_id: str = field(metadata=_KEY)
    scene_id: str
    split: str
    text: str
    camera_motion: Sequence[str] = ()
    image_uri: str | None = None
    metadata: str = field(default="{}", metadata=_NULLABLE)

    def __post_init__(self) -> None:
        _require_text("Prompt", self, "prompt_id", "scene_id", "text")
        if self.split not in SPLITS:
            raise _invalid("Prompt.split", f"one of {', '.join(SPLITS)}", self.split, "use ids.split_of")
        _require_sequence("Prompt.camera_motion", self.camera_motion)
        _require_json_object("Prompt.metadata", self.metadata)


# What the rows of imported videos name as their model when none encoded them.
NO_MODEL, NO_REVISION = "imported", "none"


@dataclass(frozen=True, kw_only=True)
class Candidate:
    """One sampled video, or the reason why there is none. `sampler` is a JSON object of every setting."""

    candidate_id: str = field(metadata=_KEY)
    prompt_id: str
    seed: int
    model: str
    revision: str
    adapter: str | None = None
    sampler: str = "{}"
    num_frames: int = field(metadata=_32)
    height: int = field(metadata=_32)
    width: int = field(metadata=_32)
    fps: float
    video_uri: str | None = None
    latent_uri: str | None = None
    status: Literal["ok", "failed"] = "ok"
    reason: str | None = None
    seconds: float = field(metadata=_VOLATILE | _NULLABLE)
    created_at: str = field(metadata=_VOLATILE)

    def __post_init__(self) -> None:
        _require_text("Candidate", self, "candidate_id", "prompt_id", "model", "revision", "created_at")
        _require_json_object("Candidate.sampler", self.sampler)
        _require_positive("Candidate", self, "num_frames", "height", "width", "fps")
        if not 0 <= self.seed < 2**63:
            raise _invalid("Candidate.seed", "in [0, 2**63)", self.seed, "use ids.candidate_seed")
        if self.status not in ("ok", "failed"):
            raise _invalid("Candidate.status", "ok or failed", self.status, "put the cause into reason")
        if (self.status == "failed") != bool(self.reason):
            raise _invalid("Candidate.reason", "given exactly when status is failed", self.reason, "say why")
        if self.status == "ok" and not self.video_uri:
            raise _invalid("Candidate.video_uri", "given when status is ok", self.video_uri, "write it first")


@dataclass(frozen=True, kw_only=True)
class Score:
    """One reward of one candidate, higher is better: a finite value, or None with a reason.

    `w2c` is T x 12 and `intrinsics` T x 9 numbers, row-major, flattened over the T frames of `frame_indices`.
    """

    candidate_id: str = field(metadata=_KEY)
    reward: str = field(metadata=_KEY)
    reward_version: str = field(metadata=_KEY)
    value: float | None = None
    reason: str | None = None
    geometry_model: str | None = None
    geometry_revision: str | None = None
    geometry_license: str | None = None
    mse: float | None = None
    lpips: float | None = None
    perceptual: str | None = None
    coverage: float | None = None
    motion: float | None = None
    frame_indices: Sequence[int] | None = field(default=None, metadata=_32)
    frame_errors: Sequence[float] | None = field(default=None, metadata=_32)
    w2c: Sequence[float] | None = field(default=None, metadata=_32)
    intrinsics: Sequence[float] | None = field(default=None, metadata=_32)
    seconds: float | None = field(default=None, metadata=_VOLATILE)
    image_motion: float | None = field(default=None, metadata=_ADDED)
    sharpness: float | None = field(default=None, metadata=_ADDED)
    psnr: float | None = field(default=None, metadata=_ADDED)
    ssim: float | None = field(default=None, metadata=_ADDED)
    mvcs: float | None = field(default=None, metadata=_ADDED)
    sampson: float | None = field(default=None, metadata=_ADDED)
    measured_pairs: int | None = field(default=None, metadata=_ADDED | _32)
    cut: float | None = field(default=None, metadata=_ADDED)
    fade: float | None = field(default=None, metadata=_ADDED)
    bars: float | None = field(default=None, metadata=_ADDED)
    overlay: float | None = field(default=None, metadata=_ADDED)
    split_screen: float | None = field(default=None, metadata=_ADDED)
    thumbnail: Sequence[int] | None = field(default=None, metadata=_ADDED | _32)
    detail: float | None = field(default=None, metadata=_ADDED)

    def __post_init__(self) -> None:
        _require_text("Score", self, "candidate_id", "reward", "reward_version")
        if self.value is not None and not math.isfinite(self.value):
            raise _invalid("Score.value", "finite or None", self.value, "use None and give a reason")
        if (self.value is None) != bool(self.reason):
            raise _invalid("Score.reason", "given exactly when value is None", self.reason, "say why")
        for name, size in (("w2c", _MATRIX_W2C), ("intrinsics", _MATRIX_INTRINSICS)):
            flat = getattr(self, name)
            if flat is not None and (
                self.frame_indices is None or len(flat) != size * len(self.frame_indices)
            ):
                rule = f"{size} numbers for each of frame_indices"
                raise _invalid(f"Score.{name}", rule, f"{len(flat)} numbers", "flatten it row-major")


@dataclass(frozen=True, kw_only=True)
class TensorBlob:
    """A tensor as bytes: little-endian, contiguous, row-major."""

    data: bytes
    shape: Sequence[int]
    dtype: str

    def __post_init__(self) -> None:
        if self.dtype not in DTYPE_BYTES:
            raise _invalid(
                "TensorBlob.dtype", f"one of {', '.join(DTYPE_BYTES)}", self.dtype, "convert it first"
            )
        expected = math.prod(self.shape) * DTYPE_BYTES[self.dtype]
        if min(self.shape, default=0) < 0 or len(self.data) != expected:
            rule = f"{expected} bytes for shape {tuple(self.shape)} of {self.dtype}"
            raise _invalid("TensorBlob.data", rule, f"{len(self.data)} bytes", "use tensors.from_tensor")


@dataclass(frozen=True, kw_only=True)
class Pair:
    """A preference of one prompt: the winner's value is above the loser's, unless a person swapped them.

    `human` is keep or swap where a person decided. Tensors are absent in an index.
    """

    pair_id: str = field(metadata=_KEY)
    prompt_id: str
    scene_id: str
    split: str
    text: str
    winner_id: str
    loser_id: str
    winner_value: float
    loser_value: float
    gap: float
    reward: str
    reward_version: str
    winner_motion: float | None
    loser_motion: float | None
    model: str = field(metadata=_NULLABLE)
    revision: str = field(metadata=_NULLABLE)
    num_frames: int | None = field(default=None, metadata=_ADDED | _32)
    human: Literal["keep", "swap"] | None = field(default=None, metadata=_ADDED)
    winner_latents: TensorBlob | None = None
    loser_latents: TensorBlob | None = None
    prompt_embeds: TensorBlob | None = None
    image_latents: TensorBlob | None = None
    image_embeds: TensorBlob | None = field(default=None, metadata=_ADDED)

    def __post_init__(self) -> None:
        names = ("pair_id", "prompt_id", "scene_id", "winner_id", "loser_id", "reward", "reward_version")
        _require_text("Pair", self, *names)
        if self.human not in (None, "keep", "swap"):
            raise _invalid("Pair.human", "keep, swap or None", self.human, "leave a dropped pair out")
        better, worse = self.winner_value, self.loser_value
        if self.human == "swap":
            better, worse = worse, better
        if not better > worse:
            got = f"{self.winner_value} and {self.loser_value}"
            rule = "below loser_value in a swap" if self.human == "swap" else "above loser_value, both finite"
            raise _invalid("Pair.winner_value", rule, got, "swap or drop the pair")
        if self.winner_id == self.loser_id:
            raise _invalid(
                "Pair.loser_id", "another candidate than winner_id", self.loser_id, "drop the pair"
            )
        tensors = (self.winner_latents, self.loser_latents, self.prompt_embeds)
        if len({tensor is None for tensor in tensors}) != 1:
            raise _invalid(
                "Pair.winner_latents", "given together with the rest", "only some", "give all or none"
            )


@dataclass(frozen=True, kw_only=True)
class Reject:
    """Why something did not go on: the stage that dropped it, its id, the rule, and the figures."""

    stage: str = field(metadata=_KEY)
    id: str = field(metadata=_KEY)
    rule: str = field(metadata=_KEY)
    detail: str = field(default="", metadata=_NULLABLE)

    def __post_init__(self) -> None:
        _require_text("Reject", self, "stage", "id", "rule")


Record: TypeAlias = Prompt | Candidate | Score | Pair | Reject


def _invalid(field: str, rule: str, received: object, remedy: str) -> ValueError:
    return ValueError(f"{field} must be {rule}, got {received!r}: {remedy}")


def _require_text(owner: str, record: object, *names: str) -> None:
    for name in names:
        value = getattr(record, name)
        if not isinstance(value, str) or not value:
            raise _invalid(f"{owner}.{name}", "a non-empty string", value, "pass it when building the record")


def _require_positive(owner: str, record: object, *names: str) -> None:
    for name in names:
        value = getattr(record, name)
        if not (value > 0 and math.isfinite(value)):
            raise _invalid(f"{owner}.{name}", "a positive number", value, "take it from the frames")


def _require_sequence(field: str, value: object) -> None:
    if isinstance(value, str) or not isinstance(value, Sequence):
        raise _invalid(field, "a list of strings", value, "wrap a single item in a list")


def _require_json_object(field: str, text: str) -> None:
    try:
        value = json.loads(text)
    except (TypeError, ValueError):
        value = None
    if not isinstance(value, dict):
        raise _invalid(field, "a JSON object as text", text, "use ids.canonical_json")


CLIP_MEASURES = (
    "fault",
    "error",
    "reprojection",
    "reprojection_psnr",
    "reprojection_ssim",
    "reprojection_lpips",
    "mvcs",
    "error_3dcs",
    "epipolar",
    "motion",
    "displacement",
    "image_motion",
    "sharpness",
    "saturation",
    "roughness",
    "truth_psnr",
    "first_frame",
    "follows",
)
