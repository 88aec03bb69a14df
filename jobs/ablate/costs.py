"""What the parts of an ablation will take by the clock, from what the run has measured.

None where nothing was measured.
"""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from jobs.ablate.commands import Commands
from jobs.ablate.trainings import Record, Training, adapter_of, is_trained, train_words
from storage.run import Run

if TYPE_CHECKING:
    from pipeline.evaluation.evaluate import EvaluateSettings


@dataclass(frozen=True, kw_only=True)
class Cost:
    """Seconds of a training with what it needs: scores, steps, and the evaluation of its clips.

    `unknown` names the parts that nothing was measured of; they count nothing.
    """

    score: float = 0.0
    train: float = 0.0
    evaluate: float = 0.0
    unknown: tuple[str, ...] = ()

    @property
    def seconds(self) -> float:
        """All of it."""
        return self.score + self.train + self.evaluate

    def slower(self, train: float, evaluate: float) -> Cost:
        """The same, training with its scores and evaluating so many times longer."""
        return replace(
            self, score=self.score * train, train=self.train * train, evaluate=self.evaluate * evaluate
        )

    @classmethod
    def of(cls, **parts: float | None) -> Cost:
        """The cost of parts, of which some may be unknown."""
        known = {name: value for name, value in parts.items() if value is not None}
        return cls(**known, unknown=tuple(name for name, value in parts.items() if value is None))


def describe(cost: Cost, left: float) -> str:
    """A cost in words."""
    unknown = f" and what is not measured yet ({', '.join(cost.unknown)})" if cost.unknown else ""
    of = "" if left == float("inf") else f" of {minutes(left)} left"
    return f"about {minutes(cost.seconds)}{unknown}{of}"


def minutes(seconds: float) -> str:
    """Seconds in words."""
    return f"{seconds:.0f} s" if seconds < 90 else f"{seconds / 60:.0f} min"


def scoring_seconds(run: Run, commands: Commands, training: Training) -> tuple[str, float | None]:
    """The reward version of a recipe, and the seconds to score what has no score of it yet."""
    from jobs.data.score import score_settings
    from pipeline.forecast.commands import forecast_score
    from pipeline.scoring.score import plan_score

    params = commands.params("score", "--recipe", training.named)
    settings = score_settings({key: value for key, value in params.items() if key not in _OF_COMMAND})
    plan = plan_score(run, settings)
    hours = forecast_score(run, settings, plan).hours
    return plan.reward_version, None if hours is None else 3600 * hours


_OF_COMMAND = frozenset({"run", "dry_run", "as_json"})


def training_seconds(run: Run, commands: Commands, training: Training, steps_done: int = 0) -> float | None:
    """The seconds of the steps that are left, by the logs of trainings beside it.

    Those that compute the same say it best; without one, the slowest pair of any other.
    """
    from jobs.training.command import train_config
    from trainer.saving.metrics import step_seconds
    from trainer.saving.metrics import steps_done as of_checkpoint

    if is_trained(run, training.name):
        return 0.0
    config = train_config(run, commands.params("train-dpo", *train_words(training, run.path, None)))
    left = config.steps - max(steps_done, of_checkpoint(config.out_dir))
    alike = step_seconds(config)
    if alike:
        return left * statistics.median(alike)
    slowest = _slowest_pair(run.path / "train")
    return None if slowest is None else left * slowest * config.batch_size * config.grad_accum


def _slowest_pair(folder: Path) -> float | None:
    from trainer.saving.metrics import read_log

    found = []
    for path in sorted(folder.glob("*/config.json")):
        rates = [line["pairs_per_second"] for line in read_log(path.parent) if "pairs_per_second" in line]
        if rates:
            found.append(1 / statistics.median(rates))
    return max(found, default=None)


def evaluation_settings(
    commands: Commands, own: Sequence[str], records: Sequence[Record]
) -> EvaluateSettings:
    """How these finished trainings are evaluated; without one, the adapter is a name only.

    Raises UserError for words of gpa evaluate that do not fit together.
    """
    from jobs.evaluate.command import evaluate_settings

    params = commands.params("evaluate", *own)
    adapters = tuple(f"{one.label}={adapter_of(commands.run, one)}" for one in records)
    chosen = {key: value for key, value in params.items() if key not in {"run", "preset", "adapters"}}
    return evaluate_settings(commands.preset, adapters or ("none=none",), chosen)


def require_judges(commands: Commands, own: Sequence[str]) -> None:
    """Raise UserError or RewardError for a judge that does not exist, or that lacks its weights."""
    from pipeline.sampling.sample import plan_sample

    settings = evaluation_settings(commands, own, ())
    tasks = plan_sample(settings.sample.with_adapter(None), None, write=False).tasks
    settings.panel([task.prompt for task in tasks])


@dataclass(frozen=True, kw_only=True)
class EvaluationCost:
    """Seconds of the evaluation of what is trained, and of one more model's clips; None when not known."""

    trained: float | None
    each: float | None

    def with_more(self, adapters: int) -> EvaluationCost:
        """The same, with so many more adapters trained."""
        if self.trained is None or self.each is None:
            return self
        return replace(self, trained=self.trained + self.each * adapters)


def evaluation_cost(
    run: Run, commands: Commands, own: Sequence[str], records: Sequence[Record]
) -> EvaluationCost:
    """What an evaluation of these finished trainings lacks, and what another adapter adds.

    Before a clip was judged, judging is taken to be as slow as scoring. Without a finished training, what is
    lacking is the base model's share.
    """
    from pipeline.forecast.commands import forecast_evaluate, forecast_sample, forecast_score
    from pipeline.sampling.sample import plan_sample
    from pipeline.scoring.score import plan_score

    settings = evaluation_settings(commands, own, records)
    settings = replace(settings, sample=settings.chosen(run).sample)
    base = plan_sample(settings.sample.with_adapter(None), None, write=False)
    parts = list(forecast_evaluate(run, settings)) if records else []
    rates = [part.rate.seconds for part in parts]
    if not parts:
        sampling = forecast_sample(run, settings.sample, base)
        scoring = forecast_score(run, settings.score, plan_score(run, settings.score))
        rates = [sampling.rate.seconds, scoring.rate.seconds, None]
    sample, score = rates[0], rates[1]
    judge = rates[2] if rates[2] is not None else score
    if sample is None or score is None or judge is None:
        return EvaluationCost(trained=None, each=None)
    workers = max(1, settings.sample.workers)
    each = base.wanted * (sample + score + judge) / workers
    missing = [part.missing for part in parts] or [base.wanted] * 3
    lacking = sum(n * rate for n, rate in zip(missing, (sample, score, judge), strict=True)) / workers
    return EvaluationCost(trained=lacking, each=each)


# Seconds from which on a pace can be told from what starts and ends a command.
_TELLING = 20.0


@dataclass(frozen=True, kw_only=True)
class Begun:
    """A training that began: what was foretold of it, when, and at which pace it was foretold."""

    cost: Cost
    at: float
    pace: float

    @property
    def told(self) -> float:
        """The seconds that were foretold until its adapter is there."""
        return self.cost.score + self.cost.train


def slowed(told: float, took: float) -> float:
    """How many times longer something took than was told, at least once; small things say nothing."""
    return max(1.0, took / told) if told >= _TELLING else 1.0
