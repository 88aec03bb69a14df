"""The samplers by pipeline class name. A new one is a file, and a line in the table or in a package."""

from __future__ import annotations

from dataclasses import dataclass
from importlib import import_module
from typing import Literal, TypeAlias

from pipeline.models import AdapterRef, ModelRef, model_index
from pipeline.sampling.sampler import Condition, Sample, Sampler
from pipeline.sampling.settings import Execution, SamplerSettings
from rewards.extensions import Table
from storage.errors import UserError

__all__ = [
    "SAMPLERS",
    "Condition",
    "Execution",
    "Sample",
    "Sampler",
    "SamplerSettings",
    "SamplerSpec",
    "first_frame",
    "make_sampler",
    "sampler_module",
]

FirstFrame: TypeAlias = Literal["required", "optional", "unused"]
# Wan2.2-TI2V-5B is published as a WanPipeline, and only this flag tells it from a Wan2.1 text-to-video model.
_PER_TOKEN = "expand_timesteps"


@dataclass(frozen=True)
class SamplerSpec:
    """Where a sampler is: imported by the worker that uses it, so that a driver starts without diffusers."""

    module: str
    name: str
    first_frame: FirstFrame


_OWN: dict[str, SamplerSpec] = {
    "CogVideoXImageToVideoPipeline": SamplerSpec(
        "pipeline.sampling.cogvideox", "CogVideoXImageToVideo", "required"
    ),
    "CogVideoXPipeline": SamplerSpec("pipeline.sampling.cogvideox", "CogVideoXTextToVideo", "unused"),
    "WanImageToVideoPipeline": SamplerSpec("pipeline.sampling.wan", "WanImageToVideo", "required"),
    "WanPipeline": SamplerSpec("pipeline.sampling.wan", "WanTextToVideo", "unused"),
    f"WanPipeline {_PER_TOKEN}": SamplerSpec("pipeline.sampling.wan", "WanTextOrImageToVideo", "optional"),
}
SAMPLERS = Table("gpa.samplers", SamplerSpec, _OWN)


def first_frame(model: ModelRef) -> FirstFrame:
    """Whether the model starts from the first frame of a prompt: always, where there is one, or never.

    Raises UserError for a family without a sampler.
    """
    return _spec(model).first_frame


def sampler_module(model: ModelRef) -> str:
    """The module that the sampler of the model is in; importing it takes long. Raises UserError."""
    return _spec(model).module


def make_sampler(
    model: ModelRef,
    settings: SamplerSettings,
    adapter: AdapterRef | None = None,
    device: str = "cpu",
    execution: Execution | None = None,
) -> Sampler:
    """The sampler of the model's family, without its weights (`setup` loads them)."""
    spec = _spec(model)
    sampler: Sampler = getattr(import_module(spec.module), spec.name)(
        model, settings, adapter, device, execution
    )
    return sampler


def _spec(model: ModelRef) -> SamplerSpec:
    found = SAMPLERS.get(model.family)
    if found is None:
        known = ", ".join(sorted(name for name in SAMPLERS if " " not in name))
        raise UserError(
            f"model {model.name!r} is a {model.family}, which has no sampler here; families: {known}"
        )
    if model_index(model).get(_PER_TOKEN):
        return SAMPLERS.get(f"{model.family} {_PER_TOKEN}", found)
    return found
