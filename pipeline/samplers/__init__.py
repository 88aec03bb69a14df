"""The samplers by pipeline class name. A new model family is one file here and one line in the table."""

from __future__ import annotations

from dataclasses import dataclass
from importlib import import_module

from pipeline.models import AdapterRef, ModelRef
from pipeline.samplers.base import Condition, Sample, Sampler, SamplerSettings
from storage.errors import UserError

__all__ = ["SAMPLERS", "Condition", "Sample", "Sampler", "SamplerSettings", "make_sampler", "needs_image"]


@dataclass(frozen=True)
class SamplerSpec:
    """Where a sampler is: imported by the worker that uses it, so that a driver starts without diffusers."""

    module: str
    name: str
    needs_image: bool


SAMPLERS: dict[str, SamplerSpec] = {
    "CogVideoXImageToVideoPipeline": SamplerSpec(
        "pipeline.samplers.cogvideox", "CogVideoXImageToVideo", True
    ),
    "CogVideoXPipeline": SamplerSpec("pipeline.samplers.cogvideox", "CogVideoXTextToVideo", False),
}


def needs_image(model: ModelRef) -> bool:
    """Whether the model starts from a first frame. Raises UserError for a family without a sampler."""
    return _spec(model).needs_image


def make_sampler(
    model: ModelRef, settings: SamplerSettings, adapter: AdapterRef | None = None, device: str = "cpu"
) -> Sampler:
    """The sampler of the model's family, without its weights (`setup` loads them)."""
    spec = _spec(model)
    sampler: Sampler = getattr(import_module(spec.module), spec.name)(model, settings, adapter, device)
    return sampler


def _spec(model: ModelRef) -> SamplerSpec:
    found = SAMPLERS.get(model.family)
    if found is None:
        known = ", ".join(sorted(SAMPLERS))
        raise UserError(
            f"model {model.name!r} is a {model.family}, which has no sampler here; families: {known}"
        )
    return found
