"""What a command would do, told before it does anything: counts, hours and bytes, as words and as values.

Bytes that a candidate leaves follow from the configuration of its model until some were measured.
"""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from pipeline.components import component_config
from pipeline.models import ModelRef
from pipeline.sampling.samplers import first_frame
from pipeline.sampling.settings import SamplerSettings

# H.264 at crf 8 took .1 bytes per pixel for soft pictures and .75 for grainy ones (world at 512x512).
_VIDEO_BYTES_PER_PIXEL = 0.4
_LATENT_BYTES = 4
_CONDITION_BYTES = {"fp32": 4, "bf16": 2, "fp16": 2}


@dataclass(frozen=True, kw_only=True)
class ModelSizes:
    """Bytes of the latents of a video, of the encoded condition of a prompt, and about of the video."""

    latents: int
    condition: int
    video: float


def model_sizes(model: ModelRef, sampler: SamplerSettings) -> ModelSizes | None:
    """The sizes, or None when the model's VAE says nothing of its latents."""
    vae = component_config(model.path, "vae")
    channels = vae.get("latent_channels") or vae.get("z_dim")
    if not isinstance(channels, int):
        return None
    blocks = vae.get("block_out_channels")
    spatial = vae.get("scale_factor_spatial") or 2 ** (len(blocks) - 1 if blocks else 3)
    temporal = vae.get("scale_factor_temporal") or vae.get("temporal_compression_ratio") or 4
    frames = (sampler.num_frames - 1) // temporal + 1
    numbers = channels * frames * (sampler.height // spatial) * (sampler.width // spatial)
    text = component_config(model.path, "text_encoder").get("d_model", 0) * sampler.max_sequence_length
    image = numbers if first_frame(model) != "unused" else 0
    return ModelSizes(
        latents=_LATENT_BYTES * numbers,
        condition=(text + image) * _CONDITION_BYTES[sampler.precision],
        video=sampler.num_frames * sampler.height * sampler.width * _VIDEO_BYTES_PER_PIXEL,
    )


_UNITS = ("bytes", "KiB", "MiB", "GiB", "TiB")


@dataclass(frozen=True, kw_only=True)
class Rate:
    """Seconds that a worker takes for one item, and what it was measured on; None when nothing was."""

    seconds: float | None
    source: str

    @classmethod
    def measured(cls, seconds: Sequence[float | None], what: str, otherwise: str) -> Rate:
        """The median of what rows say, `otherwise` the words for having none."""
        known = [one for one in seconds if one is not None]
        if not known:
            return cls(seconds=None, source=otherwise)
        return cls(seconds=statistics.median(known), source=f"median of {len(known)} {what}")


@dataclass(frozen=True, kw_only=True)
class Footprint:
    """Bytes that one item leaves on the disk and those that come once; None when neither is known."""

    each: float | None
    once: float = 0
    source: str


@dataclass(frozen=True, kw_only=True)
class Forecast:
    """Items wanted and present, and what the missing ones cost. `workers` do them side by side."""

    unit: str
    wanted: int
    present: int
    rate: Rate
    footprint: Footprint
    workers: int = 1
    gpus_per_worker: float = 0

    @property
    def missing(self) -> int:
        """Items still to do."""
        return self.wanted - self.present

    @property
    def hours(self) -> float | None:
        """Hours by the clock, without the loading of weights; None when no rate is known."""
        if not self.missing:
            return 0.0
        at_once = max(1, min(self.workers, self.missing))
        return None if self.rate.seconds is None else self.missing * self.rate.seconds / at_once / 3600

    @property
    def gpu_hours(self) -> float | None:
        """Hours of GPUs; 0 without any."""
        if not self.missing or not self.gpus_per_worker:
            return 0.0
        seconds = self.rate.seconds
        return None if seconds is None else self.missing * seconds * self.gpus_per_worker / 3600

    @property
    def bytes(self) -> int | None:
        """Bytes that will be written."""
        if not self.missing:
            return 0
        each = self.footprint.each
        return None if each is None else round(self.missing * each + self.footprint.once)

    def as_dict(self) -> dict[str, Any]:
        """The figures as plain values, under the same names for every command."""
        return {
            "unit": self.unit,
            "wanted": self.wanted,
            "present": self.present,
            "missing": self.missing,
            "hours": self.hours,
            "gpu_hours": self.gpu_hours,
            "rate": self.rate.source,
            "bytes": self.bytes,
            "size": self.footprint.source,
        }

    def __str__(self) -> str:
        lines = [f"{self.wanted:,} {self.unit} wanted, {self.present:,} are there, {self.missing:,} to do"]
        if self.missing:
            lines += [self._time(), self._size()]
        return "\n".join(lines)

    def _time(self) -> str:
        if self.hours is None or self.rate.seconds is None:
            return f"time: unknown ({self.rate.source})"
        at_once = max(1, min(self.workers, self.missing))
        workers = "one worker" if at_once == 1 else f"{at_once} workers"
        gpus = f", {self.gpu_hours:.3g} GPU-hours" if self.gpu_hours else ""
        each = f"{self.rate.seconds:.3g} s each by the {self.rate.source}"
        return f"time: about {duration(self.hours)}{gpus} ({each}, {workers})"

    def _size(self) -> str:
        known = "unknown" if self.bytes is None else f"about {size(self.bytes)}"
        return f"disk: {known} ({self.footprint.source})"


def duration(hours: float) -> str:
    """Hours in words, of a length that reads well."""
    if hours < 1 / 60:
        return f"{hours * 3600:.0f} s"
    return f"{hours * 60:.0f} min" if hours < 2 else f"{hours:,.1f} h"


def size(count: float) -> str:
    """Bytes in words."""
    for unit in _UNITS[:-1]:
        if count < 1024:
            return f"{count:.3g} {unit}"
        count /= 1024
    return f"{count:.3g} {_UNITS[-1]}"


def total(forecasts: Sequence[Forecast]) -> dict[str, float | None]:
    """Hours, GPU-hours and bytes of several steps, one after the other; None where one is not known."""
    found: dict[str, float | None] = {}
    for name in ("hours", "gpu_hours", "bytes"):
        values = [getattr(one, name) for one in forecasts]
        found[name] = None if any(value is None for value in values) else sum(values)
    return found
