"""CogVideoX through diffusers' own pipelines.

Legend: B batch, T video frames, H W pixels, F latent frames, C latent channels, h w latent cells, L tokens,
D width.
"""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from diffusers import CogVideoXImageToVideoPipeline, CogVideoXPipeline
from diffusers.utils.torch_utils import randn_tensor
from torch import Tensor

from pipeline.sampling.diffusers_sampler import DiffusersSampler, posterior_mode
from pipeline.sampling.sampler import Condition

# The image posterior of a prompt is drawn once, from a generator of its own, and shared by every candidate.
_IMAGE_SEED = 0


class _SharedImagePipeline(CogVideoXImageToVideoPipeline):  # type: ignore[misc]
    """The pipeline, except that a batch shares one image latent.

    By itself the pipeline draws the image latent anew for every candidate. A preference pair shares its
    condition, so here it is drawn once by `Condition`; everything else is the parent's code.
    """

    shared_image_latents: Tensor | None = None

    def prepare_latents(  # the parent's signature
        self,
        image: Tensor,
        batch_size: int = 1,
        num_channels_latents: int = 16,
        num_frames: int = 13,
        height: int = 60,
        width: int = 90,
        dtype: torch.dtype | None = None,
        device: torch.device | None = None,
        generator: list[torch.Generator] | torch.Generator | None = None,
        latents: Tensor | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Initial noise and image latents [B,F,C,h,w]."""
        shared = self.shared_image_latents
        if shared is None:
            size = (num_channels_latents, num_frames, height, width)
            made = super().prepare_latents(image, batch_size, *size, dtype, device, generator, latents)
            return made[0], made[1]
        shape = (batch_size, *shared.shape[1:])
        noise = randn_tensor(shape, generator=generator, device=device, dtype=dtype)
        return noise * self.scheduler.init_noise_sigma, shared.to(device, dtype).expand(shape)


class _CogVideoX(DiffusersSampler):
    """What the two CogVideoX samplers share."""

    def patch(self) -> tuple[int, int]:
        """Height and width of the transformer's patch in latent cells."""
        size: int = self.pipe.transformer.config.patch_size
        return size, size

    def decode_batch(self, latents_BFChw: Tensor) -> Tensor:
        """Pixels of latents, without the frames that only pad them."""
        video: Tensor = self.pipe.decode_latents(latents_BFChw[:, self._padding_frames() :])
        return video

    def encode_batch(self, video_B3THW: Tensor, condition: Condition) -> Tensor:
        """Scaled latents [B,F,C,h,w], padded in front for version 1.5.

        The padding is the first latent frame again, as in the finetuning code of that model's authors;
        decoding leaves it out, and so does the loss.
        """
        latents_BCFhw = posterior_mode(self.pipe.vae.encode(video_B3THW))
        latents_BFChw = self.pipe.vae_scaling_factor_image * latents_BCFhw.permute(0, 2, 1, 3, 4)
        padding = latents_BFChw[:, :1].expand(-1, self._padding_frames(), -1, -1, -1)
        return torch.cat([padding, latents_BFChw], dim=1)

    def _latent_frames(self) -> int:
        ratio: int = self.pipe.vae_scale_factor_temporal
        return (self.settings.num_frames - 1) // ratio + 1

    def _padding_frames(self) -> int:
        """Latent frames that CogVideoX 1.5 adds in front to reach a multiple of its temporal patch."""
        patch: int | None = self.pipe.transformer.config.patch_size_t
        return -self._latent_frames() % patch if patch else 0


class CogVideoXImageToVideo(_CogVideoX):
    """Image-to-video: CogVideoX-5B-I2V, CogVideoX1.5-5B-I2V and the embedded world."""

    pipeline_class: ClassVar[type[Any]] = _SharedImagePipeline

    def encode_image(
        self, text: str, image_HW3: Tensor | None, dtype: torch.dtype
    ) -> tuple[Tensor | None, Tensor | None]:
        """The image latents, zero padded over the frames. Raises UserError without a first frame."""
        settings, pipe = self.settings, self.pipe
        picture = self.picture(text, image_HW3)
        image = pipe.video_processor.preprocess(picture, height=settings.height, width=settings.width)
        pipe.shared_image_latents = None
        _, image_latents = pipe.prepare_latents(
            image.to(self.device, dtype),
            1,
            pipe.transformer.config.in_channels // 2,
            settings.num_frames + self._padding_frames() * pipe.vae_scale_factor_temporal,
            settings.height,
            settings.width,
            dtype,
            self.device,
            torch.Generator(device=self.device).manual_seed(_IMAGE_SEED),
        )
        return image_latents[0], None

    def image_inputs(self, condition: Condition) -> dict[str, Any]:
        """A stand-in for the image. Raises ValueError for a condition without image latents."""
        if condition.image_latents_FChw is None:
            raise ValueError("condition has no image_latents: encode it with this sampler")
        # The pipeline insists on an image; its latents are already in the condition.
        self.pipe.shared_image_latents = condition.image_latents_FChw.unsqueeze(0)
        return {"image": torch.zeros(1, 3, self.settings.height, self.settings.width)}


class CogVideoXTextToVideo(_CogVideoX):
    """Text-to-video: CogVideoX-2B, CogVideoX-5B and CogVideoX1.5-5B."""

    pipeline_class: ClassVar[type[Any]] = CogVideoXPipeline
