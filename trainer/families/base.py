"""What a model family must offer to be trained.

Legend: B samples, X the axes of a latent video in the family's own order (CogVideoX: F C H W, Wan: C F H W,
for F latent frames, C channels, H W cells), L tokens, D their width.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, TypeAlias

import torch
from safetensors import SafetensorError
from torch import Tensor

from storage.errors import UserError

Shape: TypeAlias = tuple[int, ...]


@dataclass(frozen=True, kw_only=True)
class Condition:
    """What the model is given besides noisy latents, as the sampler's pipeline gave it.

    `image_BX` is what the pipeline derives from the first frame and joins to the latents, `image_embeds_BLD`
    features of the first frame by an image encoder; each only for models that take it.
    """

    prompt_BLD: Tensor
    image_BX: Tensor | None = None
    image_embeds_BLD: Tensor | None = None

    def twice(self) -> Condition:
        """The same condition for winners and losers, one after the other."""
        return Condition(
            prompt_BLD=_twice(self.prompt_BLD),
            image_BX=None if self.image_BX is None else _twice(self.image_BX),
            image_embeds_BLD=None if self.image_embeds_BLD is None else _twice(self.image_embeds_BLD),
        )


@dataclass(frozen=True, kw_only=True)
class PairShapes:
    """The shapes of one pair (X; L D; X; L D), and the number of frames of its videos where it is known."""

    latent: Shape
    prompt: Shape
    image: Shape | None = None
    image_embeds: Shape | None = None
    num_frames: int | None = None


class Family(Protocol):
    """How one kind of model is noised, called and adapted."""

    name: str
    component: str
    """The pipeline component that is trained; the prefix of the exported adapter's keys."""
    lora_targets: tuple[str, ...]
    transformer: Any
    timesteps: int
    """Number of training steps of the scheduler; draws are 0 to timesteps - 1, more noise the higher."""

    def with_transformer(self, transformer: Any) -> Family:
        """The same kind of model with another transformer of its class."""

    def check(self, shapes: PairShapes) -> None:
        """Raise UserError when a pair of these shapes cannot be of this model."""

    def loss_weight(self, shapes: PairShapes, first_frame_weight: float = 1.0) -> Tensor | None:
        """How much each element of a latent counts in the loss, broadcastable to X; None when all alike.

        One, zero where decoding or the pipeline discards the element, and `first_frame_weight` in the first
        latent frame of a model that is given the first frame. Raises UserError for a weight other than 1
        where no first frame is given, or where it is not predicted.
        """

    def timestep(self, timestep_index_B: Tensor) -> Tensor:
        """The timestep that the model takes, of the training steps drawn (long)."""

    def noised(self, clean_BX: Tensor, noise_BX: Tensor, timestep_B: Tensor) -> tuple[Tensor, Tensor]:
        """The noised latents and the target the model is trained to predict from them, in fp32."""

    def predict(self, model: Any, noised_BX: Tensor, timestep_B: Tensor, condition: Condition) -> Tensor:
        """The model's prediction in fp32. `model` is `transformer`, perhaps wrapped for several processes."""


# (model folder, precision, whether to read the weights: without, the transformer has shapes only).
FamilyLoader: TypeAlias = Callable[[Path, torch.dtype, bool], Family]


def load_transformer(kind: Any, model_dir: Path, dtype: torch.dtype, weights: bool) -> Any:
    """The transformer of a diffusers folder, or its shell on the meta device. Raises UserError."""
    folder = model_dir / "transformer"
    try:
        if weights:
            return kind.from_pretrained(
                folder, torch_dtype=dtype, local_files_only=True, use_safetensors=True
            )
        with torch.device("meta"):
            return kind.from_config(kind.load_config(folder, local_files_only=True))
    except (OSError, ValueError, SafetensorError) as error:
        raise UserError(
            f"the model in {model_dir} cannot be read ({error}): fetch or build it again"
        ) from error


def read_config(path: Path) -> dict[str, Any]:
    """A JSON file of a model. Raises UserError."""
    try:
        value: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(f"{path} cannot be read ({error}): fetch or build the model again") from error
    return value


def check_first_frame_weight(weight: float, shapes: PairShapes, latent_frames: int) -> None:
    """Raise UserError for a weight that these pairs, with so many latent frames that count, cannot have."""
    if weight != 1 and shapes.image is None:
        raise UserError(
            f"first_frame_weight must be 1 for pairs without a first frame, got {weight:g}: only what the "
            "model is given can be weighed apart from what it makes up"
        )
    if weight == 0 and latent_frames < 2:
        raise UserError(
            f"first_frame_weight must be above 0 for latents of {latent_frames} frame, got 0: nothing would "
            "be left in the loss"
        )


def mismatch(what: str, found: tuple[int, ...] | None, expected: str) -> UserError:
    """The error for pairs that hold something else than the model takes."""
    shape = None if found is None else list(found)
    return UserError(
        f"the pairs hold {what} of shape {shape}, this model takes {expected}: train the model that "
        "the pairs were sampled from, or sample and pair again with this one"
    )


def _twice(x: Tensor) -> Tensor:
    return torch.cat([x, x])
