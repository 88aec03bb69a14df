"""The candidates that the recipes of an ablation share."""

from __future__ import annotations

from jobs.ablation.commands import Commands
from pipeline.forecast.forecast import Forecast
from pipeline.sampling.sample import SampleSettings, plan_sample, run_sample
from storage.run import Run


def asked_of(run: Run) -> SampleSettings | None:
    """How the run was sampled before, None when it never was."""
    from jobs.sample import sample_settings

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
    settings = None if there is None else asked_of(there)
    if commands.extra.get("sample") or there is None or (settings is None and not _holds_candidates(there)):
        commands.require("sample")
        return Run.open(commands.run)
    if settings is not None:
        from jobs.progress import ConsoleProgress

        run_sample(there, settings, progress=ConsoleProgress("candidates"))
    return there


def forecast_candidates(commands: Commands) -> Forecast:
    """What is to be sampled before the first recipe."""
    from jobs.sample import sample_settings
    from pipeline.forecast.commands import forecast_sample

    there = open_run(commands)
    settings = None if there is None or commands.extra.get("sample") else asked_of(there)
    if settings is None:
        params = commands.params("sample")
        chosen = {key: value for key, value in params.items() if key not in {"run", "dry_run", "as_json"}}
        settings = sample_settings(chosen)
    return forecast_sample(there, settings, plan_sample(settings, there, write=False))


def _holds_candidates(run: Run) -> bool:
    return bool(run.rows("candidates", ["candidate_id"]).num_rows)
