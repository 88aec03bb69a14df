"""The embedded world's video codec: frame 1 by PCA of 4x4 blocks, later frames as motion that warps frame 1.

It has the encode/decode interface of `AutoencoderKLCogVideoX`, so the real CogVideoX pipelines drive it. A
convolutional autoencoder of that class needs a GPU to become sharp; this one is fitted in seconds and keeps
every texture sharp, because a decoded frame only moves pixels of the decoded first frame. What it cannot
do, by construction, is show a surface that frame 1 does not contain: revealed regions are smeared from
their neighbours.

Shape legend: B clips, C colour or latent channels, F frames, H W pixels, h w = H/4 W/4 latent cells.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from diffusers import ConfigMixin, ModelMixin
from diffusers.configuration_utils import register_to_config
from diffusers.models.autoencoders.autoencoder_tiny import AutoencoderTinyOutput
from diffusers.models.autoencoders.vae import DecoderOutput
from diffusers.utils.accelerate_utils import apply_forward_hook
from torch import Tensor

from pipeline.world.motion import estimate_motion, warp_by_cells

BLOCK = 4
GROUP = 8


class MotionCodec(ModelMixin, ConfigMixin):  # type: ignore[misc]
    """Latents [B, 16, 1 + n, H/4, W/4] for videos [B, 3, 1 + 8n, H, W] with pixels in [-1, 1].

    Latent frame 0 holds the PCA coefficients of frame 1. Each further latent frame holds, for eight frames,
    the backward motion (x, y) of every 4x4 cell relative to frame 1, divided by the frames elapsed and by
    `motion_scale` pixels, so that a steady camera gives equal channels of about unit size.
    """

    @register_to_config  # type: ignore[untyped-decorator]
    def __init__(
        self,
        latent_channels: int = 16,
        block_out_channels: tuple[int, ...] = (1, 1, 1),
        temporal_compression_ratio: int = GROUP,
        scaling_factor: float = 1.0,
        invert_scale_latents: bool = False,
        motion_scale: float = 0.5,
    ) -> None:
        super().__init__()
        if latent_channels != 2 * GROUP:
            raise ValueError(
                f"latent_channels must be {2 * GROUP} (x, y motion of {GROUP} frames), got {latent_channels}"
            )
        size = 3 * BLOCK * BLOCK
        self.mean = torch.nn.Parameter(torch.zeros(size), requires_grad=False)
        self.components = torch.nn.Parameter(torch.zeros(latent_channels, size), requires_grad=False)
        self.scale = torch.nn.Parameter(torch.ones(latent_channels), requires_grad=False)

    @torch.no_grad()
    def fit(self, images_BCHW: Tensor) -> None:
        """Fits the PCA of frame 1 on images in [-1, 1]; coefficients are scaled to unit variance."""
        blocks = _blocks(images_BCHW).permute(0, 2, 3, 1).reshape(-1, 3 * BLOCK * BLOCK)
        self.mean.copy_(blocks.mean(0))
        _, singular, directions = torch.linalg.svd(blocks - self.mean, full_matrices=False)
        kept = self.config.latent_channels
        self.components.copy_(directions[:kept])
        self.scale.copy_(singular[:kept] / blocks.shape[0] ** 0.5)

    def encode_image(self, images_BCHW: Tensor) -> Tensor:
        """Latent frame 0, [B, 16, h, w], of images in [-1, 1]."""
        centred = _blocks(images_BCHW) - self.mean.view(1, -1, 1, 1)
        return torch.einsum("kc,bchw->bkhw", self.components, centred) / self.scale.view(1, -1, 1, 1)

    def decode_image(self, latents_BChw: Tensor) -> Tensor:
        """Image [B, 3, H, W] of latent frame 0, not clamped."""
        scaled = latents_BChw * self.scale.view(1, -1, 1, 1)
        blocks = torch.einsum("kc,bkhw->bchw", self.components, scaled) + self.mean.view(1, -1, 1, 1)
        image: Tensor = F.pixel_shuffle(blocks, BLOCK)
        return image

    def motion_of(self, latents_BCFhw: Tensor) -> Tensor:
        """Backward motion in pixels, [B, 8n, 2, h, w], that the later latent frames stand for."""
        batch, channels, frames, height, width = latents_BCFhw.shape
        velocity = latents_BCFhw[:, :, 1:].permute(0, 2, 1, 3, 4)
        velocity = velocity.reshape(batch, (frames - 1) * channels // 2, 2, height, width)
        motion: Tensor = velocity * self._elapsed(velocity)
        return motion

    def _elapsed(self, motion_BF2hw: Tensor) -> Tensor:
        count = motion_BF2hw.shape[1]
        elapsed = torch.arange(1, count + 1, device=motion_BF2hw.device, dtype=motion_BF2hw.dtype)
        scale: float = self.config.motion_scale
        return elapsed.view(1, count, 1, 1, 1) * scale

    @apply_forward_hook  # type: ignore[untyped-decorator]
    @torch.no_grad()
    def encode(self, x: Tensor, return_dict: bool = True) -> AutoencoderTinyOutput | tuple[Tensor]:
        """Encodes a video [B, 3, 1 + 8n, H, W] in [-1, 1] from its pixels alone (motion is estimated)."""
        batch, _, frames, height, width = x.shape
        if (frames - 1) % GROUP or height % BLOCK or width % BLOCK:
            raise ValueError(
                f"video must have 1 + {GROUP}n frames and sides divisible by {BLOCK}, got {tuple(x.shape)}"
            )
        first = self.encode_image(x[:, :, 0])
        latents = [first.unsqueeze(2)]
        if frames > 1:
            shown = self.decode_image(first).clamp(-1, 1)
            motion = estimate_motion(shown, x[:, :, 1:].transpose(1, 2), BLOCK)
            velocity = motion / self._elapsed(motion)
            groups = velocity.reshape(
                batch, (frames - 1) // GROUP, 2 * GROUP, height // BLOCK, width // BLOCK
            )
            latents.append(groups.transpose(1, 2))
        encoded = torch.cat(latents, dim=2).to(x.dtype)
        return AutoencoderTinyOutput(latents=encoded) if return_dict else (encoded,)

    @apply_forward_hook  # type: ignore[untyped-decorator]
    def decode(self, z: Tensor, return_dict: bool = True) -> DecoderOutput | tuple[Tensor]:
        """Decodes latents [B, 16, 1 + n, h, w] into a video [B, 3, 1 + 8n, H, W] in [-1, 1]."""
        first = self.decode_image(z[:, :, 0]).clamp(-1, 1)
        video = first.unsqueeze(2)
        if z.shape[2] > 1:
            later = warp_by_cells(first, self.motion_of(z), BLOCK)
            video = torch.cat([video, later.transpose(1, 2)], dim=2)
        return DecoderOutput(sample=video) if return_dict else (video,)


def _blocks(images_BCHW: Tensor) -> Tensor:
    return F.pixel_unshuffle(images_BCHW, BLOCK)
