"""What `gpa sample` is asked for: prompts and candidates, what they look like, and how they are computed.

`Execution` holds what decides speed and memory but not what a candidate looks like (compiled kernels round
differently in the last bits, as another GPU does); the rest is in `SamplerSettings`.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal, TypeAlias, get_args

from pipeline.engine.worker_settings import WorkerSettings
from pipeline.models import Precision
from pipeline.sampling.splits import SPLIT_BY_HELP, SplitBy
from storage.errors import FieldError, UserError
from storage.tables.ids import SPLITS, Split

Offload: TypeAlias = Literal["none", "model", "sequential"]

# These decide the embeddings of a prompt and the latents of its first frame.
_OF_CONDITION = ("height", "width", "num_frames", "max_sequence_length", "precision", "vae_tiling")


def _option(help_line: str, group: str, metavar: str | None = None, **metadata: Any) -> dict[str, Any]:
    return {"help": help_line, "group": group, "metavar": metavar, **metadata}


@dataclass(frozen=True, kw_only=True)
class SamplerSettings:
    """Everything but model, adapter, prompt and seed that decides what a candidate looks like.

    Sizes in pixels, `fps` in frames a second, `max_sequence_length` in text tokens. `negative_prompt` is what
    guidance leads away from. `vae_tiling` decodes in overlapping tiles, whose seams are blended, where a
    video is larger than one. `adapter_weight` multiplies what the adapter adds. Raises FieldError.

    A setting that came when there were runs already (later) is left out of the plain values at its default,
    so that the ids of those runs stay what they are.
    """

    steps: int = field(metadata=_option("Denoising steps.", "Video", "N", common=True))
    guidance: float = field(
        metadata=_option("Classifier-free guidance; 1 is none.", "Video", "X", common=True)
    )
    height: int = field(metadata=_option("Height of a video.", "Video", "PIXELS"))
    width: int = field(metadata=_option("Width of a video.", "Video", "PIXELS"))
    num_frames: int = field(metadata=_option("Frames of a video.", "Video", "N"))
    fps: int = field(metadata=_option("Frames a second of the saved video.", "Video", "N"))
    max_sequence_length: int = field(metadata=_option("Text tokens.", "Video", "N"))
    precision: Precision = field(default="fp32", metadata=_option("Type the model computes in.", "Compute"))
    negative_prompt: str = field(
        default="",
        metadata=_option(
            "What guidance leads away from; needs guidance above 1.", "Video", "TEXT", later=True
        ),
    )
    vae_tiling: bool = field(
        default=False,
        metadata=_option(
            "Decode or encode large videos in overlapping tiles: much less memory, seams are blended.",
            "Compute",
            later=True,
        ),
    )
    adapter_weight: float = field(
        default=1.0,
        metadata=_option("Strength of the adapter: 0 is the base model.", "Model", "X", later=True),
    )

    def __post_init__(self) -> None:
        for name in ("steps", "height", "width", "num_frames", "fps", "max_sequence_length"):
            if getattr(self, name) < 1:
                raise FieldError(name, "at least 1", getattr(self, name))
        if not 0 <= self.guidance < math.inf:
            raise FieldError("guidance", "0 or more (1 is no guidance)", self.guidance)
        if self.precision not in get_args(Precision):
            raise FieldError("precision", f"one of {', '.join(get_args(Precision))}", self.precision)
        if self.negative_prompt and self.guidance <= 1:
            rule = f"empty unless guidance is above 1 (it is {self.guidance:g})"
            raise FieldError("negative_prompt", rule, self.negative_prompt)
        if not math.isfinite(self.adapter_weight):
            raise FieldError("adapter_weight", "finite", self.adapter_weight)

    @staticmethod
    def of_condition(values: Mapping[str, Any]) -> dict[str, Any]:
        """Of settings as plain values, those that decide what is kept of a prompt for all its candidates."""
        return {name: values.get(name, False) for name in _OF_CONDITION}

    def as_dict(self) -> dict[str, Any]:
        """The settings as plain values, for the `sampler` column and for ids."""
        later = {one.name: one.default for one in dataclasses.fields(self) if one.metadata.get("later")}
        return {
            name: value
            for name, value in dataclasses.asdict(self).items()
            if name not in later or value != later[name]
        }


@dataclass(frozen=True, kw_only=True)
class Execution:
    """Speed and memory of sampling. Raises UserError for an unknown `offload`.

    `offload` keeps weights in the CPU's memory and brings them to the GPU when they are used: component by
    component ("model") or layer by layer ("sequential"). `vae_slicing` makes the VAE take a batch one by one.
    `compile` is torch.compile of the transformer.
    """

    offload: Offload = field(
        default="none",
        metadata=_option(
            "Keep weights in CPU memory until used: whole networks (model), or layers (slow, least memory). "
            "Needs a GPU.",
            "Compute",
        ),
    )
    vae_slicing: bool = field(
        default=False,
        metadata=_option(
            "Have the VAE take a batch one by one; candidates are decoded one by one in any case.", "Compute"
        ),
    )
    compile: bool = field(
        default=False,
        metadata=_option(
            "torch.compile of the transformer: the first candidates of a worker take minutes.", "Compute"
        ),
    )

    def __post_init__(self) -> None:
        if self.offload not in get_args(Offload):
            raise FieldError("offload", f"one of {', '.join(get_args(Offload))}", self.offload, "choose one")

    def loading_device(self, device: str) -> str:
        """Where weights are loaded to. Raises UserError when there is no GPU to offload from."""
        if self.offload == "none":
            return device
        if not device.startswith("cuda"):
            raise UserError(
                f"`offload` {self.offload} is for a GPU and this worker has none: use gpus_per_worker 1, "
                "or `offload` none"
            )
        return "cpu"


@dataclass(frozen=True, kw_only=True)
class SampleSettings(WorkerSettings):
    """What `gpa sample` is asked for. Raises UserError for a value that makes no sense.

    Prompts come from `prompts` (JSONL), or from the embedded world: `num_prompts` of `split`. `split_by`
    places those of `prompts` (splits.py). `only` are the prompts that are taken, by id, with the scene and
    the split that they are in; None takes all. `batch` candidates of a prompt are sampled together; what a
    candidate looks like depends on it in the last bits, never on the workers. `strict_prompts` refuses
    prompts of which the model would not see the end.
    """

    prompts: Path | None = field(
        default=None,
        metadata=_option(
            "JSONL prompts; without it, the embedded world's.", "Which candidates", "FILE", common=True
        ),
    )
    split: Split = field(
        default="train", metadata=_option("Split of the world's prompts.", "Which candidates")
    )
    split_by: SplitBy = field(default="scene", metadata=_option(SPLIT_BY_HELP, "Which candidates"))
    num_prompts: int = field(
        default=120,
        metadata=_option("How many of the world's prompts.", "Which candidates", "N", common=True),
    )
    candidates: int = field(
        default=8, metadata=_option("Candidates per prompt.", "Which candidates", "N", common=True)
    )
    seed: int = field(
        default=0,
        metadata=_option(
            "Seed of the run; every candidate's seed follows from it.", "Which candidates", "N", common=True
        ),
    )
    limit: int | None = field(
        default=None,
        metadata=_option("Only the first N prompts.", "Which candidates", "N", common=True),
    )
    strict_prompts: bool = field(
        default=False,
        metadata=_option(
            "Refuse prompts with more text tokens than the model reads, instead of a warning.",
            "Which candidates",
        ),
    )
    model: str = field(
        default="world",
        metadata=_option(
            "world, world-boxes, a diffusers folder, or a Hub id.", "Model", "NAME", common=True
        ),
    )
    revision: str | None = field(default=None, metadata=_option("Revision of a Hub id.", "Model", "REV"))
    adapter: Path | None = field(
        default=None,
        metadata=_option(
            "LoRA folder written by gpa train-dpo, a checkpoint, or RUN/train/NAME.",
            "Model",
            "DIR",
            common=True,
        ),
    )
    sampler: SamplerSettings
    execution: Execution = field(default_factory=Execution)
    batch: int = field(
        default=8, metadata=_option("Candidates of a prompt sampled together.", "Compute", "N")
    )
    only: Mapping[str, tuple[str, Split]] | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("candidates", "batch", "num_prompts", "limit"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise FieldError(name, "at least 1", value)
        if self.split not in SPLITS:
            raise FieldError("split", f"one of {', '.join(SPLITS)}", self.split)
        if self.split_by != "scene" and self.prompts is None:
            raise FieldError(
                "split_by", "scene for the world's prompts", self.split_by, "give `prompts` FILE"
            )
        self.execution.loading_device("cuda" if self.gpus_per_worker else "cpu")
        weight = self.sampler.adapter_weight
        if weight != 1 and self.adapter is None:
            raise UserError(f"adapter_weight {weight:g} has no adapter to weigh: give `adapter` DIR")

    def with_adapter(self, adapter: Path | None, weight: float = 1.0) -> SampleSettings:
        """The same sampling with another adapter at that weight, or without one."""
        return replace(self, adapter=adapter, sampler=replace(self.sampler, adapter_weight=weight))
