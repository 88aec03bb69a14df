"""Wan 2.1 and 2.2 (TI2V-5B), text-to-video and image-to-video, called exactly as the diffusers pipelines do.

Legend: B samples, C latent channels, F latent frames, H W latent size, S tokens of a sample, L prompt tokens,
D their width.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from diffusers import WanTransformer3DModel
from torch import Tensor

from storage.errors import UserError
from trainer.families.base import (
    Condition,
    PairShapes,
    check_first_frame_weight,
    load_transformer,
    mismatch,
    read_config,
)

# Scheduler class -> the field of its configuration that holds the shift of the noise levels.
_SHIFTS = {"UniPCMultistepScheduler": "flow_shift", "FlowMatchEulerDiscreteScheduler": "shift"}
_TRAIN_TIMESTEPS = 1000


class WanFamily:
    """Flow matching: noised = (1 - sigma) clean + sigma noise, the model predicts noise - clean."""

    name: str = "wan"
    component: str = "transformer"
    lora_targets: tuple[str, ...] = ("to_q", "to_k", "to_v", "to_out.0")
    timesteps: int = _TRAIN_TIMESTEPS

    def __init__(self, transformer: Any, *, shift: float, expand_timesteps: bool) -> None:
        """Take a WanTransformer3DModel. `expand_timesteps` (2.2 TI2V): a timestep for every token."""
        if shift <= 0:
            raise UserError(f"the scheduler's shift must be above 0, got {shift}: correct its configuration")
        if transformer.config.pos_embed_seq_len is not None:
            raise UserError(
                "this Wan model starts from a first and a last frame, which pairs do not hold: "
                "train a Wan2.1-I2V model"
            )
        self.transformer = transformer
        self.shift = shift
        self.expand_timesteps = expand_timesteps

    @classmethod
    def load(cls, model_dir: Path, dtype: torch.dtype, weights: bool = True) -> WanFamily:
        """The transformer of a model folder. Raises UserError when it cannot be read or has two stages."""
        index = read_config(model_dir / "model_index.json")
        if index.get("boundary_ratio") is not None or (index.get("transformer_2") or [None])[0] is not None:
            raise UserError(
                f"the model in {model_dir} has two transformers for high and low noise, which are not "
                "trained together: take Wan2.1 or Wan2.2-TI2V-5B"
            )
        transformer = load_transformer(WanTransformer3DModel, model_dir, dtype, weights)
        shift = _shift(model_dir / "scheduler" / "scheduler_config.json")
        return cls(transformer, shift=shift, expand_timesteps=bool(index.get("expand_timesteps", False)))

    def with_transformer(self, transformer: Any) -> WanFamily:
        """The same kind of model with another transformer of its class."""
        return WanFamily(transformer, shift=self.shift, expand_timesteps=self.expand_timesteps)

    def check(self, shapes: PairShapes) -> None:
        """Raise UserError when a pair of these shapes (latents C F H W) cannot be of this model."""
        config = self.transformer.config
        latent = shapes.latent
        if len(latent) != 4 or latent[0] != config.out_channels:
            raise mismatch("latents", latent, f"[{config.out_channels}, F, H, W]")
        if any(size % patch for size, patch in zip(latent[1:], config.patch_size, strict=True)):
            raise mismatch("latents", latent, f"F, H and W divisible by {tuple(config.patch_size)}")
        if len(shapes.prompt) != 2 or shapes.prompt[1] != config.text_dim:
            raise mismatch("prompt embeddings", shapes.prompt, f"[L, {config.text_dim}]")
        self._check_image(shapes)

    def loss_weight(self, shapes: PairShapes, first_frame_weight: float = 1.0) -> Tensor | None:
        """All elements, or all but the first latent frame where it is the clean image (C F H W).

        Where it is predicted, it counts `first_frame_weight` times. Raises UserError for a weight that does
        not fit.
        """
        clean = self.expand_timesteps and shapes.image is not None
        check_first_frame_weight(first_frame_weight, shapes, shapes.latent[1])
        if clean and first_frame_weight not in (0, 1):
            raise UserError(
                "this model keeps the first latent frame clean and predicts none, so that it has no error to "
                f"weigh, got first_frame_weight {first_frame_weight:g}: leave it at 1"
            )
        if not clean and first_frame_weight == 1:
            return None
        loss_weight_1F11 = torch.ones(1, shapes.latent[1], 1, 1)
        loss_weight_1F11[:, 0] = 0 if clean else first_frame_weight
        return loss_weight_1F11

    def timestep(self, timestep_index_B: Tensor) -> Tensor:
        """1000 sigma (fp32) with sigma = shift s / (1 + (shift - 1) s), s = (drawn + 1) / 1000."""
        level_B = (timestep_index_B.double() + 1) / _TRAIN_TIMESTEPS
        sigma_B = self.shift * level_B / (1 + (self.shift - 1) * level_B)
        return (sigma_B * _TRAIN_TIMESTEPS).float()

    def noised(self, clean_BCFHW: Tensor, noise_BCFHW: Tensor, timestep_B: Tensor) -> tuple[Tensor, Tensor]:
        """(1 - sigma) clean + sigma noise, and noise - clean, both fp32."""
        clean, noise = clean_BCFHW.float(), noise_BCFHW.float()
        sigma = (timestep_B.float() / _TRAIN_TIMESTEPS).view(-1, 1, 1, 1, 1)
        return (1 - sigma) * clean + sigma * noise, noise - clean

    def predict(self, model: Any, noised_BCFHW: Tensor, timestep_B: Tensor, condition: Condition) -> Tensor:
        """The velocity the model predicts, fp32."""
        dtype = self.transformer.dtype
        hidden, image = noised_BCFHW, condition.image_BX
        timestep = self._per_token(timestep_B, hidden, image) if self.expand_timesteps else timestep_B
        if image is not None:
            if self.expand_timesteps:
                hidden = torch.cat([image.to(hidden), hidden[:, :, 1:]], dim=2)
            else:
                hidden = torch.cat([hidden, image.to(hidden)], dim=1)
        embeds = condition.image_embeds_BLD
        prediction: Tensor = model(
            hidden_states=hidden.to(dtype),
            timestep=timestep,
            encoder_hidden_states=condition.prompt_BLD.to(dtype),
            encoder_hidden_states_image=None if embeds is None else embeds.to(dtype),
            return_dict=False,
        )[0]
        return prediction.float()

    def _per_token(self, timestep_B: Tensor, latents_BCFHW: Tensor, image: Tensor | None) -> Tensor:
        """timestep_BS: that of the sample, 0 for the tokens of a clean first frame."""
        batch, _, frames, height, width = latents_BCFHW.shape
        _, patch_height, patch_width = self.transformer.config.patch_size
        timestep_BFT = timestep_B.view(-1, 1, 1).expand(
            batch, frames, (height // patch_height) * (width // patch_width)
        )
        if image is not None:
            timestep_BFT = timestep_BFT.clone()
            timestep_BFT[:, 0] = 0
        return timestep_BFT.flatten(1)

    def _check_image(self, shapes: PairShapes) -> None:
        config = self.transformer.config
        channels, *size = shapes.latent
        joined = config.in_channels - config.out_channels
        if joined:
            if shapes.image != (joined, *size):
                raise mismatch("image latents", shapes.image, f"{(joined, *size)} (mask and first frame)")
        elif shapes.image is not None and not self.expand_timesteps:
            raise mismatch("image latents", shapes.image, "none (a text-to-video model)")
        elif shapes.image not in {None, (channels, 1, *size[1:])}:
            raise mismatch("image latents", shapes.image, f"{(channels, 1, *size[1:])} (one clean frame)")
        width = None if shapes.image_embeds is None else shapes.image_embeds[-1]
        if width != config.image_dim:
            expected = "none" if config.image_dim is None else f"[L, {config.image_dim}]"
            raise mismatch("image embeddings", shapes.image_embeds, expected)


def _shift(path: Path) -> float:
    config = read_config(path)
    name = config.get("_class_name")
    if name not in _SHIFTS:
        raise UserError(f"{path} names the scheduler {name}: Wan trains with one of {', '.join(_SHIFTS)}")
    if config.get("use_dynamic_shifting"):
        raise UserError(f"{path} asks for use_dynamic_shifting, which Wan does not use: set it to false")
    if config.get("num_train_timesteps", _TRAIN_TIMESTEPS) != _TRAIN_TIMESTEPS:
        raise UserError(
            f"{path} has num_train_timesteps {config['num_train_timesteps']}, Wan is trained on "
            f"{_TRAIN_TIMESTEPS}: correct it"
        )
    # The flow-matching scheduler knows nothing else; UniPC's defaults are those of noise prediction.
    kind = (config.get("prediction_type"), config.get("use_flow_sigmas"))
    if name == "UniPCMultistepScheduler" and kind != ("flow_prediction", True):
        raise UserError(
            f"{path} has prediction_type {kind[0]!r} and use_flow_sigmas {kind[1]}, Wan is trained on "
            "'flow_prediction' and true: correct them"
        )
    return float(config.get(_SHIFTS[name], 1.0))
