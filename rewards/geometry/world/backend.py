"""The world's geometry network behind the geometry protocol, with the weights shipped beside the packages.

Legend: T frames, H, W pixels.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from rewards.errors import RewardError
from rewards.geometry.reconstruction import Reconstruction, check_frames
from rewards.geometry.world.network import WorldGeometry, pose_to_intrinsics, pose_to_w2c
from rewards.geometry.world.weights import LICENSE, NAME, describe, folder_of


class WorldGeometryBackend:
    """`WorldGeometry` behind the geometry protocol; `revision` is a hash of the weights."""

    name = NAME
    license = LICENSE

    def __init__(self, model: WorldGeometry, *, model_name: str, revision: str, device: str = "cpu") -> None:
        self.network = model.to(device).eval()
        self.model, self.revision, self.device = model_name, revision, torch.device(device)

    def reconstruct(self, frames_THW3: Tensor) -> Reconstruction:
        """Depth and cameras of float frames in [0, 1]; frame 0 is the world, its mean depth the unit.

        Frames are resampled to the side that the network was trained at. Raises RewardError for wrong shapes
        or more frames than the network knows.
        """
        return self.reconstruct_many([frames_THW3])[0]

    @torch.no_grad()
    def reconstruct_many(self, clips: Sequence[Tensor]) -> list[Reconstruction]:
        """Reconstructs clips of equal shape as one batch."""
        limit, size = self.network.config.max_frames, self.network.config.image_size
        for clip in clips:
            check_frames(clip)
            if not 2 <= clip.shape[0] <= limit:
                raise RewardError(
                    f"the world geometry network takes 2 to {limit} frames, got {clip.shape[0]}; "
                    f"pass --frames {limit}"
                )
        frames = torch.stack([clip.to(self.device, torch.float32) for clip in clips]).permute(0, 1, 4, 2, 3)
        if frames.shape[-2:] != (size, size):
            flat = F.interpolate(frames.flatten(0, 1), size=(size, size), mode="bilinear", antialias=True)
            frames = flat.clamp(0, 1).view(*frames.shape[:2], 3, size, size)
        predicted = self.network(frames.contiguous())
        pose, shown = predicted.pose_encoding_BT9, frames.permute(0, 1, 3, 4, 2).contiguous()
        return [
            Reconstruction(
                frames_THW3=shown[clip],
                depth_THW=predicted.depth_BTHW[clip],
                confidence_THW=predicted.confidence_BTHW[clip],
                intrinsics_T33=pose_to_intrinsics(pose[clip], size, size),
                w2c_T34=pose_to_w2c(pose[clip]),
            )
            for clip in range(len(clips))
        ]


def load_backend(*, model: str | None, revision: str | None, device: str) -> WorldGeometryBackend:
    """Loads the backend from a local folder, by default the weights shipped beside the packages.

    Raises RewardError when the weights are not there or `revision` is given and is not theirs.
    """
    network = WorldGeometry.from_pretrained(folder_of(model))
    info = describe(model=model, revision=revision)
    return WorldGeometryBackend(network, model_name=info.model, revision=info.revision, device=device)
