"""What a report says of a run: where candidates were lost, how the rewards lie, and the training curves."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

from jobs.reporting.folder import number, plain
from jobs.settings.from_dataclass import built
from pipeline.pairing import settled
from rewards.errors import RewardError
from storage.errors import UserError
from storage.mining.mining import mining
from storage.mining.rules import PairRules, PairSettings
from storage.run import Run
from storage.sql.report_queries import BINS, Row, distribution
from storage.sql.views import Limits
from trainer.saving.metrics import read_log

_DRAWN_SCORES = 2000
_DIGITS = 5


def run_facts(run: Run, counts: dict[str, list[Row]]) -> dict[str, Any]:
    """The run's header and the counts of its tables."""
    header = run.header()
    commands = [
        {"name": name, "at": str(entry.get("at", "")), "config": plain(entry.get("config", {}))}
        for name, entry in header["commands"].items()
        if isinstance(entry, dict)
    ]
    entries = [entry for entry in header["commands"].values() if isinstance(entry, dict)]
    last: dict[str, Any] = entries[-1] if entries else {}
    return {
        "name": run.path.resolve().name,
        "created_at": str(header["created_at"]),
        "commands": commands,
        "versions": plain(last.get("versions", {})),
        "revision": str(last.get("git_revision") or ""),
        "counts": plain(counts),
    }


def funnel(run: Run, paired_by: list[Row], limits: Limits | None) -> dict[str, Any]:
    """What every rule of the recorded pairing cost; without steps and with a note when that cannot be told.

    It is mined again by the settings in run.yaml: the shards hold only what was kept.
    """
    if not paired_by:
        return {"steps": [], "note": "This run has no pairs yet: gpa pair makes them."}
    try:
        settings, note = _pair_settings(run)
        if settings is None:
            return {"steps": [], "note": note}
        from storage.mining.decisions import read_decisions

        decisions = None if settings.decisions is None else read_decisions(settings.decisions)
        rules = settled(run, _of_the_shards(settings.rules, paired_by))
        with mining(run, rules, limits, decisions) as mined:
            steps = [step._asdict() for step in mined.funnel]
            applied = None if mined.applied is None else mined.applied.as_dict()
            pairs, prompts = mined.pairs, mined.paired_prompts
    except (UserError, RewardError) as error:
        return {"steps": [], "note": f"The funnel cannot be told: {error}"}
    if pairs != sum(row["rows"] for row in paired_by):
        note = (
            f"{note} Candidates, scores or decisions have changed since: gpa pair would now make {pairs:,}."
        )
    return {
        "steps": steps,
        "reward": f"{rules.reward} {rules.reward_version}",
        "by_hand": applied,
        "pairs": pairs,
        "prompts": prompts,
        "note": note.strip(),
    }


def _of_the_shards(rules: PairRules, paired_by: list[Row]) -> PairRules:
    """The rules with the version of the reward that made the pairs: the run may have got another since."""
    versions = [row["reward_version"] for row in paired_by if row["reward"] == rules.reward]
    return rules if rules.reward_version or not versions else replace(rules, reward_version=versions[0])


def _pair_settings(run: Run) -> tuple[PairSettings | None, str]:
    entry = run.header()["commands"].get("pair")
    if not isinstance(entry, dict) or not isinstance(entry.get("config"), dict):
        return None, "The settings of the pairing are not in run.yaml, so its funnel cannot be told."
    config = entry["config"]
    settings = built(PairSettings, config, out=None, decisions=None)
    if not config.get("decisions"):
        return settings, ""
    from pathlib import Path

    path = Path(config["decisions"])
    if path.is_file():
        return replace(settings, decisions=path), ""
    return settings, f"The decisions of {path} are no longer there, and are not in this funnel."


def distributions(run: Run, rewards: list[Row], limits: Limits | None) -> list[dict[str, Any]]:
    """The histogram and a sample of the scores of every reward version."""
    return [_distribution(run, row, limits) for row in rewards]


def _distribution(run: Run, row: Row, limits: Limits | None) -> dict[str, Any]:
    bins, sample = distribution(run, row["reward"], row["reward_version"], _DRAWN_SCORES, limits)
    counts = {name: [0] * BINS for name in ("everyone", "winners", "losers")}
    for one in bins:
        for name, values in counts.items():
            values[one["bin"]] = one[name]
    ends = [bins[0]["low"], bins[0]["high"]] if bins else [None, None]
    return {
        "reward": row["reward"],
        "version": row["reward_version"],
        "rows": row["rows"],
        "scored": row["scored"],
        "geometry": row["geometry"],
        "license": row["license"],
        "low": number(ends[0]),
        "high": number(ends[1]),
        "bins": counts,
        "sample": {
            "id": [one["candidate_id"] for one in sample],
            "role": [one["wins"] + 2 * one["loses"] for one in sample],
            **{
                name: [number(one[name], _DIGITS) for one in sample]
                for name in ("value", "motion", "image_motion", "sharpness")
            },
        },
    }


# A curve on a screen shows no more; steps between are averaged.
DRAWN_STEPS = 400
_SETTINGS = (
    "objective",
    "beta",
    "lr",
    "rank",
    "alpha",
    "steps",
    "warmup",
    "schedule",
    "batch_size",
    "grad_accum",
    "winner_anchor",
    "winner_weight",
    "cache_reference",
    "precision",
    "split",
    "seed",
    "model",
)


def trainings(run: Run) -> list[dict[str, Any]]:
    """Every training with a log: its name, its settings, and its metrics as [steps, values]."""
    folders = sorted(path for path in (run.path / "train").glob("*") if path.is_dir())
    found = [_training(folder) for folder in folders]
    return [one for one in found if one["metrics"]]


def _training(folder: Path) -> dict[str, Any]:
    lines = [line for line in read_log(folder) if isinstance(line, dict) and _is_number(line.get("step"))]
    names = dict.fromkeys(name for line in lines for name in line if name != "step")
    metrics = {}
    for name in names:
        points = [(line["step"], line[name]) for line in lines if _is_number(line.get(name))]
        if points:
            metrics[name] = thinned(points)
    return {"name": folder.name, "config": _config(folder), "metrics": metrics}


def thinned(points: list[tuple[float, float]]) -> list[list[float | int | None]]:
    """At most DRAWN_STEPS points: each the mean of as many neighbours; steps and values."""
    size = math.ceil(len(points) / DRAWN_STEPS)
    groups = [points[start : start + size] for start in range(0, len(points), size)]
    steps = [number(sum(step for step, _ in group) / len(group)) for group in groups]
    return [steps, [number(sum(value for _, value in group) / len(group), 5) for group in groups]]


def _config(folder: Path) -> dict[str, Any]:
    try:
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    if not isinstance(config, dict):
        return {}
    return {name: plain(config[name]) for name in _SETTINGS if config.get(name) is not None}


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)
