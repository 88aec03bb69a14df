"""The configuration of a training, validated as it is built, and what of it must not change on resume."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

from storage.errors import UserError
from storage.tables.ids import SPLITS, Split

Objective = Literal["dpo", "ipo", "sft"]
Forward = Literal["auto", "together", "apart"]
Optimizer = Literal["adamw", "adamw8bit"]
Checkpointing = Literal["auto", "on", "off"]
Schedule = Literal["cosine", "constant"]
Precision = Literal["fp32", "bf16"]
Device = Literal["auto", "cpu"]

MAX_SEED = 2**62

# These say where things lie and how often they are written, not what is computed: they may change on resume.
_FREE_ON_RESUME = frozenset(
    {
        "model_dir",
        "pairs_dir",
        # Which pairs there are is fixed, whatever bounded their number.
        "max_pairs",
        "out_dir",
        "checkpoint_every",
        "keep",
        "threads",
        "device",
        "tensorboard",
        "forward",
        "gradient_checkpointing",
        "compile",
        "shard",
        "validate_every",
        "validate_split",
        "validate_pairs",
        "sample_every",
    }
)


@dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """Everything that decides a training.

    `beta` multiplies differences of per-sample errors, where an error is the MEAN squared error over all
    elements of a latent video in fp32, without a factor one half. 500 keeps the sigmoid alive at error
    differences of 1e-3 to 1e-2; Diffusion-DPO's 5000 with its one half is 2500 here.

    `model` and `revision` name the base model that lies in `model_dir` (diffusers layout); the pairs must
    have been sampled from the same. `split` takes only the pairs of scenes in that split, None takes all;
    `max_pairs` at most so many of them, the first by their ids, which are hashes.
    `objective`, `winner_anchor` and `winner_weight` are those of objectives.py. `first_frame_weight` W is how
    much an element of the first latent frame counts in the mean of an error, where the others count 1: an
    image-to-video model is given that frame, 0 leaves it out, above 1 guards it. `cache_reference` K > 0
    draws noise and timestep of a pair from K fixed draws, so that the reference's errors are computed once; 0
    draws anew every time. `forward` says whether winner and loser share a forward pass or take less memory
    apart; with `gradient_checkpointing` it is chosen from free memory when it says auto.

    `shard` spreads the weights over the processes of a launcher instead of repeating them in each.
    A step takes batch_size * grad_accum pairs per process. Timesteps are drawn uniformly from min_timestep
    to max_timestep, both included; None is the scheduler's last. `validate_every` N > 0 measures the first
    `validate_pairs` pairs of `validate_split` every N steps and at the end, `sample_every` N > 0 calls
    `on_sample` of the training so often; neither changes a number of the training. `threads` is the number
    of CPU threads of torch during the training; None leaves it as it is.
    Raises UserError naming the field, the rule and the value.
    """

    model_dir: Path
    model: str
    revision: str
    pairs_dir: Path
    out_dir: Path
    split: Split | None = "train"
    max_pairs: int | None = None
    objective: Objective = "dpo"
    beta: float = 500.0
    winner_anchor: float = 0.0
    winner_weight: float = 0.0
    first_frame_weight: float = 1.0
    cache_reference: int = 0
    rank: int = 64
    alpha: int = 128
    lr: float = 5e-6
    steps: int = 10_000
    warmup: int = 500
    schedule: Schedule = "cosine"
    weight_decay: float = 0.0
    batch_size: int = 8
    grad_accum: int = 1
    precision: Precision = "fp32"
    gradient_checkpointing: Checkpointing = "auto"
    forward: Forward = "auto"
    compile: bool = False
    shard: bool = False
    optimizer: Optimizer = "adamw"
    seed: int = 0
    max_grad_norm: float = 1.0
    checkpoint_every: int = 50
    keep: int = 2
    validate_every: int = 0
    validate_split: Split = "val"
    validate_pairs: int = 32
    sample_every: int = 0
    min_timestep: int = 0
    max_timestep: int | None = None
    threads: int | None = None
    device: Device = "auto"
    tensorboard: bool = True

    def __post_init__(self) -> None:
        for name in ("model_dir", "pairs_dir", "out_dir"):
            object.__setattr__(self, name, Path(getattr(self, name)))
        self._check_choices()
        self._check_numbers()
        if self.max_timestep is not None and self.max_timestep < self.min_timestep:
            raise _bad("max_timestep", f"must be >= min_timestep ({self.min_timestep})", self.max_timestep)
        for name in ("winner_anchor", "winner_weight", "cache_reference"):
            if self.objective == "sft" and getattr(self, name):
                raise _bad(name, "must be 0 with objective sft, which has no reference", getattr(self, name))
        if self.validate_every and self.split in (None, self.validate_split):
            rule = f"must not be trained on (split is {self.split or 'all of them'}), with validate_every"
            raise _bad("validate_split", rule, self.validate_split)
        if self.warmup > self.steps:
            raise _bad("warmup", f"must be <= steps ({self.steps})", self.warmup)

    def _check_choices(self) -> None:
        choices: dict[str, tuple[str, ...]] = {
            "objective": get_args(Objective),
            "schedule": get_args(Schedule),
            "precision": get_args(Precision),
            "device": get_args(Device),
            "forward": get_args(Forward),
            "optimizer": get_args(Optimizer),
            "gradient_checkpointing": get_args(Checkpointing),
        }
        for name, allowed in choices.items():
            if getattr(self, name) not in allowed:
                raise _bad(name, f"must be one of {', '.join(allowed)}", getattr(self, name))
        if self.split is not None and self.split not in SPLITS:
            raise _bad("split", f"must be one of {', '.join(SPLITS)}, or none for all", self.split)
        if self.validate_split not in SPLITS:
            raise _bad("validate_split", f"must be one of {', '.join(SPLITS)}", self.validate_split)
        for name in ("model", "revision"):
            if not getattr(self, name):
                raise _bad(name, "must name the base model", getattr(self, name))

    def _check_numbers(self) -> None:
        for name in (
            "rank",
            "alpha",
            "steps",
            "batch_size",
            "grad_accum",
            "checkpoint_every",
            "keep",
            "validate_pairs",
        ):
            _require_int(name, getattr(self, name), 1)
        for name in ("warmup", "seed", "min_timestep", "cache_reference", "validate_every", "sample_every"):
            _require_int(name, getattr(self, name), 0)
        for name in ("max_timestep", "threads", "max_pairs"):
            if getattr(self, name) is not None:
                _require_int(name, getattr(self, name), 0 if name == "max_timestep" else 1)
        for name in ("beta", "lr", "max_grad_norm"):
            _require_number(name, getattr(self, name), positive=True)
        for name in ("weight_decay", "winner_anchor", "winner_weight", "first_frame_weight"):
            _require_number(name, getattr(self, name), positive=False)
        if self.seed >= MAX_SEED:
            raise _bad("seed", "must be < 2**62", self.seed)

    def to_json(self) -> dict[str, Any]:
        """Every field, paths as strings: what `config.json` beside the adapter holds."""
        return {
            field.name: str(value) if isinstance(value := getattr(self, field.name), Path) else value
            for field in dataclasses.fields(self)
        }

    def fixed_fields(self) -> dict[str, Any]:
        """The fields that decide the numbers, and so may not change between a run and its resumption.

        With a constant schedule the number of steps enters no number, so it may be raised to go on.
        """
        free = _FREE_ON_RESUME | ({"steps"} if self.schedule == "constant" else set())
        # At 1 it is no part of what was fixed before the option existed: such a training goes on.
        free |= {"first_frame_weight"} if self.first_frame_weight == 1 else set()
        return {name: value for name, value in self.to_json().items() if name not in free}


def learning_rate(config: TrainConfig, step: int) -> float:
    """The rate of the 0-based step: linear warm-up, then constant or a half cosine towards zero."""
    if step < config.warmup:
        return config.lr * (step + 1) / config.warmup
    if config.schedule == "constant":
        return config.lr
    progress = (step - config.warmup) / max(1, config.steps - config.warmup)
    return config.lr * 0.5 * (1.0 + math.cos(math.pi * progress))


def _require_int(name: str, value: object, minimum: int) -> None:
    if not isinstance(value, int) or isinstance(value, bool) or value < minimum:
        raise _bad(name, f"must be a whole number >= {minimum}", value)


def _require_number(name: str, value: object, *, positive: bool) -> None:
    is_number = isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)
    if not is_number or not isinstance(value, (int, float)) or value < 0 or (positive and value == 0):
        raise _bad(name, f"must be a finite number {'> 0' if positive else '>= 0'}", value)


def _bad(field: str, rule: str, value: object) -> UserError:
    return UserError(f"training option {field} {rule}, got {value!r}: change {field}")
