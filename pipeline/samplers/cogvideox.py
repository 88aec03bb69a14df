"""CogVideoX through diffusers' own pipelines.

Legend: B batch, T video frames, H W pixels, F latent frames, C latent channels, h w latent cells, L tokens,
D width.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

import torch
from diffusers import CogVideoXImageToVideoPipeline, CogVideoXPipeline
from diffusers.utils.torch_utils import randn_tensor
from PIL import Image
from torch import Tensor

from pipeline.models import AdapterRef, ModelRef, load_pipeline
from pipeline.samplers.base import Condition, Sample, SamplerSettings, nonfinite_reason
from storage.errors import UserError

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


class _CogVideoX:
    """What the two CogVideoX samplers share: prompts, generators, decoding."""

    needs_image: ClassVar[bool]
    pipeline_class: ClassVar[type[Any]]

    def __init__(
        self,
        model: ModelRef,
        settings: SamplerSettings,
        adapter: AdapterRef | None = None,
        device: str = "cpu",
    ) -> None:
        self.model, self.settings, self.adapter, self.device = model, settings, adapter, device
        self._pipe: Any = None

    @property
    def pipe(self) -> Any:
        """The diffusers pipeline; raises RuntimeError before `setup`."""
        if self._pipe is None:
            raise RuntimeError("the sampler has no weights yet: call setup() first")
        return self._pipe

    def setup(self) -> None:
        """Load pipeline and adapter onto the device. Raises UserError when settings do not fit the model."""
        self._pipe = load_pipeline(self.model, self.settings.precision, self.device, self.pipeline_class)
        self._pipe.set_progress_bar_config(disable=True)
        self._require_size()
        if self.adapter is not None:
            self._pipe.load_lora_weights(str(self.adapter.path))

    @torch.no_grad()
    def encode(self, text: str, image_HW3: Tensor | None) -> Condition:
        """Encode the text and the first frame. Raises UserError when the model lacks a first frame."""
        settings, pipe = self.settings, self.pipe
        embeds, negative = pipe.encode_prompt(
            prompt=text,
            do_classifier_free_guidance=settings.guidance > 1.0,
            max_sequence_length=settings.max_sequence_length,
        )
        return Condition(
            prompt_embeds_LD=embeds[0],
            negative_embeds_LD=None if negative is None else negative[0],
            image_latents_FChw=self._encode_image(text, image_HW3, embeds.dtype),
        )

    @torch.no_grad()
    def sample(self, condition: Condition, seeds: Sequence[int]) -> list[Sample]:
        """Sample one video per seed in one batch; candidate i draws everything from its own generator."""
        settings, count = self.settings, len(seeds)
        generators = [torch.Generator(device=self.device).manual_seed(seed) for seed in seeds]
        negative = condition.negative_embeds_LD
        latents_BFChw = self.pipe(
            **self._image_inputs(condition),
            prompt_embeds=_repeat(condition.prompt_embeds_LD, count),
            negative_prompt_embeds=None if negative is None else _repeat(negative, count),
            height=settings.height,
            width=settings.width,
            num_frames=settings.num_frames,
            num_inference_steps=settings.steps,
            guidance_scale=settings.guidance,
            max_sequence_length=settings.max_sequence_length,
            generator=generators,
            output_type="latent",
        ).frames
        return [self._finish(latents) for latents in latents_BFChw.float().cpu()]

    @torch.no_grad()
    def decode(self, latents_FChw: Tensor) -> Tensor:
        """Frames [T,H,W,3] uint8 of one candidate's final latents, by the pipeline's VAE and video processor.

        One candidate at a time, so that decoding stored latents later repeats the very same arithmetic.
        """
        pipe = self.pipe
        kept = latents_FChw[self._padding_frames() :].unsqueeze(0).to(self.device, pipe.vae.dtype)
        video = pipe.video_processor.postprocess_video(pipe.decode_latents(kept), output_type="pt")
        frames: Tensor = (video[0].permute(0, 2, 3, 1).float() * 255).round().to(torch.uint8)
        return frames.cpu().contiguous()

    def _finish(self, latents_FChw: Tensor) -> Sample:
        reason = nonfinite_reason(latents_FChw)
        frames = None if reason else self.decode(latents_FChw)
        return Sample(latents_FChw=latents_FChw.contiguous(), frames_THW3=frames, reason=reason)

    def _encode_image(self, text: str, image_HW3: Tensor | None, dtype: torch.dtype) -> Tensor | None:
        raise NotImplementedError

    def _image_inputs(self, condition: Condition) -> dict[str, Any]:
        raise NotImplementedError

    def _latent_frames(self) -> int:
        ratio: int = self.pipe.vae_scale_factor_temporal
        return (self.settings.num_frames - 1) // ratio + 1

    def _padding_frames(self) -> int:
        """Latent frames that CogVideoX 1.5 adds in front to reach a multiple of its temporal patch."""
        patch: int | None = self.pipe.transformer.config.patch_size_t
        return -self._latent_frames() % patch if patch else 0

    def _require_size(self) -> None:
        settings, config = self.settings, self.pipe.transformer.config
        cell = self.pipe.vae_scale_factor_spatial * config.patch_size
        for name in ("height", "width"):
            size = getattr(settings, name)
            if size % cell:
                raise UserError(
                    f"{name} {size} does not fit model {self.model.name!r}: use a multiple of {cell}"
                )
        ratio = self.pipe.vae_scale_factor_temporal
        if (settings.num_frames - 1) % ratio:
            raise UserError(
                f"num_frames {settings.num_frames} does not fit model {self.model.name!r}: "
                f"use 1 more than a multiple of {ratio}"
            )


class CogVideoXImageToVideo(_CogVideoX):
    """Image-to-video: CogVideoX-5B-I2V, CogVideoX1.5-5B-I2V and the embedded world."""

    needs_image: ClassVar[bool] = True
    pipeline_class: ClassVar[type[Any]] = _SharedImagePipeline

    def _encode_image(self, text: str, image_HW3: Tensor | None, dtype: torch.dtype) -> Tensor:
        if image_HW3 is None:
            raise UserError(
                f"prompt {text!r} has no first frame, which model {self.model.name!r} needs: give it an image"
            )
        settings, pipe = self.settings, self.pipe
        # As an image file: the processor resizes those with a proper filter, tensors by the nearest pixel.
        picture = Image.fromarray(image_HW3.cpu().numpy())
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
        shared: Tensor = image_latents[0]
        return shared

    def _image_inputs(self, condition: Condition) -> dict[str, Any]:
        if condition.image_latents_FChw is None:
            raise ValueError("condition has no image_latents: encode it with this sampler")
        # The pipeline insists on an image; its latents are already in the condition.
        self.pipe.shared_image_latents = condition.image_latents_FChw.unsqueeze(0)
        return {"image": torch.zeros(1, 3, self.settings.height, self.settings.width)}


class CogVideoXTextToVideo(_CogVideoX):
    """Text-to-video: CogVideoX-2B, CogVideoX-5B and CogVideoX1.5-5B."""

    needs_image: ClassVar[bool] = False
    pipeline_class: ClassVar[type[Any]] = CogVideoXPipeline

    def _encode_image(self, text: str, image_HW3: Tensor | None, dtype: torch.dtype) -> None:
        return None

    def _image_inputs(self, condition: Condition) -> dict[str, Any]:
        return {}


def _repeat(embeds_LD: Tensor, count: int) -> Tensor:
    return embeds_LD.unsqueeze(0).expand(count, -1, -1).contiguous()
