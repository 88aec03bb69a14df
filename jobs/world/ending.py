"""What the demo ends with: six measures of base and aligned model, each in a sentence for a newcomer."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, kw_only=True)
class _Told:
    """A measure in words. `unit` is % of the base or dB, `small` the change in it from which on it is one.

    `down` and `up` say what a change means, `same` that there is none; they may name {base}, {aligned} and
    {change}, the size of the change.
    """

    measure: str
    name: str
    value: Callable[[float], str]
    down: str
    up: str
    same: str
    unit: str = "%"
    small: float = 1.0


def _percent(value: float) -> str:
    return f"{100 * value:.0f} %"


def _decibels(value: float) -> str:
    return f"{value:.2f} dB"


_FAULT = (
    "of 100 videos, {base} had a fault in their geometry, now {aligned}, says a referee that no reward saw"
)
_ROWS = (
    _Told(
        measure="fault",
        name="faulty videos",
        value=_percent,
        down=_FAULT,
        up=_FAULT,
        same=_FAULT + ": no change to speak of",
    ),
    _Told(
        measure="error_3dcs",
        name="geometric error x1000, by a second judge",
        value=lambda value: f"{1000 * value:.3f}",
        down="a geometry network that made no reward finds the frames of a video to fit together better",
        up="a geometry network that made no reward finds the frames of a video to fit together worse",
        same="a geometry network that made no reward finds no change to speak of",
    ),
    _Told(
        measure="motion",
        name="camera motion x1000",
        value=lambda value: f"{1000 * value:.2f}",
        down="the camera moves {change} less: a video that stands still has no error, so mind this one",
        up="the camera moves {change} more",
        same="the camera moves as before: the error did not fall because videos stand still",
    ),
    _Told(
        measure="sharpness",
        name="detail kept in later frames",
        value=_percent,
        down="later frames lost {change} of their detail: blur hides errors",
        up="later frames have {change} more detail",
        same="later frames are as sharp as before: the error did not fall by blur, which hides it",
    ),
    _Told(
        measure="truth_psnr",
        name="likeness to the true video",
        value=_decibels,
        down="the videos went away from what a camera in the scene would have seen",
        up="the videos came nearer to what a camera in the scene would have seen",
        same="the videos are as near as before to what a camera in the scene would have seen",
        unit="dB",
        small=0.1,
    ),
    _Told(
        measure="first_frame",
        name="likeness to the first frame given",
        value=_decibels,
        down="the first frame is further from the picture that the model was given",
        up="the first frame is nearer to the picture that the model was given",
        same="the first frame is as near as before to the picture that the model was given",
        unit="dB",
        small=0.1,
    ),
)


def ending(result: Mapping[str, Any], folder: str) -> list[str]:
    """The lines of the table of an evaluation, as `gpa evaluate --json` prints it; its files lie in `folder`.

    A change whose interval holds zero, or that nobody would see, is told as none.
    """
    rows = next(iter(result["tables"].values()))
    by_measure = {row["measure"]: row for row in rows}
    told = [one for one in _ROWS if one.measure in by_measure]
    wide = max(len(one.name) for one in told)
    lines = [
        f"What alignment changed: the model without (base) and with its adapter, on {result['prompts']}",
        "",
        f"{'':{wide}}  {'base':>9}  {'aligned':>9}  {'change':>9}",
    ]
    for one in told:
        row = by_measure[one.measure]
        values = [one.value(row[side]) for side in ("base", "adapter")]
        lines += [
            f"{one.name:{wide}}  {values[0]:>9}  {values[1]:>9}  {_change(one, row):>9}",
            f"    {_sentence(one, row)}",
        ]
    return [
        *lines,
        "",
        f"all {len(rows)} measures with their intervals: {folder}/evaluation.md, .csv, .json",
        f"the videos side by side: {folder}/{result['contact_sheet']}",
    ]


def _size(one: _Told, row: Mapping[str, Any]) -> float:
    change = float(row["difference"]["mean"])
    return change if one.unit == "dB" else 100 * change / row["base"]


def _change(one: _Told, row: Mapping[str, Any]) -> str:
    return f"{_size(one, row):+.2f} dB" if one.unit == "dB" else f"{_size(one, row):+.0f} %"


def _sentence(one: _Told, row: Mapping[str, Any]) -> str:
    size, interval = _size(one, row), row["difference"]
    sure = interval["low"] > 0 or interval["high"] < 0
    words = one.same if not sure or abs(size) < one.small else one.up if size > 0 else one.down
    return words.format(
        base=f"{100 * row['base']:.0f}",
        aligned=f"{100 * row['adapter']:.0f}",
        change=_change(one, row).lstrip("+-"),
    )
