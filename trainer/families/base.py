"""What a model family must offer to be trained.

Legend: B samples, F latent frames, C latent channels, H W latent size, L prompt tokens, D their width.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol, TypeAlias

import torch
from torch import Tensor


class Family(Protocol):
    """How one kind of model is noised, called and adapted."""

    name: str
    component: str
    """The pipeline component that is trained; the prefix of the exported adapter's keys."""
    lora_targets: tuple[str, ...]
    transformer: Any
    timesteps: int
    """Number of training timesteps; valid ones are 0 to timesteps - 1."""

    def check(
        self,
        latent_shape: tuple[int, ...],
        prompt_shape: tuple[int, ...],
        image_shape: tuple[int, ...] | None,
    ) -> None:
        """Raise UserError when a pair of these shapes (F C H W; L D; F C H W) cannot be of this model."""

    def noised(self, clean_BFCHW: Tensor, noise_BFCHW: Tensor, timestep_B: Tensor) -> tuple[Tensor, Tensor]:
        """The noised latents and the target the model is trained to predict from them, in fp32."""

    def predict(
        self,
        model: Any,
        noised_BFCHW: Tensor,
        timestep_B: Tensor,
        prompt_BLD: Tensor,
        image_BFCHW: Tensor | None,
    ) -> Tensor:
        """The model's prediction in fp32. `model` is `transformer`, perhaps wrapped for several processes."""


FamilyLoader: TypeAlias = Callable[[Path, torch.dtype], Family]
