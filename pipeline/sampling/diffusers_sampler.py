"""What every sampler of a diffusers video pipeline does alike: weights, prompts, generators, decoding.

Legend: B batch, T video frames, H W pixels, L tokens, D width, X the axes of a latent video in the
pipeline's own order.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, ClassVar

import torch
from diffusers.utils import logging
from PIL import Image
from torch import Tensor
from transformers.utils import logging as transformers_logging

from pipeline.engine.stage import heartbeat
from pipeline.models import AdapterRef, ModelRef, load_pipeline
from pipeline.sampling.fit import Grid, frame_step, require_grid
from pipeline.sampling.sampler import (
    Condition,
    Sample,
    nonfinite_reason,
    prepare_pipeline,
)
from pipeline.sampling.settings import Execution, SamplerSettings
from storage.errors import UserError


class DiffusersSampler:
    """Prompt and first frame are encoded once; every candidate draws its noise from a generator of its own.

    A family says how it encodes a first frame (`encode_image`), what the pipeline is given of it
    (`image_inputs`), and how latents become pixels (`decode_batch`).
    """

    pipeline_class: ClassVar[type[Any]]
    fp32_components: ClassVar[tuple[str, ...]] = ()
    """Components that stay in fp32 whatever the precision."""

    def __init__(
        self,
        model: ModelRef,
        settings: SamplerSettings,
        adapter: AdapterRef | None = None,
        device: str = "cpu",
        execution: Execution | None = None,
    ) -> None:
        self.model, self.settings, self.adapter, self.device = model, settings, adapter, device
        self.execution = execution or Execution()
        self._pipe: Any = None

    @property
    def pipe(self) -> Any:
        """The diffusers pipeline; raises RuntimeError before `setup`."""
        if self._pipe is None:
            raise RuntimeError("the sampler has no weights yet: call setup() first")
        return self._pipe

    def setup(self) -> None:
        """Load pipeline and adapter onto the device. Raises UserError when settings do not fit the model."""
        self._pipe = load_pipeline(
            self.model,
            self.settings.precision,
            self.execution.loading_device(self.device),
            self.pipeline_class,
            self.fp32_components,
        )
        self._pipe.set_progress_bar_config(disable=True)
        self._require_size()
        prepare_pipeline(self._pipe, self.model, self.settings, self.adapter, self.execution, self.device)

    @torch.no_grad()
    def encode(self, text: str, image_HW3: Tensor | None) -> Condition:
        """Encode the text and the first frame. Raises UserError when the model lacks a first frame."""
        settings, pipe = self.settings, self.pipe
        with _told_before():
            embeds, negative = pipe.encode_prompt(
                prompt=text,
                negative_prompt=settings.negative_prompt,
                do_classifier_free_guidance=settings.guidance > 1.0,
                max_sequence_length=settings.max_sequence_length,
            )
        image_latents_X, image_embeds_LD = self.encode_image(text, image_HW3, embeds.dtype)
        return Condition(
            prompt_embeds_LD=embeds[0],
            negative_embeds_LD=None if negative is None else negative[0],
            image_latents_FChw=image_latents_X,
            image_embeds_LD=image_embeds_LD,
        )

    @torch.no_grad()
    def sample(self, condition: Condition, seeds: Sequence[int]) -> list[Sample]:
        """Sample one video per seed in one batch; candidate i draws everything from its own generator."""
        settings, count = self.settings, len(seeds)
        generators = [torch.Generator(device=self.device).manual_seed(seed) for seed in seeds]
        negative = condition.negative_embeds_LD
        latents_BX = self.pipe_for(condition)(
            **self.image_inputs(condition),
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
            callback_on_step_end=_beat,
        ).frames
        return [self._finish(latents_X) for latents_X in latents_BX.float().cpu()]

    @torch.no_grad()
    def decode(self, latents_X: Tensor) -> Tensor:
        """Frames [T,H,W,3] uint8 of one candidate's final latents, by the pipeline's VAE and video processor.

        One candidate at a time, so that decoding stored latents later repeats the very same arithmetic.
        """
        pipe = self.pipe
        video = self.decode_batch(latents_X.unsqueeze(0).to(self.device, pipe.vae.dtype))
        video = pipe.video_processor.postprocess_video(video, output_type="pt")
        frames: Tensor = (video[0].permute(0, 2, 3, 1).float() * 255).round().to(torch.uint8)
        return frames.cpu().contiguous()

    @torch.no_grad()
    def encode_video(self, frames_THW3: Tensor, condition: Condition) -> Tensor:
        """The latents [X] float32 of frames uint8 of the settings' size, as sampling would have left them.

        The VAE's posterior enters by its mode: nothing is drawn, so the same video has the same latents on
        every machine, and two videos of a prompt differ by their pixels alone. Raises ValueError for frames
        of another size.
        """
        settings, vae = self.settings, self.pipe.vae
        expected = (settings.num_frames, settings.height, settings.width, 3)
        if frames_THW3.dtype != torch.uint8 or tuple(frames_THW3.shape) != expected:
            got = f"{frames_THW3.dtype} {tuple(frames_THW3.shape)}"
            raise ValueError(f"frames_THW3 must be uint8 {expected}, got {got}: fit the video first")
        video_3THW = frames_THW3.permute(3, 0, 1, 2).to(self.device).float() / 255 * 2 - 1
        latents_BX = self.encode_batch(video_3THW.unsqueeze(0).to(vae.dtype), condition)
        return latents_BX[0].float().cpu().contiguous()

    def pipe_for(self, condition: Condition) -> Any:
        """The pipeline that samples under this condition."""
        return self.pipe

    def encode_image(
        self, text: str, image_HW3: Tensor | None, dtype: torch.dtype
    ) -> tuple[Tensor | None, Tensor | None]:
        """Image latents and image features of a first frame; a text-to-video model has neither."""
        return None, None

    def image_inputs(self, condition: Condition) -> dict[str, Any]:
        """The pipeline's arguments that concern the first frame."""
        return {}

    def decode_batch(self, latents_BX: Tensor) -> Tensor:
        """Pixels [B,3,T,H,W] in [-1, 1] of latents in the VAE's precision."""
        raise NotImplementedError

    def encode_batch(self, video_B3THW: Tensor, condition: Condition) -> Tensor:
        """Latents of pixels in [-1, 1] in the VAE's precision: the way back from `decode_batch`."""
        raise NotImplementedError

    def patch(self) -> tuple[int, int]:
        """Height and width of the transformer's patch in latent cells."""
        raise NotImplementedError

    def frame_step(self) -> int:
        """Videos have 1 more than a multiple of so many frames."""
        return frame_step(type(self.pipe.vae).__name__, self.pipe.vae_scale_factor_temporal)

    def picture(self, text: str, image_HW3: Tensor | None) -> Image.Image:
        """The first frame as an image file holds it. Raises UserError when there is none.

        Image processors resize those with a proper filter, tensors by the nearest pixel.
        """
        if image_HW3 is None:
            raise UserError(
                f"prompt {text!r} has no first frame, which model {self.model.name!r} needs: give it an image"
            )
        return Image.fromarray(image_HW3.cpu().numpy())

    def _finish(self, latents_X: Tensor) -> Sample:
        reason = nonfinite_reason(latents_X)
        frames = None if reason else self.decode(latents_X)
        return Sample(latents_FChw=latents_X.contiguous(), frames_THW3=frames, reason=reason)

    def _require_size(self) -> None:
        """Again, by the networks themselves: not every folder says it."""
        height, width = (self.pipe.vae_scale_factor_spatial * patch for patch in self.patch())
        grid = Grid(height=height, width=width, frames=self.frame_step())
        require_grid(self.model.name, self.settings, grid)


@contextmanager
def _told_before() -> Iterator[None]:
    """No line of the libraries on prompts that are cut: the driver has told how many there are.

    diffusers has one for each, transformers one on errors that would come if they were not.
    """
    before = [(library, library.get_verbosity()) for library in (logging, transformers_logging)]
    for library, _ in before:
        library.set_verbosity_error()
    try:
        yield
    finally:
        for library, verbosity in before:
            library.set_verbosity(verbosity)


def posterior_mode(encoded: Any) -> Tensor:
    """The most likely latents of what a VAE encoded, or the only ones where there is no posterior."""
    latents: Tensor = encoded.latent_dist.mode() if hasattr(encoded, "latent_dist") else encoded.latents
    return latents


def _beat(_pipe: Any, _step: int, _timestep: Any, _tensors: dict[str, Any]) -> dict[str, Any]:
    """Told by the pipeline after every denoising step; changes nothing."""
    heartbeat()
    return {}


def _repeat(embeds_LD: Tensor, count: int) -> Tensor:
    return embeds_LD.unsqueeze(0).expand(count, -1, -1).contiguous()
