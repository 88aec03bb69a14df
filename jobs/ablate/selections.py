"""The candidates that the recipes of an ablation share, and the pairs shared by those that choose alike."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path

from jobs.ablate.commands import Commands
from jobs.ablate.costs import scoring_seconds
from jobs.ablate.trainings import FOLDER, Selection, Training, pair_words, train_words
from pipeline.forecast.forecast import Forecast
from pipeline.sampling.sample import plan_sample, run_sample
from pipeline.sampling.settings import SampleSettings
from rewards.errors import RewardError
from storage.atomic import write_bytes
from storage.errors import UserError
from storage.run import Run
from storage.tables.ids import content_id


def _asked_of(run: Run) -> SampleSettings | None:
    """How the run was sampled before, None when it never was."""
    from jobs.data.sample import sample_settings

    recorded = run.header().get("commands", {}).get("sample", {}).get("config")
    return None if recorded is None else sample_settings(recorded)


def open_run(commands: Commands) -> Run | None:
    """The run, if there is one."""
    path = commands.run
    return Run.open(path) if path.exists() and any(path.iterdir()) else None


def with_candidates(commands: Commands) -> Run:
    """The run with its candidates: sampled by the user's words, or on as it was, or by the preset.

    A run whose candidates were imported is taken as it is.
    """
    there = open_run(commands)
    settings = None if there is None else _asked_of(there)
    if commands.extra.get("sample") or there is None or (settings is None and not _holds_candidates(there)):
        commands.require("sample")
        return Run.open(commands.run)
    if settings is not None:
        from jobs.progress import ConsoleProgress

        run_sample(there, settings, progress=ConsoleProgress("candidates"))
    return there


def forecast_candidates(commands: Commands) -> Forecast:
    """What is to be sampled before the first recipe."""
    from jobs.data.sample import sample_settings
    from pipeline.forecast.commands import forecast_sample

    there = open_run(commands)
    settings = None if there is None or commands.extra.get("sample") else _asked_of(there)
    if settings is None:
        params = commands.params("sample")
        chosen = {key: value for key, value in params.items() if key not in {"run", "dry_run", "as_json"}}
        settings = sample_settings(chosen)
    return forecast_sample(there, settings, plan_sample(settings, there, write=False))


def _holds_candidates(run: Run) -> bool:
    return bool(run.rows("candidates", ["candidate_id"]).num_rows)


_OF_COMMAND = frozenset({"run", "dry_run", "as_json"})


@dataclass(kw_only=True)
class Selections:
    """The pairs of the recipes of one ablation; what a recipe fails at, it fails at for every seed."""

    run: Run
    commands: Commands
    _found: dict[str, tuple[Selection, int] | UserError | RewardError] = field(default_factory=dict)

    def of(self, training: Training) -> tuple[Selection, int]:
        """Where the pairs of a recipe lie, and how many its training would take of them.

        Scores and chooses what is missing. Raises UserError or RewardError as these commands do.
        """
        name = training.recipe.name
        if name not in self._found:
            try:
                self._found[name] = self._select(training)
            except (UserError, RewardError) as error:
                self._found[name] = error
        found = self._found[name]
        if isinstance(found, Exception):
            if getattr(found, "signal_name", None):
                del self._found[name]
            raise found
        return found

    def fewest(self, trainings: Sequence[Training]) -> int:
        """The least number of pairs that a recipe of these has, without those that fail."""
        counts = []
        for one in trainings:
            try:
                counts.append(self.of(one)[1])
            except (UserError, RewardError) as error:
                if getattr(error, "signal_name", None):
                    raise
        return min(counts)

    def _select(self, training: Training) -> tuple[Selection, int]:
        from storage.pairs.dataset import PairDataset

        version, seconds = scoring_seconds(self.run, self.commands, training)
        if seconds != 0.0:
            self.commands.require("score", "--recipe", training.named)
        selection = selection_of(self.run, self.commands, training, version)
        directory = self.run.path / selection.directory
        # The name says what is in it, and the file beside it that all of it is.
        whole = directory.with_suffix(".json")
        if not whole.exists():
            self.commands.require("pair", *pair_words(training, selection, directory))
            write_bytes(whole, json.dumps(asdict(selection), indent=2).encode())
        params = self.commands.params("train-dpo", *train_words(training, directory, None))
        return selection, len(PairDataset(directory, "train", params["max_pairs"]))


def selection_of(run: Run, commands: Commands, training: Training, reward_version: str) -> Selection:
    """The pairs of a recipe, named by their rules and by the candidates they are chosen from."""
    from jobs.data.pair import pair_settings
    from pipeline.pairing import settled

    params = commands.params("pair", "--recipe", training.named, "--reward-version", reward_version)
    settings, _ = pair_settings({key: value for key, value in params.items() if key not in _OF_COMMAND})
    rules = settled(run, settings.rules)
    candidates = sorted(run.rows("candidates", ["candidate_id"])["candidate_id"].to_pylist())
    # A rule that came later and bounds nothing leaves the name as it was.
    plain = {
        one.name: str(getattr(rules, one.name))
        for one in fields(rules)
        if not one.metadata.get("later") or getattr(rules, one.name) != one.default
    }
    name = f"{rules.reward}-{content_id(plain, candidates, str(settings.decisions))[:12]}"
    return Selection(
        directory=str(Path(FOLDER) / "pairs" / name),
        reward=rules.reward,
        reward_version=reward_version,
        rules={key: value for key, value in plain.items() if key not in {"reward", "reward_version"}},
    )
