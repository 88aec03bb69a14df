"""What rounds of alignment have made, and whether another one pays: read from the evaluation's own rows.

RUN/align/NAME/rounds.json   the rounds that are done, with the options they were given and their figures
               pairs-K/      the pairs of round K
Legend: a round's figures are compared with the base and with the round before, on the same prompts and seeds.
"""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pipeline.evaluation.adapters import BASE
from storage.atomic import write_bytes
from storage.errors import FieldError, UserError

FILE = "rounds.json"
# The columns of an evaluation that a round is judged by: the first of them that has values.
_ERRORS = ("error_3dcs", "epipolar")
_MOTIONS = ("motion", "image_motion")
SHARPNESS = "sharpness"
# Shown beside them, where they have values.
_BESIDE = ("fault", "truth_psnr", "first_frame")


@dataclass(frozen=True, kw_only=True)
class Guards:
    """When to stop. `min_gain`: a round must lower the error of the one before by more than this share of it;
    of the base's motion and sharpness it must keep these shares. Raises FieldError.
    """

    min_gain: float = field(
        default=0.0,
        metadata={
            "help": "Stop when a round lowers the judge's error by no more than this share of it.",
            "metavar": "X",
            "group": "When to stop",
            "common": True,
        },
    )
    keep_motion: float = field(
        default=0.9,
        metadata={
            "help": "Stop when less of the base's motion is left.",
            "metavar": "SHARE",
            "group": "When to stop",
            "common": True,
        },
    )
    keep_sharpness: float = field(
        default=0.95,
        metadata={
            "help": "Stop when less of the base's sharpness is left.",
            "metavar": "SHARE",
            "group": "When to stop",
            "common": True,
        },
    )

    def __post_init__(self) -> None:
        if not -math.inf < self.min_gain < 1:
            raise FieldError("min_gain", "finite and < 1", self.min_gain, "below 0 bears a rise")
        for name in ("keep_motion", "keep_sharpness"):
            if not 0 <= getattr(self, name) < math.inf:
                raise FieldError(name, "finite and >= 0", getattr(self, name), "0 is no bound")


@dataclass(frozen=True, kw_only=True)
class Round:
    """A finished round: the preset and the user's own options of its commands, its adapter, its evaluation.

    `steps` are those that the adapter has had in all. Nothing here names the place of the run.

    `measures` are means by model (the base, and all rounds so far) and column; `shares` are the figures of
    this round over another model's, with their intervals, by model and column.
    """

    number: int
    preset: str
    options: dict[str, list[str]]
    adapter_id: str
    pairs: int
    steps: int
    seconds: float
    measures: dict[str, dict[str, float]]
    shares: dict[str, dict[str, list[float]]]

    @property
    def before(self) -> str:
        """The model that this round began with, as the evaluation names it."""
        return BASE if self.number == 1 else label(self.number - 1)


def label(number: int) -> str:
    """What an evaluation calls the adapter of a round."""
    return f"round-{number}"


def read_rounds(folder: Path) -> list[Round]:
    """The rounds that are done. Raises UserError for a file that cannot be read."""
    path = folder / FILE
    if not path.exists():
        return []
    try:
        return [Round(**one) for one in json.loads(path.read_text(encoding="utf-8"))["rounds"]]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(
            f"{path} cannot be read ({error}): remove it, and the same command looks at every round again"
        ) from error


def write_rounds(folder: Path, rounds: Sequence[Round], best: int) -> None:
    """Keep them, with the number of the best one (0 is the base)."""
    folder.mkdir(parents=True, exist_ok=True)
    found = {"rounds": [dataclasses.asdict(one) for one in rounds], "best": best}
    write_bytes(folder / FILE, (json.dumps(found, indent=1, sort_keys=True) + "\n").encode())


def figures(
    rows: Sequence[Mapping[str, Any]], number: int
) -> tuple[dict[str, dict[str, float]], dict[str, dict[str, list[float]]]]:
    """`measures` and `shares` of a round from the rows of an evaluation's clips.

    Raises UserError when the error, the motion or the sharpness was measured of no clip.
    """
    from pipeline.evaluation.comparison import compare

    models = [BASE, *(label(one) for one in range(1, number + 1))]
    values = {name: _by_clip(rows, name) for name in models}
    measures: dict[str, dict[str, float]] = {name: {} for name in models}
    shares: dict[str, dict[str, list[float]]] = {}
    for column in (*_ERRORS, *_MOTIONS, SHARPNESS, *_BESIDE):
        ours = values[label(number)].get(column, {})
        for name in models:
            row = compare(column, values[name].get(column, {}), ours, better=0)
            if row is None:
                continue
            measures[name][column] = row.base
            if row.share is not None:
                share = [row.share.mean, row.share.low, row.share.high]
                shares.setdefault(name, {})[column] = share
    for what, columns in (("error", _ERRORS), ("motion", _MOTIONS), ("sharpness", (SHARPNESS,))):
        if not any(column in shares.get(BASE, {}) for column in columns):
            raise UserError(
                f"no {what} ({' or '.join(columns)}) was measured of base and round {number}, so nothing "
                "says whether it pays: evaluate with more prompts or another --judge"
            )
    return measures, shares


def _by_clip(rows: Sequence[Mapping[str, Any]], model: str) -> dict[str, dict[str, dict[int, float]]]:
    found: dict[str, dict[str, dict[int, float]]] = {}
    for row in rows:
        if row["model_name"] != model:
            continue
        for column in (*_ERRORS, *_MOTIONS, SHARPNESS, *_BESIDE):
            value = row.get(column)
            if value is not None and math.isfinite(value):
                found.setdefault(column, {}).setdefault(row["prompt_id"], {})[row["seed"]] = value
    return found


def column_of(one: Round, what: str) -> str:
    """The column that stands for the error or the motion of a round."""
    columns = _ERRORS if what == "error" else _MOTIONS
    return next(column for column in columns if column in one.shares[BASE])


def fault_of(one: Round, guards: Guards) -> str | None:
    """Why a round is the last, and is not taken; None when it pays."""
    gained = 1 - one.shares[one.before][column_of(one, "error")][0]
    if not gained > guards.min_gain:
        went = f"fell by {gained:.1%}" if gained >= 0 else f"rose by {-gained:.1%}"
        return f"the error {went}, and was to fall by more than {guards.min_gain:.1%}"
    motion = one.shares[BASE][column_of(one, "motion")][0]
    if motion < guards.keep_motion:
        return f"{motion:.1%} of the motion is left, less than {guards.keep_motion:.1%}"
    sharpness = one.shares[BASE][SHARPNESS][0]
    if sharpness < guards.keep_sharpness:
        return f"{sharpness:.1%} of the sharpness is left, less than {guards.keep_sharpness:.1%}"
    return None


def best_of(rounds: Sequence[Round], guards: Guards) -> int:
    """The number of the last round before the first that does not pay; 0 is the base."""
    for one in rounds:
        if fault_of(one, guards) is not None:
            return one.number - 1
    return len(rounds)


def table_of(rounds: Sequence[Round], guards: Guards) -> list[dict[str, str]]:
    """A line for every round as words, by the heads of its columns."""
    return [
        {
            "round": str(one.number),
            "pairs": f"{one.pairs:,}",
            "steps": f"{one.steps:,}",
            column_of(one, "error"): _share(one.shares[BASE][column_of(one, "error")]),
            "of the last round": _share(one.shares[one.before][column_of(one, "error")]),
            column_of(one, "motion"): _share(one.shares[BASE][column_of(one, "motion")]),
            "sharpness": _share(one.shares[BASE][SHARPNESS]),
            **{
                name: f"{one.measures[label(one.number)][name]:.3g} ({one.measures[BASE][name]:.3g})"
                for name in _BESIDE
                if name in one.measures[BASE]
            },
            "": "stop" if fault_of(one, guards) else "pays",
        }
        for one in rounds
    ]


def _share(interval: Sequence[float]) -> str:
    mean, low, high = interval
    return f"{mean:.0%} [{low:.0%}, {high:.0%}]"
