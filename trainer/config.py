"""The configuration of a training, validated as it is built, and what of it must not change on resume."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, get_args, get_origin, get_type_hints

from storage.errors import FieldError
from storage.tables.ids import SPLITS, Split

Objective = Literal["dpo", "ipo", "sft"]
Forward = Literal["auto", "together", "apart"]
Optimizer = Literal["adamw", "adamw8bit"]
Checkpointing = Literal["auto", "on", "off"]
Schedule = Literal["cosine", "constant"]
Precision = Literal["fp32", "bf16"]
Device = Literal["auto", "cpu"]
Reference = Literal["start", "base"]
Tracker = Literal[
    "tensorboard",
    "wandb",
    "mlflow",
    "trackio",
    "comet_ml",
    "aim",
    "clearml",
    "dvclive",
    "swanlab",
    "none",
]

_MAX_SEED = 2**62


def _option(help_line: str, **metadata: Any) -> dict[str, Any]:
    """Of a field that is an option of the command line.

    free: says where things lie, how often they are written or what they take, not what is computed, and may
    change on resume. preferences: has no meaning for supervised training. later: came when there were
    trainings already, which go on where it is what it was before it existed. by_content: a place whose
    content is fixed, wherever it lies. division: how the pairs of a step are divided. least and above bound
    a number.
    """
    return {"help": help_line, "group": "Training", **metadata}


_FREE: Any = {"free": True}


@dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """Everything that decides a training.

    `beta` multiplies differences of per-sample errors, where an error is the MEAN squared error over all
    elements of a latent video in fp32, without a factor one half. 500 keeps the sigmoid alive at error
    differences of 1e-3 to 1e-2; Diffusion-DPO's 5000 with its one half is 2500 here.

    `model` and `revision` name the base model that lies in `model_dir` (diffusers layout); the pairs must
    have been sampled from the same. `split` takes only the pairs of scenes in that split, None takes all;
    `max_pairs` at most so many of them, the first by their ids, which are hashes.
    `from_adapter` is the adapter to continue from: its folder, a checkpoint, or a training's folder.
    `reference` is what a preference is measured against, the model that the training starts from or the base;
    without `from_adapter` they are the same.
    `objective`, `winner_anchor` and `winner_weight` are those of objectives.py. `first_frame_weight` W is how
    much an element of the first latent frame counts in the mean of an error, where the others count 1: an
    image-to-video model is given that frame, 0 leaves it out, above 1 guards it. `cache_reference` K > 0
    draws noise and timestep of a pair from K fixed draws, so that the reference's errors are computed once; 0
    draws anew every time. `forward` says whether winner and loser share a forward pass or take less memory
    apart; with `gradient_checkpointing` it is chosen from free memory when it says auto.

    `shard` spreads the weights over the processes of a launcher instead of repeating them in each.
    A step takes batch_size * grad_accum pairs per process; how they are divided changes no number but in the
    order of summation. Timesteps are drawn uniformly from min_timestep to max_timestep, both included; None
    is the scheduler's last. `validate_every` N > 0 measures the first `validate_pairs` pairs of
    `validate_split` every N steps and at the end, `sample_every` N > 0 calls `on_sample` of the training so
    often; neither changes a number of the training. `patience` K ends it when K looks have found no lower
    loss. `threads` is the number of CPU threads of torch during the training; None leaves it as it is.
    Raises FieldError. A field with `help` in its metadata is an option of the command line.
    """

    model_dir: Path = field(metadata=_FREE)
    model: str
    revision: str
    pairs_dir: Path = field(metadata=_FREE)
    out_dir: Path = field(metadata=_FREE)
    split: Split | None = "train"
    # Which pairs there are is fixed, whatever bounded their number.
    max_pairs: int | None = field(
        default=None,
        metadata=_option(
            "Train on at most N of them, taken by chance.", default="all", metavar="N", least=1, free=True
        ),
    )
    from_adapter: Path | None = field(
        default=None,
        metadata=_option(
            "Continue from this adapter: its folder, a checkpoint, or RUN/train/NAME.",
            metavar="DIR",
            group="Model",
            later=True,
            by_content=True,
        ),
    )
    objective: Objective = field(
        default="dpo", metadata=_option("sft trains on the winners alone.", common=True)
    )
    beta: float = field(
        default=500.0,
        metadata=_option(
            "Strength of the preference (of mean squared errors, no one half).",
            metavar="X",
            above=0,
            common=True,
        ),
    )
    reference: Reference = field(
        default="start",
        metadata=_option(
            "What the preference is measured against: what the training starts from, or the base.",
            later=True,
            preferences=True,
        ),
    )
    winner_anchor: float = field(
        default=0.0,
        metadata=_option(
            "Weight of a term that keeps the winner at least as likely as it was; 0 is none.",
            metavar="X",
            least=0.0,
            preferences=True,
        ),
    )
    winner_weight: float = field(
        default=0.0,
        metadata=_option(
            "Weight of supervised training on the winner beside the preference; 0 is none.",
            metavar="X",
            least=0.0,
            preferences=True,
        ),
    )
    first_frame_weight: float = field(
        default=1.0,
        metadata=_option(
            "How much the first latent frame counts in an error where the model is given it; 1 as any other, "
            "0 leaves it out.",
            metavar="W",
            least=0.0,
            later=True,
        ),
    )
    cache_reference: int = field(
        default=0,
        metadata=_option(
            "Compute the reference's errors once, for K fixed draws per pair; 0 draws anew every step.",
            metavar="K",
            least=0,
            preferences=True,
        ),
    )
    rank: int = field(default=64, metadata=_option("LoRA rank.", metavar="N", least=1, common=True))
    alpha: int = field(default=128, metadata=_option("LoRA alpha.", metavar="N", least=1))
    lr: float = field(
        default=5e-6, metadata=_option("Peak learning rate.", metavar="X", above=0, common=True)
    )
    steps: int = field(
        default=10_000, metadata=_option("Optimiser steps.", metavar="N", least=1, common=True)
    )
    warmup: int = field(default=500, metadata=_option("Warm-up steps.", metavar="N", least=0))
    schedule: Schedule = field(default="cosine", metadata=_option("Learning rate after the warm-up."))
    weight_decay: float = field(default=0.0, metadata={"least": 0.0})
    batch_size: int = field(
        default=8,
        metadata=_option(
            "Pairs per process and micro-batch.", metavar="N", least=1, common=True, division=True
        ),
    )
    grad_accum: int = field(
        default=1,
        metadata=_option("Micro-batches per step.", metavar="N", least=1, common=True, division=True),
    )
    precision: Precision = field(
        default="fp32",
        metadata=_option("Type of the base; the adapter stays fp32.", group="Compute"),
    )
    gradient_checkpointing: Checkpointing = field(
        default="auto",
        metadata=_option(
            "Less memory for more time; auto goes by the memory that is free.", group="Compute", free=True
        ),
    )
    forward: Forward = field(
        default="auto",
        metadata=_option(
            "Winner and loser in one forward pass, or one after the other: less memory, one more pass.",
            group="Compute",
            free=True,
        ),
    )
    compile: bool = field(
        default=False,
        metadata=_option("torch.compile; the first step takes minutes.", group="Compute", free=True),
    )
    shard: bool = field(
        default=False,
        metadata=_option(
            "Spread the weights over the processes of a launcher (FSDP2).", group="Compute", free=True
        ),
    )
    optimizer: Optimizer = field(
        default="adamw", metadata=_option("adamw8bit needs bitsandbytes.", group="Compute")
    )
    seed: int = field(
        default=0,
        metadata=_option(
            "Seed of initialisation, order, noise and timesteps.", metavar="N", least=0, common=True
        ),
    )
    max_grad_norm: float = field(default=1.0, metadata={"above": 0})
    checkpoint_every: int = field(
        default=50,
        metadata=_option("Steps between checkpoints.", metavar="N", least=1, free=True, group="Output"),
    )
    keep: int = field(
        default=2,
        metadata=_option(
            "How many of the newest checkpoints are kept.", metavar="N", least=1, free=True, group="Output"
        ),
    )
    validate_every: int = field(
        default=0,
        metadata=_option(
            "Steps between looks at held-out pairs; 0 is never.",
            metavar="N",
            least=0,
            free=True,
            group="Validation",
        ),
    )
    validate_split: Split = field(
        default="val", metadata=_option("The split of the held-out pairs.", free=True, group="Validation")
    )
    validate_pairs: int = field(
        default=32,
        metadata=_option(
            "How many of them, always the same.", metavar="K", least=1, free=True, group="Validation"
        ),
    )
    patience: int | None = field(
        default=None,
        metadata=_option(
            "End when the held-out loss has not improved in K looks; the adapter is that of the best look.",
            default="none",
            metavar="K",
            least=1,
            free=True,
            group="Validation",
        ),
    )
    sample_every: int = field(
        default=0,
        metadata=_option(
            "Steps between videos of base and adapter, to see motion and sharpness fall; 0 is never.",
            metavar="N",
            least=0,
            free=True,
            group="Validation",
        ),
    )
    min_timestep: int = field(
        default=0,
        metadata=_option("The lowest timestep that is drawn: 0 is the least noise.", metavar="T", least=0),
    )
    max_timestep: int | None = field(
        default=None,
        metadata=_option(
            "The highest timestep that is drawn.", default="the scheduler's last", metavar="T", least=0
        ),
    )
    threads: int | None = field(
        default=None,
        metadata=_option(
            "CPU threads; the last bits of the result depend on it.",
            metavar="N",
            least=1,
            free=True,
            group="Compute",
        ),
    )
    device: Device = field(default="auto", metadata=_FREE)
    report_to: tuple[Tracker, ...] = field(
        default=("tensorboard",),
        metadata=_option(
            "Where steps are reported beside metrics.jsonl: tensorboard, wandb, mlflow, trackio, comet_ml, "
            "aim, clearml, dvclive, swanlab or none; may be given several times.",
            metavar="NAME",
            free=True,
            group="Output",
        ),
    )

    def __post_init__(self) -> None:
        for name in ("model_dir", "pairs_dir", "out_dir"):
            object.__setattr__(self, name, Path(getattr(self, name)))
        if self.from_adapter is not None:
            object.__setattr__(self, "from_adapter", Path(self.from_adapter))
        object.__setattr__(self, "report_to", tuple(self.report_to))
        kinds = get_type_hints(TrainConfig)
        for one in dataclasses.fields(self):
            value = getattr(self, one.name)
            if get_origin(kinds[one.name]) is Literal and value not in get_args(kinds[one.name]):
                raise FieldError(one.name, f"one of {', '.join(get_args(kinds[one.name]))}", value)
            if value is not None:
                _check_number(one, value)
        if self.split is not None and self.split not in SPLITS:
            raise FieldError("split", f"one of {', '.join(SPLITS)}, or none for all", self.split)
        for name in ("model", "revision"):
            if not getattr(self, name):
                raise FieldError(name, "what names the base model", getattr(self, name))
        for name in self.report_to:
            if name not in get_args(Tracker):
                raise FieldError("report_to", f"one of {', '.join(get_args(Tracker))}", name)
        if self.seed >= _MAX_SEED:
            raise FieldError("seed", "< 2**62", self.seed)
        self._check_together()

    def _check_together(self) -> None:
        """What one field says of another."""
        if self.max_timestep is not None and self.max_timestep < self.min_timestep:
            raise FieldError("max_timestep", f">= min_timestep ({self.min_timestep})", self.max_timestep)
        for name in OF_PREFERENCES:
            if self.objective == "sft" and getattr(self, name) != BEFORE_IT_EXISTED[name]:
                rule = f"{BEFORE_IT_EXISTED[name] or 0} with objective sft, which has no reference"
                raise FieldError(name, rule, getattr(self, name))
        if self.validate_every and self.split in (None, self.validate_split):
            rule = f"no split that is trained on ({self.split or 'all of them'}), with validate_every"
            raise FieldError("validate_split", rule, self.validate_split)
        if self.patience is not None and not self.validate_every:
            rule = "none without validate_every, which looks at held-out pairs"
            raise FieldError("patience", rule, self.patience)

    @property
    def measures_from_start(self) -> bool:
        """Whether a preference is measured against an adapter, which is then kept beside the trained one."""
        return self.from_adapter is not None and self.reference == "start" and self.objective != "sft"

    def to_json(self) -> dict[str, Any]:
        """Every field, paths as strings: what `config.json` beside the adapter holds."""
        values = {one.name: getattr(self, one.name) for one in dataclasses.fields(self)}
        values["report_to"] = list(self.report_to)
        return {name: str(value) if isinstance(value, Path) else value for name, value in values.items()}

    def fixed_fields(self) -> dict[str, Any]:
        """The fields that decide the numbers, and so may not change between a run and its resumption.

        The number of steps may change to go on: what that does to the learning rate is for a checkpoint to
        tell. The content of an adapter to continue from, and how many pairs a step takes, are for whoever
        knows them to add.
        """
        free = FREE_ON_RESUME | _FOR_OTHERS | {"steps"}
        # The start is the base: which of them is meant changes nothing.
        free |= {"reference"} if self.from_adapter is None else set()
        # Where it changes nothing, a field that came later is no part of what was fixed before it.
        free |= {name for name in _LATER if getattr(self, name) == BEFORE_IT_EXISTED[name]}
        return {name: value for name, value in self.to_json().items() if name not in free}


FREE_ON_RESUME = frozenset(one.name for one in dataclasses.fields(TrainConfig) if one.metadata.get("free"))
_FOR_OTHERS = frozenset(
    one.name
    for one in dataclasses.fields(TrainConfig)
    if one.metadata.get("by_content") or one.metadata.get("division")
)
OF_PREFERENCES = tuple(one.name for one in dataclasses.fields(TrainConfig) if one.metadata.get("preferences"))
_LATER = tuple(one.name for one in dataclasses.fields(TrainConfig) if one.metadata.get("later"))
# What a training recorded before a field existed had of it: what the field does not change. Where that is not
# the default, metadata says it (before).
BEFORE_IT_EXISTED = {
    one.name: one.metadata.get("before", one.default)
    for one in dataclasses.fields(TrainConfig)
    if one.default is not dataclasses.MISSING
}


def _check_number(one: dataclasses.Field[Any], value: Any) -> None:
    """Raise FieldError for a number that its field's bounds leave out."""
    least, above = one.metadata.get("least"), one.metadata.get("above")
    if isinstance(least, int):
        if not isinstance(value, int) or isinstance(value, bool) or value < least:
            raise FieldError(one.name, f"a whole number >= {least}", value)
    elif least is not None or above is not None:
        is_number = isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)
        if not is_number or value < 0 or (above is not None and value == 0):
            raise FieldError(one.name, f"a finite number {'>= 0' if above is None else '> 0'}", value)
