"""What `gpa import` is asked for."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pipeline.engine.worker_settings import WorkerSettings
from pipeline.sampling.settings import Execution, SamplerSettings
from pipeline.sampling.splits import SPLIT_BY_HELP, SplitBy
from storage.errors import FieldError, UserError
from storage.media.foreign_video import Fit, VideoLimits

# Of another moment or scene: codecs and a video model's own first frames stay above.
UNLIKE_DB = 20.0
# What equal pictures have (storage/media/clip.py).
EQUAL_DB = 99.0


def _option(help_line: str, group: str = "Which videos", **metadata: Any) -> dict[str, Any]:
    return {"help": help_line, "group": group, **metadata}


@dataclass(frozen=True, kw_only=True)
class ImportSettings(WorkerSettings):
    """What `gpa import` is asked for. Raises UserError for a value that makes no sense.

    Without a `model` videos are only registered, for scores and an index of pairs. With one they are encoded
    as if it had sampled them; `sampler` says the size and how it would be run.
    """

    source: Path
    limits: VideoLimits = field(default_factory=VideoLimits)
    allow_outside: bool = field(
        default=False, metadata=_option("Follow paths and links that lead out of SOURCE.")
    )
    link: bool = field(
        default=False,
        metadata=_option(
            "Hard links in the place of copies, where a video stays the file that it is.",
            flag="--link/--copy",
            common=True,
        ),
    )
    model: str | None = field(
        default=None,
        metadata=_option(
            "Encode the videos for training this model; without it only scores.",
            "Model",
            metavar="NAME",
            common=True,
        ),
    )
    revision: str | None = field(
        default=None, metadata=_option("Revision of a Hub id.", "Model", metavar="REV")
    )
    fit: Fit = field(
        default="exact",
        metadata=_option(
            "Videos of another size or frame rate than the model's: refuse them (exact); cut them, or change "
            "their aspect (resize), and take their frames by time.",
            common=True,
        ),
    )
    min_first_frame_psnr: float = field(
        default=0.0,
        metadata=_option(
            "Refuse a video whose first frame is less like the first frame given for its prompt; below "
            f"{UNLIKE_DB:g} dB is said in any case.",
            metavar="DB",
        ),
    )
    strict_prompts: bool = field(
        default=False,
        metadata=_option("Refuse prompts with more text tokens than the model reads, instead of a warning."),
    )
    split_by: SplitBy = field(default="scene", metadata=_option(SPLIT_BY_HELP))
    sampler: SamplerSettings
    execution: Execution = field(default_factory=Execution)
    batch: int = field(
        default=8, metadata=_option("Videos of a prompt that make one task.", "Compute", metavar="N")
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 <= self.min_first_frame_psnr <= EQUAL_DB:
            rule = f"0 to {EQUAL_DB:g}, which equal pictures have"
            raise FieldError("min_first_frame_psnr", rule, self.min_first_frame_psnr)
        if self.batch < 1:
            raise FieldError("batch", "at least 1", self.batch)
        encoding = {
            "`revision`": self.revision is not None,
            f"`fit` {self.fit}": self.fit != "exact",
            "strict_prompts": self.strict_prompts,
        }
        given = next((name for name, is_given in encoding.items() if is_given), None)
        if self.model is None and given is not None:
            raise UserError(f"{given} is for videos that are encoded: give `model` NAME, or leave it out")
        if self.model is not None:
            self.execution.loading_device("cuda" if self.gpus_per_worker else "cpu")
