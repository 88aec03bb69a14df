"""What every video sampler is: settings, a condition, samples, the protocol, and how it is executed.

Legend: T video frames, H W pixels, F latent frames, C latent channels, h w latent cells, L tokens, D text
width.

`Execution` holds what decides speed and memory but not what a candidate looks like (compiled kernels round
differently in the last bits, as another GPU does); the rest is in `SamplerSettings`.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, Protocol, TypeAlias, get_args

from pipeline.models import AdapterRef, ModelRef, Precision
from storage.errors import UserError

if TYPE_CHECKING:
    from torch import Tensor

# Settings that came when runs existed: left out of the plain values at their defaults, so that the ids of
# those runs stay what they are.
# These decide the embeddings of a prompt and the latents of its first frame.
_OF_CONDITION = ("height", "width", "num_frames", "max_sequence_length", "precision", "vae_tiling")
_LATER = ("negative_prompt", "vae_tiling", "adapter_weight")


@dataclass(frozen=True, kw_only=True)
class SamplerSettings:
    """Everything but model, adapter, prompt and seed that decides what a candidate looks like.

    Sizes in pixels, `fps` in frames a second, `max_sequence_length` in text tokens. `negative_prompt` is what
    guidance leads away from. `vae_tiling` decodes in overlapping tiles, whose seams are blended, where a
    video is larger than one. `adapter_weight` multiplies what the adapter adds. Raises ValueError.
    """

    steps: int
    guidance: float
    height: int
    width: int
    num_frames: int
    fps: int
    max_sequence_length: int
    precision: Precision = "fp32"
    negative_prompt: str = ""
    vae_tiling: bool = False
    adapter_weight: float = 1.0

    def __post_init__(self) -> None:
        for name in ("steps", "height", "width", "num_frames", "fps", "max_sequence_length"):
            value = getattr(self, name)
            if value < 1:
                raise ValueError(f"{name} must be at least 1, got {value}")
        if self.guidance < 0:
            raise ValueError(f"guidance must be 0 or more (1 is no guidance), got {self.guidance}")
        if self.precision not in get_args(Precision):
            raise ValueError(f"precision must be one of {get_args(Precision)}, got {self.precision!r}")
        if self.negative_prompt and self.guidance <= 1:
            raise ValueError(f"negative_prompt needs guidance above 1, got guidance {self.guidance:g}")
        if not math.isfinite(self.adapter_weight):
            raise ValueError(f"adapter_weight must be finite, got {self.adapter_weight}")

    @staticmethod
    def of_condition(values: Mapping[str, Any]) -> dict[str, Any]:
        """Of settings as plain values, those that decide what is kept of a prompt for all its candidates."""
        return {name: values.get(name, False) for name in _OF_CONDITION}

    def as_dict(self) -> dict[str, Any]:
        """The settings as plain values, for the `sampler` column and for ids."""
        values = dataclasses.asdict(self)
        defaults = {field.name: field.default for field in dataclasses.fields(self)}
        return {
            name: value for name, value in values.items() if name not in _LATER or value != defaults[name]
        }


@dataclass(frozen=True, kw_only=True)
class Condition:
    """What the transformer is given besides the noisy latents, exactly as the pipeline holds it.

    `image_latents_FChw` is what the pipeline joins to the latents, in its own layout; None for text-to-video.
    CogVideoX: concatenated on channels, zeros over the later frames. Wan 2.1: concatenated on channels,
    [4+C,F,h,w], a mask first. Wan 2.2 TI2V: [C,1,h,w], takes the place of the first latent frame.
    `image_embeds_LD` are features of the first frame by an image encoder, for the models that attend to them.
    `negative_embeds_LD` only with guidance above 1.
    """

    prompt_embeds_LD: Tensor
    negative_embeds_LD: Tensor | None = None
    image_latents_FChw: Tensor | None = None
    image_embeds_LD: Tensor | None = None

    def tensors(self) -> dict[str, Tensor]:
        """The tensors that are kept with a run, by name."""
        kept = {"prompt_embeds": self.prompt_embeds_LD.cpu().contiguous()}
        if self.image_latents_FChw is not None:
            kept["image_latents"] = self.image_latents_FChw.cpu().contiguous()
        if self.image_embeds_LD is not None:
            kept["image_embeds"] = self.image_embeds_LD.cpu().contiguous()
        return kept


@dataclass(frozen=True, kw_only=True)
class Sample:
    """One sampled video. `frames_THW3` (uint8) is None when the latents are not finite; see `reason`.

    `latents_FChw` is float32 and laid out as the pipeline holds it, one batch entry of its final latents:
    decoding it with the pipeline's own VAE gives the frames exactly.
    """

    latents_FChw: Tensor
    frames_THW3: Tensor | None
    reason: str | None = None


class Sampler(Protocol):
    """A video model that turns a condition and seeds into videos."""

    def setup(self) -> None:
        """Load the weights, in the process that will sample."""

    def encode(self, text: str, image_HW3: Tensor | None) -> Condition:
        """Encode a prompt once for all its candidates; the image is uint8 at its own resolution."""

    def sample(self, condition: Condition, seeds: Sequence[int]) -> list[Sample]:
        """Sample one video per seed in one batch, each from its own generator."""

    def encode_video(self, frames_THW3: Tensor, condition: Condition) -> Tensor:
        """The latents that stand for a video made elsewhere, laid out as those of a sample."""


def nonfinite_reason(latents_FChw: Tensor) -> str | None:
    """Why these latents cannot be used, or None when every value is finite."""
    import torch  # a driver that only names samplers does without it

    bad = int((~torch.isfinite(latents_FChw)).sum())
    if not bad:
        return None
    return f"latents hold {bad} NaN or infinite values of {latents_FChw.numel()}"


Offload: TypeAlias = Literal["none", "model", "sequential"]
_ADAPTER = "aligned"


@dataclass(frozen=True, kw_only=True)
class Execution:
    """Speed and memory of sampling. Raises UserError for an unknown `offload`.

    `offload` keeps weights in the CPU's memory and brings them to the GPU when they are used: component by
    component ("model") or layer by layer ("sequential"). `vae_slicing` makes the VAE take a batch one by one.
    `compile` is torch.compile of the transformer.
    """

    offload: Offload = "none"
    vae_slicing: bool = False
    compile: bool = False

    def __post_init__(self) -> None:
        if self.offload not in get_args(Offload):
            raise UserError(
                f"--offload must be one of {', '.join(get_args(Offload))}, got {self.offload!r}: choose one"
            )

    def loading_device(self, device: str) -> str:
        """Where weights are loaded to. Raises UserError when there is no GPU to offload from."""
        if self.offload == "none":
            return device
        if not device.startswith("cuda"):
            raise UserError(
                f"--offload {self.offload} is for a GPU and this worker has none: use --gpus-per-worker 1, "
                "or --offload none"
            )
        return "cpu"


def prepare_pipeline(
    pipe: Any,
    model: ModelRef,
    settings: SamplerSettings,
    adapter: AdapterRef | None,
    execution: Execution,
    device: str,
) -> None:
    """Give a loaded pipeline its adapter and have it run as asked.

    The adapter comes first: offloading and compilation take the transformer as it then is. Raises UserError
    when the VAE has no tiles or slices.
    """
    if adapter is not None:
        pipe.load_lora_weights(str(adapter.path), adapter_name=_ADAPTER)
        pipe.set_adapters([_ADAPTER], [settings.adapter_weight])
    if settings.vae_tiling:
        _enable(pipe.vae, "tiling", model)
    if execution.vae_slicing:
        _enable(pipe.vae, "slicing", model)
    if execution.offload == "model":
        pipe.enable_model_cpu_offload(device=device)
    elif execution.offload == "sequential":
        pipe.enable_sequential_cpu_offload(device=device)
    if execution.compile:
        # In place: the pipeline and the adapter still find the module they know.
        pipe.transformer.compile()


def _enable(vae: Any, what: str, model: ModelRef) -> None:
    enable = getattr(vae, f"enable_{what}", None)
    if enable is None:
        raise UserError(
            f"the VAE of model {model.name!r} ({type(vae).__name__}) has no {what}: leave --vae-{what} out"
        )
    enable()
