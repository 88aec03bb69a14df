"""CogVideoX 1.0 and 1.5, text-to-video and image-to-video, called exactly as the diffusers pipelines do.

Legend: B samples, F latent frames, C latent channels, H W latent size, L prompt tokens, D their width.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from diffusers import CogVideoXDDIMScheduler, CogVideoXDPMScheduler, CogVideoXTransformer3DModel
from diffusers.models.embeddings import get_3d_rotary_pos_embed
from torch import Tensor

from storage.errors import UserError
from trainer.families.base import (
    Condition,
    PairShapes,
    Shape,
    check_first_frame_weight,
    load_transformer,
    mismatch,
    read_config,
)

_SCHEDULERS: dict[str, Any] = {
    "CogVideoXDPMScheduler": CogVideoXDPMScheduler,
    "CogVideoXDDIMScheduler": CogVideoXDDIMScheduler,
}
# The pipeline feeds this constant to the models that take an offset embedding (1.5 image-to-video).
_OFS = 2.0
# The published models predict the velocity.
_PREDICTIONS = ("v_prediction", "epsilon")


class CogVideoXFamily:
    """Velocity prediction under the checkpoint's own scheduler, positions as the pipeline makes them."""

    name: str = "cogvideox"
    component: str = "transformer"
    lora_targets: tuple[str, ...] = ("to_q", "to_k", "to_v", "to_out.0")

    def __init__(self, transformer: Any, scheduler: Any) -> None:
        """Take a CogVideoXTransformer3DModel and its scheduler. Raises UserError for an unsupported kind."""
        if scheduler.config.prediction_type not in _PREDICTIONS:
            raise UserError(
                f"the scheduler predicts {scheduler.config.prediction_type!r}, CogVideoX trains with one of "
                f"{', '.join(_PREDICTIONS)}: correct prediction_type in scheduler/scheduler_config.json"
            )
        self.transformer = transformer
        self.scheduler = scheduler
        # float64 in diffusers; some devices have none, and add_noise casts it to fp32 anyway.
        scheduler.alphas_cumprod = scheduler.alphas_cumprod.float()
        self.timesteps = int(scheduler.config.num_train_timesteps)
        self._rotary: dict[tuple[int, int, int, torch.device], tuple[Tensor, Tensor]] = {}

    @classmethod
    def load(cls, model_dir: Path, dtype: torch.dtype, weights: bool = True) -> CogVideoXFamily:
        """The transformer and scheduler of a model folder. Raises UserError when either cannot be read."""
        config_path = model_dir / "scheduler" / "scheduler_config.json"
        scheduler_config = read_config(config_path)
        name = scheduler_config.get("_class_name")
        if name not in _SCHEDULERS:
            raise UserError(
                f"{config_path} names the scheduler {name}: CogVideoX trains with one of "
                f"{', '.join(_SCHEDULERS)}"
            )
        transformer = load_transformer(CogVideoXTransformer3DModel, model_dir, dtype, weights)
        return cls(transformer, _SCHEDULERS[name].from_config(scheduler_config))

    @property
    def image_to_video(self) -> bool:
        """Whether the first frame's latents are concatenated on channels."""
        config = self.transformer.config
        return int(config.in_channels) == 2 * int(config.out_channels)

    def with_transformer(self, transformer: Any) -> CogVideoXFamily:
        """The same kind of model with another transformer of its class."""
        return CogVideoXFamily(transformer, self.scheduler)

    def check(self, shapes: PairShapes) -> None:
        """Raise UserError when a pair of these shapes (latents F C H W) cannot be of this model."""
        config = self.transformer.config
        self._check_latents(shapes.latent)
        prompt_shape, image_shape = shapes.prompt, shapes.image
        if len(prompt_shape) != 2 or prompt_shape[1] != config.text_embed_dim:
            raise mismatch("prompt embeddings", prompt_shape, f"[L, {config.text_embed_dim}]")
        # A table of positions added to the tokens counts those of the prompt in.
        added = config.use_learned_positional_embeddings or not config.use_rotary_positional_embeddings
        if added and prompt_shape[0] != config.max_text_seq_length:
            raise mismatch("prompt embeddings", prompt_shape, f"{config.max_text_seq_length} tokens")
        _, channels, height, width = shapes.latent
        if not self.image_to_video:
            if image_shape is not None:
                raise mismatch("image latents", image_shape, "none (a text-to-video model)")
        elif image_shape not in {shapes.latent, (1, channels, height, width)}:
            raise mismatch("image latents", image_shape, f"{shapes.latent} (an image-to-video model)")
        self._padding_frames(shapes)

    def loss_weight(self, shapes: PairShapes, first_frame_weight: float = 1.0) -> Tensor | None:
        """All elements; of a padded video (1.5) all but the frames in front that decoding discards (F 1 1 1).

        The first latent frame, after the padding, counts `first_frame_weight` times. Raises UserError for
        pairs that do not tell how many frames their videos have, and for a weight they cannot have.
        """
        padding = self._padding_frames(shapes)
        check_first_frame_weight(first_frame_weight, shapes, shapes.latent[0] - padding)
        if not padding and first_frame_weight == 1:
            return None
        loss_weight_F111 = torch.ones(shapes.latent[0], 1, 1, 1)
        loss_weight_F111[:padding] = 0
        loss_weight_F111[padding] = first_frame_weight
        return loss_weight_F111

    def timestep(self, timestep_index_B: Tensor) -> Tensor:
        """The training step itself."""
        return timestep_index_B

    def noised(self, clean_BFCHW: Tensor, noise_BFCHW: Tensor, timestep_B: Tensor) -> tuple[Tensor, Tensor]:
        """The noised latents, and the velocity sqrt(a) noise - sqrt(1 - a) clean or the noise, both fp32."""
        clean, noise = clean_BFCHW.float(), noise_BFCHW.float()
        noised_BFCHW: Tensor = self.scheduler.add_noise(clean, noise, timestep_B)
        if self.scheduler.config.prediction_type == "epsilon":
            return noised_BFCHW, noise
        target_BFCHW: Tensor = self.scheduler.get_velocity(clean, noise, timestep_B)
        return noised_BFCHW, target_BFCHW

    def predict(self, model: Any, noised_BFCHW: Tensor, timestep_B: Tensor, condition: Condition) -> Tensor:
        """The velocity the model predicts, fp32. Image latents of one frame are zero padded over F."""
        dtype = self.transformer.dtype
        hidden = noised_BFCHW.to(dtype)
        if condition.image_BX is not None:
            hidden = torch.cat([hidden, _pad_frames(condition.image_BX.to(dtype), hidden.shape[1])], dim=2)
        ofs = None if self.transformer.config.ofs_embed_dim is None else hidden.new_full((1,), _OFS)
        prediction: Tensor = model(
            hidden_states=hidden,
            encoder_hidden_states=condition.prompt_BLD.to(dtype),
            timestep=timestep_B,
            ofs=ofs,
            image_rotary_emb=self._rotary_embedding(noised_BFCHW),
            return_dict=False,
        )[0]
        return prediction.float()

    def _check_latents(self, latent: Shape) -> None:
        config = self.transformer.config
        if len(latent) != 4 or latent[1] != config.out_channels:
            raise mismatch("latents", latent, f"[F, {config.out_channels}, H, W]")
        frames, channels, height, width = latent
        if height % config.patch_size or width % config.patch_size:
            raise mismatch("latents", latent, f"H and W divisible by {config.patch_size}")
        if config.patch_size_t is not None:
            largest = (config.sample_height, config.sample_width)
            if frames % config.patch_size_t:
                raise mismatch("latents", latent, f"F divisible by {config.patch_size_t}")
            if height > largest[0] or width > largest[1]:
                raise mismatch("latents", latent, f"H and W up to {largest}")
        if config.use_learned_positional_embeddings:
            known = (_latent_frames(config.sample_frames, config), config.sample_height, config.sample_width)
            if (frames, height, width) != known:
                expected = (known[0], channels, *known[1:])
                raise mismatch("latents", latent, f"exactly {expected} (learned positions)")

    def _padding_frames(self, shapes: PairShapes) -> int:
        """Latent frames that the pipeline put in front, to fill the last temporal patch of version 1.5."""
        config = self.transformer.config
        if config.patch_size_t is None:
            return 0
        if shapes.num_frames is None:
            raise UserError(
                "the pairs do not tell how many frames their videos have, so the padding of CogVideoX 1.5 is "
                "not known: run `gpa pair` again"
            )
        padding = shapes.latent[0] - _latent_frames(shapes.num_frames, config)
        if not 0 <= padding < config.patch_size_t:
            expected = (
                f"{shapes.latent[0] - padding} latent frames, padded to a multiple of {config.patch_size_t}"
            )
            raise mismatch("latents", shapes.latent, expected)
        return padding

    def _rotary_embedding(self, latents_BFCHW: Tensor) -> tuple[Tensor, Tensor] | None:
        if not self.transformer.config.use_rotary_positional_embeddings:
            return None
        frames, height, width = latents_BFCHW.shape[1], latents_BFCHW.shape[3], latents_BFCHW.shape[4]
        key = (frames, height, width, latents_BFCHW.device)
        if key not in self._rotary:
            self._rotary[key] = _rotary_table(self.transformer.config, *key)
        return self._rotary[key]


def _rotary_table(
    config: Any, frames: int, height: int, width: int, device: torch.device
) -> tuple[Tensor, Tensor]:
    """Cosines and sines of every token of a latent video: 1.0 stretches a base grid, 1.5 counts patches."""
    patch = config.patch_size
    grid = (height // patch, width // patch)
    base = (config.sample_height // patch, config.sample_width // patch)
    made: tuple[Tensor, Tensor]
    if config.patch_size_t is None:
        made = get_3d_rotary_pos_embed(
            embed_dim=config.attention_head_dim,
            crops_coords=_crop_region(grid, base),
            grid_size=grid,
            temporal_size=frames,
            device=device,
        )
    else:
        made = get_3d_rotary_pos_embed(
            embed_dim=config.attention_head_dim,
            crops_coords=None,
            grid_size=grid,
            temporal_size=frames // config.patch_size_t,
            grid_type="slice",
            max_size=base,
            device=device,
        )
    return made


def _crop_region(grid: tuple[int, int], base: tuple[int, int]) -> tuple[tuple[int, int], tuple[int, int]]:
    """Where a grid of this aspect ratio lies in the base grid: centred, as large as fits."""
    (height, width), (base_height, base_width) = grid, base
    if height / width > base_height / base_width:
        fitted_height, fitted_width = base_height, round(base_height / height * width)
    else:
        fitted_height, fitted_width = round(base_width / width * height), base_width
    top, left = round((base_height - fitted_height) / 2.0), round((base_width - fitted_width) / 2.0)
    return (top, left), (top + fitted_height, left + fitted_width)


def _pad_frames(image_BFCHW: Tensor, frames: int) -> Tensor:
    missing = frames - image_BFCHW.shape[1]
    if missing == 0:
        return image_BFCHW
    padding = image_BFCHW.new_zeros(image_BFCHW.shape[0], missing, *image_BFCHW.shape[2:])
    return torch.cat([image_BFCHW, padding], dim=1)


def _latent_frames(num_frames: int, config: Any) -> int:
    return int((num_frames - 1) // config.temporal_compression_ratio + 1)
