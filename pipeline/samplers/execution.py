"""How a diffusers pipeline is made ready to run: adapter, tiles, where weights lie, compilation.

`Execution` holds what decides speed and memory but not what a candidate looks like (compiled kernels round
differently in the last bits, as another GPU does); the rest is in `SamplerSettings`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal, TypeAlias, get_args

from pipeline.models import AdapterRef, ModelRef
from pipeline.samplers.base import SamplerSettings
from storage.errors import UserError

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
