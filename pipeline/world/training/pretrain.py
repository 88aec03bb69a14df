"""All trainings of the embedded world behind one function: how they resume and where checkpoints go."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Final, TypeAlias

import torch

from pipeline.world.training.generator import train_generator
from pipeline.world.training.geometry import JUDGE, GeometryTraining, train_geometry
from pipeline.world.training.referee import RefereeTraining, train_referee
from storage.atomic import atomic_writer
from storage.errors import UserError

CHECKPOINTS: Final = Path(__file__).parent.parent / "checkpoints"
# Told what is worked on, how much is done, of how much, and the values of the curve.
Report: TypeAlias = Callable[[str, int, int, dict[str, float]], None]


@dataclass(frozen=True, kw_only=True)
class PretrainSettings:
    """How long each model is trained, and on how much; the defaults are those of the shipped checkpoints."""

    generator_steps: int = 3000
    generator_clips: int = 2500
    generator_batch: int = 8
    geometry_steps: int = 1200
    judge_steps: int = 1200
    referee_steps: int = 700
    boxes_steps: int = 1200
    boxes_referee_steps: int = 400
    bank_clips: int = 4000
    seed: int = 0
    device: str = "cpu"

    def __post_init__(self) -> None:
        if self.device != "cpu" and not torch.cuda.is_available():
            raise UserError(f"--device {self.device} asks for a GPU and torch sees none: use --device cpu")
        for name, value in asdict(self).items():
            if name != "device" and value < (0 if name == "seed" else 1):
                raise ValueError(f"{name} must be {'0' if name == 'seed' else '1'} or more, got {value}")


def _generator(work: Path, settings: PretrainSettings, report: Report) -> Path:
    return train_generator(
        work,
        work / "generator",
        steps=settings.generator_steps,
        clips=settings.generator_clips,
        batch=settings.generator_batch,
        seed=settings.seed,
        device=settings.device,
        report=lambda step, values: report("generator", step, settings.generator_steps, values),
        prepared=lambda made, clips: report("generator's clips", made, clips, {}),
    )


def _generator_boxes(work: Path, settings: PretrainSettings, report: Report) -> Path:
    return train_generator(
        work,
        work / "generator-boxes",
        steps=settings.boxes_steps,
        clips=settings.generator_clips,
        batch=settings.generator_batch,
        seed=settings.seed,
        device=settings.device,
        report=lambda step, values: report("generator-boxes", step, settings.boxes_steps, values),
        prepared=lambda made, clips: report("its clips with sliding boxes", made, clips, {}),
        fault="boxes",
        initial=_start("generator", work),
    )


def _start(model: str, work: Path) -> Path:
    """What a sibling begins from: the model that `work` made, or else the shipped one."""
    made = work / model
    return made if made.is_dir() else CHECKPOINTS / model


def _geometry(work: Path, settings: PretrainSettings, report: Report) -> Path:
    training = GeometryTraining(steps=settings.geometry_steps, clips=settings.bank_clips, seed=settings.seed)
    return train_geometry(
        work,
        training,
        device=settings.device,
        report=lambda step, values: report("geometry", step, training.steps, values),
    )


def _geometry_judge(work: Path, settings: PretrainSettings, report: Report) -> Path:
    """A second geometry network, so that none judges its own reward: other scenes, seed, shape."""
    training = GeometryTraining(
        steps=settings.judge_steps,
        clips=settings.bank_clips,
        first_clip=settings.bank_clips,
        seed=settings.seed + 1,
    )
    return train_geometry(
        work,
        training,
        JUDGE,
        device=settings.device,
        report=lambda step, values: report("geometry-judge", step, training.steps, values),
        name="geometry-judge",
    )


def _referee(work: Path, settings: PretrainSettings, report: Report) -> Path:
    training = RefereeTraining(steps=settings.referee_steps, clips=settings.bank_clips, seed=settings.seed)
    return train_referee(
        work,
        training,
        device=settings.device,
        report=lambda step, values: report("referee", step, training.steps, values),
    )


def _referee_boxes(work: Path, settings: PretrainSettings, report: Report) -> Path:
    training = RefereeTraining(
        steps=settings.boxes_referee_steps,
        clips=settings.generator_clips,
        seed=settings.seed,
        fault="boxes",
        initial=_start("referee", work),
        muon_lr=1e-3,
        adam_lr=1e-3,
    )
    return train_referee(
        work,
        training,
        device=settings.device,
        report=lambda step, values: report("referee-boxes", step, training.steps, values),
    )


@dataclass(frozen=True, kw_only=True)
class Training:
    """A model's training, its curve in the work folder, and the settings that a resumed run must share."""

    train: Callable[[Path, PretrainSettings, Report], Path]
    curve: str
    fixed: tuple[str, ...]


# The quick ones first: they are what a reward needs.
TRAININGS: Final[dict[str, Training]] = {
    "geometry": Training(train=_geometry, curve="geometry-curve.jsonl", fixed=("bank_clips", "seed")),
    "geometry-judge": Training(
        train=_geometry_judge, curve="geometry-judge-curve.jsonl", fixed=("bank_clips", "seed")
    ),
    "referee": Training(train=_referee, curve="referee-curve.jsonl", fixed=("bank_clips", "seed")),
    "generator": Training(
        train=_generator,
        curve="generator.jsonl",
        fixed=("generator_clips", "generator_batch", "seed"),
    ),
    "generator-boxes": Training(
        train=_generator_boxes,
        curve="generator-boxes.jsonl",
        fixed=("generator_clips", "generator_batch", "seed"),
    ),
    "referee-boxes": Training(
        train=_referee_boxes, curve="referee-boxes-curve.jsonl", fixed=("generator_clips", "seed")
    ),
}


def pretrain(model: str, work: Path, out: Path, settings: PretrainSettings, report: Report) -> Path:
    """Trains a model in `work`, or goes on with it; returns its checkpoint, the folder `out`/`model`.

    More steps than before go on training. Raises UserError when `work` was begun with other settings, or when
    the loss is not finite.
    """
    training = TRAININGS[model]
    _require_same(work / f"{model}-settings.json", model, training, settings)
    try:
        made = training.train(work, settings, report)
    except FloatingPointError as error:
        raise UserError(f"{error}: nothing was saved after it; try another --seed and --work") from error
    return _publish(made, out / model)


def _require_same(path: Path, model: str, training: Training, settings: PretrainSettings) -> None:
    """Other data or another seed halfway would make a model that nobody can make again."""
    wanted = {name: asdict(settings)[name] for name in training.fixed}
    if not path.exists():
        with atomic_writer(path) as handle:
            handle.write(json.dumps(wanted, indent=2).encode())
        return
    found = json.loads(path.read_text())
    for name, value in wanted.items():
        if found.get(name) != value:
            option = f"--{name.replace('_', '-')}"
            raise UserError(
                f"{path.parent} holds a {model} training with {option} {found.get(name)}, not {value}: "
                f"give {option} {found.get(name)}, or another --work"
            )


def _publish(made: Path, target: Path) -> Path:
    """Copies a checkpoint so that the target is the old one or the new one, never a mixture."""
    fresh = target.with_name(f".{target.name}.new")
    shutil.rmtree(fresh, ignore_errors=True)
    shutil.copytree(made, fresh)
    if target.exists():
        shutil.rmtree(target)
    return fresh.rename(target)
