"""Wan 2.1 and 2.2 (TI2V-5B) through diffusers' own pipelines.

Legend: B batch, H W pixels, T video frames, C latent channels, F latent frames, h w latent cells, L tokens,
D width. Latents are normalised by the VAE's mean and deviation of each channel, as the pipelines hold them.
"""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from diffusers import WanImageToVideoPipeline, WanPipeline
from diffusers.utils.torch_utils import randn_tensor
from PIL import Image
from torch import Tensor

from pipeline.models import model_index
from pipeline.sampling.diffusers_sampler import DiffusersSampler, posterior_mode
from pipeline.sampling.sampler import Condition
from pipeline.sampling.settings import SamplerSettings
from storage.errors import UserError


class _SharedConditionPipeline(WanImageToVideoPipeline):  # type: ignore[misc]
    """The pipeline, except that a first frame is encoded once for all candidates.

    By itself the pipeline runs the first frame, padded to the length of the video, through the VAE once per
    candidate. Everything else is the parent's code.
    """

    shared: Condition | None = None

    def encode_image(self, image: Any, device: torch.device | None = None) -> Tensor:
        """Features [1,L,D] of the first frame by the image encoder."""
        if self.shared is None:
            features: Tensor = super().encode_image(image, device)
            return features
        if self.shared.image_embeds_LD is None:
            raise ValueError("condition has no image_embeds: encode it with this sampler")
        return self.shared.image_embeds_LD.unsqueeze(0).to(device)

    def prepare_latents(  # the parent's signature
        self,
        image: Tensor,
        batch_size: int,
        num_channels_latents: int = 16,
        height: int = 480,
        width: int = 832,
        num_frames: int = 81,
        dtype: torch.dtype | None = None,
        device: torch.device | None = None,
        generator: list[torch.Generator] | torch.Generator | None = None,
        latents: Tensor | None = None,
        last_image: Tensor | None = None,
    ) -> tuple[Tensor, ...]:
        """Initial noise, image latents, and for TI2V the mask that is 0 on the first frame, else 1."""
        if self.shared is None:
            size = (num_channels_latents, height, width, num_frames)
            made: tuple[Tensor, ...] = super().prepare_latents(
                image, batch_size, *size, dtype, device, generator, latents, last_image
            )
            return made
        image_latents_CFhw = self.shared.image_latents_FChw
        if image_latents_CFhw is None:
            raise ValueError("condition has no image_latents: encode it with this sampler")
        frames = (num_frames - 1) // self.vae_scale_factor_temporal + 1
        cells = image_latents_CFhw.shape[2:]
        shape = (batch_size, num_channels_latents, frames, *cells)
        noise = randn_tensor(shape, generator=generator, device=device, dtype=dtype)
        image_latents = image_latents_CFhw.to(device, dtype).expand(batch_size, -1, -1, -1, -1)
        if not self.config.expand_timesteps:
            return noise, image_latents
        later_11Fhw = torch.ones(1, 1, frames, *cells, dtype=dtype, device=device)
        later_11Fhw[:, :, 0] = 0
        return noise, image_latents, later_11Fhw


class _Wan(DiffusersSampler):
    """What the Wan samplers share. VAE and image encoder stay in fp32, as the models' authors run them."""

    fp32_components: ClassVar[tuple[str, ...]] = ("vae", "image_encoder")

    def setup(self) -> None:
        """Load pipeline and adapter onto the device. Raises UserError for a kind that is not sampled here."""
        index = model_index(self.model)
        if index.get("boundary_ratio") is not None or (index.get("transformer_2") or [None])[0] is not None:
            raise UserError(
                f"model {self.model.name!r} has two transformers, for high and low noise, which cannot be "
                "aligned here: take a Wan2.1 model or Wan2.2-TI2V-5B"
            )
        super().setup()
        if self.pipe.transformer.config.pos_embed_seq_len is not None:
            raise UserError(
                f"model {self.model.name!r} needs a last frame beside the first, which prompts do not carry: "
                "take a Wan2.1-I2V model"
            )

    def patch(self) -> tuple[int, int]:
        """Height and width of the transformer's patch in latent cells."""
        _, height, width = self.pipe.transformer.config.patch_size
        return height, width

    def decode_batch(self, latents_BCFhw: Tensor) -> Tensor:
        """Pixels of normalised latents, by the pipelines' own arithmetic."""
        mean, reciprocal = self._normalisation(latents_BCFhw)
        # The pipelines divide by the reciprocal, which rounds differently from a product.
        video: Tensor = self.pipe.vae.decode(latents_BCFhw / reciprocal + mean, return_dict=False)[0]
        return video

    def encode_batch(self, video_B3THW: Tensor, condition: Condition) -> Tensor:
        """Normalised latents [B,C,F,h,w]."""
        latents_BCFhw = posterior_mode(self.pipe.vae.encode(video_B3THW))
        mean, reciprocal = self._normalisation(latents_BCFhw)
        return (latents_BCFhw - mean) * reciprocal

    def _normalisation(self, latents_BCFhw: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and reciprocal deviation of each channel."""
        config = self.pipe.vae.config
        mean, deviation = (
            torch.tensor(values).view(1, -1, 1, 1, 1).to(latents_BCFhw)
            for values in (config.latents_mean, config.latents_std)
        )
        return mean, 1.0 / deviation


class WanTextToVideo(_Wan):
    """Text-to-video: Wan2.1-T2V-1.3B and Wan2.1-T2V-14B."""

    pipeline_class: ClassVar[type[Any]] = WanPipeline


class WanImageToVideo(_Wan):
    """Image-to-video: Wan2.1-I2V-14B-480P and -720P."""

    pipeline_class: ClassVar[type[Any]] = _SharedConditionPipeline

    def encode_image(
        self, text: str, image_HW3: Tensor | None, dtype: torch.dtype
    ) -> tuple[Tensor | None, Tensor | None]:
        """Image latents with their mask, and image features. Raises UserError without a first frame."""
        return _encode_first_frame(self.pipe, self.picture(text, image_HW3), self.settings, self.device)

    def image_inputs(self, condition: Condition) -> dict[str, Any]:
        """A stand-in for the image. Raises ValueError for a condition without image latents."""
        return _share(self.pipe, condition, self.settings)


class WanTextOrImageToVideo(_Wan):
    """Both at once, from a first frame where the prompt has one: Wan2.2-TI2V-5B."""

    pipeline_class: ClassVar[type[Any]] = WanPipeline

    def setup(self) -> None:
        """Load pipeline and adapter; the image-to-video pipeline is made of the same components."""
        super().setup()
        self._image_pipe = _SharedConditionPipeline(**self.pipe.components, expand_timesteps=True)
        self._image_pipe.set_progress_bar_config(disable=True)

    def pipe_for(self, condition: Condition) -> Any:
        """The image-to-video pipeline under a condition with a first frame, else the text-to-video one."""
        return self.pipe if condition.image_latents_FChw is None else self._image_pipe

    def encode_image(
        self, text: str, image_HW3: Tensor | None, dtype: torch.dtype
    ) -> tuple[Tensor | None, Tensor | None]:
        """The latent [C,1,h,w] of a first frame; nothing without one."""
        if image_HW3 is None:
            return None, None
        picture = self.picture(text, image_HW3)
        return _encode_first_frame(self._image_pipe, picture, self.settings, self.device)

    def encode_batch(self, video_B3THW: Tensor, condition: Condition) -> Tensor:
        """Normalised latents, of which the first frame is that of the condition where it has one.

        The pipeline puts it there after its last step, so every sampled candidate has it too.
        """
        latents_BCFhw = super().encode_batch(video_B3THW, condition)
        if condition.image_latents_FChw is not None:
            latents_BCFhw[:, :, :1] = condition.image_latents_FChw.to(latents_BCFhw)
        return latents_BCFhw

    def image_inputs(self, condition: Condition) -> dict[str, Any]:
        """A stand-in for the image where the condition has one."""
        if condition.image_latents_FChw is None:
            return {}
        return _share(self._image_pipe, condition, self.settings)


def _encode_first_frame(
    pipe: _SharedConditionPipeline, picture: Image.Image, settings: SamplerSettings, device: str
) -> tuple[Tensor, Tensor | None]:
    """What the pipeline makes of a first frame: image latents, and features where the model attends to them.

    Image latents are [4+C,F,h,w] (a mask, then the latents of the first frame and grey) or, for TI2V,
    [C,1,h,w]. The VAE's posterior enters by its mode, so that nothing is drawn.
    """
    pipe.shared = None
    size = (settings.height, settings.width)
    image = pipe.video_processor.preprocess(picture, *size).to(device, torch.float32)
    noise = torch.zeros(0, device=device)
    image_latents_BX = pipe.prepare_latents(
        image,
        1,
        pipe.vae.config.z_dim,
        *size,
        settings.num_frames,
        dtype=torch.float32,
        device=torch.device(device),
        latents=noise,
    )[1]
    attends = pipe.transformer.config.image_dim is not None
    return image_latents_BX[0], pipe.encode_image(picture, torch.device(device))[0] if attends else None


def _share(pipe: _SharedConditionPipeline, condition: Condition, settings: SamplerSettings) -> dict[str, Any]:
    """Hand the condition to the pipeline. It insists on an image, whose latents the condition holds."""
    pipe.shared = condition
    return {"image": torch.zeros(1, 3, settings.height, settings.width)}
