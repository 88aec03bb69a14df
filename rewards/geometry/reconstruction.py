"""What a geometry backend returns, and the protocol it follows.

Shape legend: T frames, H height, W width (of the depth map, not of the video).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol, runtime_checkable

from rewards.errors import RewardError

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True, kw_only=True)
class Reconstruction:
    """Depth and cameras of the frames of one clip, all float32 on one device.

    frames_THW3 in [0,1], resampled to the depth map; depth_THW along z, in the backend's own unit of length;
    confidence_THW, higher is surer, on the backend's own scale; intrinsics_T33 in pixels of the depth map,
    pixel centres at integers; w2c_T34 OpenCV (x right, y down, z forward), X_camera = R X_world + t.

    Depth and cameras may be non-finite (a network can fail): a reward then says so, it does not crash. Raises
    ValueError when a shape, a dtype, a device or the range of the frames is wrong.
    """

    frames_THW3: Tensor
    depth_THW: Tensor
    confidence_THW: Tensor
    intrinsics_T33: Tensor
    w2c_T34: Tensor

    def __post_init__(self) -> None:
        if self.depth_THW.ndim != 3:
            raise ValueError(
                f"depth_THW must have 3 dimensions (frames, height, width), got {_shape(self.depth_THW)}"
            )
        frames, height, width = self.depth_THW.shape
        _check(self, "frames_THW3", (frames, height, width, 3))
        _check(self, "depth_THW", (frames, height, width))
        _check(self, "confidence_THW", (frames, height, width))
        _check(self, "intrinsics_T33", (frames, 3, 3))
        _check(self, "w2c_T34", (frames, 3, 4))
        if self.frames_THW3.numel():
            import torch  # what describes a geometry model does without it

            low, high = (float(bound) for bound in torch.aminmax(self.frames_THW3))
            if not (low >= 0.0 and high <= 1.0):
                raise ValueError(
                    f"frames_THW3 must lie in [0,1], got [{low:.4g}, {high:.4g}]; divide 8-bit frames by 255"
                )

    @property
    def num_frames(self) -> int:
        """T."""
        return int(self.depth_THW.shape[0])

    @property
    def size(self) -> tuple[int, int]:
        """(H, W)."""
        return int(self.depth_THW.shape[1]), int(self.depth_THW.shape[2])


def _shape(tensor: Tensor) -> tuple[int, ...]:
    return tuple(tensor.shape)


def _check(reconstruction: Reconstruction, field: str, expected: tuple[int, ...]) -> None:
    tensor: Tensor = getattr(reconstruction, field)
    if _shape(tensor) != expected:
        raise ValueError(f"{field} must have shape {expected} to match depth_THW, got {_shape(tensor)}")
    if str(tensor.dtype) != "torch.float32":
        raise ValueError(f"{field} must be float32, got {tensor.dtype}; convert it with .float()")
    if tensor.device != reconstruction.depth_THW.device:
        raise ValueError(
            f"{field} must be on {reconstruction.depth_THW.device} like depth_THW, got {tensor.device}"
        )


@dataclass(frozen=True, kw_only=True)
class GeometryInfo:
    """What is stored of a geometry model with every score; known without loading its weights."""

    name: str
    model: str
    revision: str
    license: str

    @property
    def is_noncommercial(self) -> bool:
        """Whether the licence restricts commercial use; labels made with the model inherit it."""
        return "NC" in self.license.upper().replace(" ", "-").split("-")


@runtime_checkable
class GeometryBackend(Protocol):
    """Turns the frames of one clip into depth and cameras. Weights are loaded by whoever builds the object.

    name is the key in `rewards.geometry.backends.BACKENDS`; model, revision and license are stored with
    every score, because labels made with a model inherit its licence.
    """

    name: str
    model: str
    revision: str
    license: str

    def reconstruct(self, frames_THW3: Tensor) -> Reconstruction:
        """Reconstruct float frames in [0,1]."""
        ...


@runtime_checkable
class BatchedGeometryBackend(GeometryBackend, Protocol):
    """A backend that is faster on several clips at once."""

    def reconstruct_many(self, clips: Sequence[Tensor]) -> list[Reconstruction]:
        """Reconstruct several clips of equal shape."""
        ...


def reconstruct_many(backend: GeometryBackend, clips: Sequence[Tensor]) -> list[Reconstruction]:
    """Reconstruct clips, in one batch where the backend can and all shapes agree."""
    if isinstance(backend, BatchedGeometryBackend) and len({_shape(clip) for clip in clips}) == 1:
        return backend.reconstruct_many(clips)
    return [backend.reconstruct(clip) for clip in clips]


def check_frames(frames_THW3: Tensor) -> None:
    """Raise RewardError unless frames are float T,H,W,3."""
    if frames_THW3.ndim != 4 or frames_THW3.shape[-1] != 3:
        raise RewardError(
            f"frames must have shape (frames, height, width, 3), got {_shape(frames_THW3)}; reorder the axes"
        )
    if not frames_THW3.is_floating_point():
        raise RewardError(
            f"frames must be float in [0,1], got {frames_THW3.dtype}; divide 8-bit frames by 255"
        )


def select_frames(num_frames: int, count: int) -> list[int]:
    """Indices of `count` frames spread over the clip, both ends included; every frame if there are no more.

    linspace(0, num_frames - 1, count) truncated to int (VideoGPA, arXiv 2601.23286), in exact integer
    arithmetic, so that the choice cannot depend on rounding. Raises ValueError for num_frames < 0 or count
    < 2.
    """
    if num_frames < 0:
        raise ValueError(f"num_frames must be >= 0, got {num_frames}")
    if count < 2:
        raise ValueError(f"count must be >= 2 because an error between views needs two, got {count}")
    if num_frames <= count:
        return list(range(num_frames))
    return [index * (num_frames - 1) // (count - 1) for index in range(count)]
