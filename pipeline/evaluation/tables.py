"""The tables of an evaluation and who judged, and their files: Markdown, CSV and JSON."""

from __future__ import annotations

import csv
import dataclasses
import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeAlias

from pipeline.evaluation.adapters import BASE, TRUTH
from pipeline.evaluation.comparison import Interval, Row, compare, compare_group, keep_moving, only
from pipeline.evaluation.judges.judge import Measure
from pipeline.evaluation.panel import Header
from storage.atomic import write_bytes
from storage.tables.records import CLIP_MEASURES

# By model, measure, prompt and seed.
Measured: TypeAlias = dict[str, dict[str, dict[str, dict[int, float]]]]
Tables: TypeAlias = dict[str, list[Row]]

_OF_SCORE = (
    Measure(name="error", better=-1, about="minus the reward, by the reward's own geometry"),
    Measure(name="reprojection", better=-1, about="squared reprojection error, by the reward's own geometry"),
)
UNIT = (
    "unit: the prompt; its seeds (and the trainings of a group) are averaged first, intervals are 95 % "
    "percentile bootstraps over prompts; prompts better compares a prompt's means, clips better its clips "
    "of one seed"
)


@dataclass(frozen=True, kw_only=True)
class Evaluation:
    """The rows by the name of adapter or group, of all clips and of those that move on both sides.

    `truth` are the means of the true clips by measure, where there are such clips. `failed` counts what this
    call could not sample or measure.
    """

    directory: Path
    header: Header
    measures: tuple[Measure, ...]
    tables: Tables
    filtered: Tables
    clips: int
    prompts: int
    sheet: Path
    truth: Mapping[str, float] = field(default_factory=dict)
    failed: int = 0

    def shown(self) -> list[Measure]:
        """The measures that have a row, in the order of the table."""
        names = {row.measure for rows in self.tables.values() for row in rows}
        return [measure for measure in _in_order(self.measures) if measure.name in names]


def _in_order(measures: Sequence[Measure]) -> list[Measure]:
    """Those of the reward and of the judges as the table shows them; what has no column of its own last."""
    place = {name: position for position, name in enumerate(CLIP_MEASURES)}
    return sorted((*_OF_SCORE, *measures), key=lambda one: place.get(one.name, len(place)))


def make_tables(
    measured: Measured, measures: Sequence[Measure], groups: Mapping[str, Sequence[str]], min_motion: float
) -> tuple[Tables, Tables]:
    """The rows of every adapter and group: of all clips, and without those that stand still on either side.

    The second is empty without a measured motion.
    """
    adapters = [name for name in measured if name != BASE]
    whole = {name: (measured[BASE], measured[name]) for name in adapters}
    tables = _tables(whole, measures, groups)
    if "motion" not in measured[BASE]:
        return tables, {}
    moving = {name: _moving(base, adapter, min_motion) for name, (base, adapter) in whole.items()}
    return tables, _tables(moving, measures, groups)


_Side: TypeAlias = Mapping[str, Mapping[str, Mapping[int, float]]]


def _moving(base: _Side, adapter: _Side, min_motion: float) -> tuple[_Side, _Side]:
    kept = sorted(keep_moving(base["motion"], adapter.get("motion", {}), min_motion))
    base_kept, adapter_kept = (
        {name: only(values, kept) for name, values in side.items()} for side in (base, adapter)
    )
    return base_kept, adapter_kept


def _tables(
    sides: Mapping[str, tuple[_Side, _Side]],
    measures: Sequence[Measure],
    groups: Mapping[str, Sequence[str]],
) -> Tables:
    tables: Tables = {}
    for name, (base, adapter) in sides.items():
        tables[name] = [
            row
            for one in _in_order(measures)
            if (
                row := compare(
                    one.name,
                    base.get(one.name, {}),
                    adapter.get(one.name, {}),
                    one.better,
                    ratio=one.ratio,
                )
            )
        ]
    for group, members in groups.items():
        present = [sides[name] for name in members if name in sides]
        tables[group] = [
            row
            for one in _in_order(measures)
            if (
                row := compare_group(
                    one.name,
                    [(base.get(one.name, {}), adapter.get(one.name, {})) for base, adapter in present],
                    one.better,
                    ratio=one.ratio,
                )
            )
        ]
    return tables


def as_json(result: Evaluation) -> dict[str, Any]:
    """An evaluation as plain values, which depend on the clips alone."""
    return {
        "clips": result.clips,
        "prompts": result.header.prompts.words(result.prompts),
        "judged_by": dataclasses.asdict(result.header),
        "unit": UNIT,
        "measures": {one.name: {"better": one.better, "about": one.about} for one in result.shown()},
        "truth": dict(result.truth),
        "tables": _plain(result.tables),
        "filtered": _plain(result.filtered),
        "contact_sheet": result.sheet.name,
    }


def _plain(tables: Tables) -> dict[str, Any]:
    return {name: [dataclasses.asdict(row) for row in rows] for name, rows in tables.items()}


def write_evaluation(result: Evaluation) -> None:
    """Write evaluation.json, .md and .csv into the evaluation's directory, each whole or not at all."""
    write_bytes(result.directory / "evaluation.json", json.dumps(as_json(result), indent=2).encode())
    write_bytes(result.directory / "evaluation.md", _as_markdown(result).encode())
    write_bytes(result.directory / "evaluation.csv", _as_csv(result).encode())


def title(result: Evaluation, name: str, *, filtered: bool) -> str:
    """The line above a table: what is compared, on how many prompts, and by whom."""
    rows = (result.filtered if filtered else result.tables)[name]
    prompts = max((row.prompts for row in rows), default=0)
    trainings = next((row.spread.trainings for row in rows if row.spread is not None), None)
    of = "" if trainings is None else f" ({trainings} trainings)"
    moving = f", clips that move (motion {result.header.min_motion:g} or more on both sides)"
    return (
        f"{name}{of} against base: {result.header.prompts.words(prompts, name)}, same seeds, 95 % intervals"
        f"{moving if filtered else ''}; {result.header.short}"
    )


def cells(row: Row, name: str, truth: Mapping[str, float]) -> dict[str, str]:
    """A row as words, by the heads of its columns; `name` is that of the adapter or group."""
    spread = row.spread
    true = f"{truth[row.measure]:.4g}" if row.measure in truth else ""
    return {
        "measure": row.measure,
        **({"true clips": true} if truth else {}),
        "base": f"{row.base:.4g}",
        name: f"{row.adapter:.4g}",
        **({} if spread is None else {"trainings": f"{spread.adapter_min:.4g} to {spread.adapter_max:.4g}"}),
        "difference": f"{row.difference.mean:+.3g} [{row.difference.low:+.3g}, {row.difference.high:+.3g}]",
        "of base": percent(row.share),
        "prompts better": percent(row.win_rate),
        "clips better": percent(row.clip_win_rate),
        "prompts": str(row.prompts),
    }


def percent(one: Interval | None) -> str:
    """A share with its interval; nothing for none."""
    return "" if one is None else f"{one.mean:.0%} [{one.low:.0%}, {one.high:.0%}]"


def _as_markdown(result: Evaluation) -> str:
    """All tables with who judged and what the rows mean."""
    lines = ["# Evaluation", "", *(f"- {line}" for line in (*result.header.lines(), UNIT)), ""]
    for filtered, tables in ((False, result.tables), (True, result.filtered)):
        for name, rows in tables.items():
            lines += [f"## {title(result, name, filtered=filtered)}", ""]
            words = [cells(row, name, result.truth) for row in rows]
            if words:
                lines += [_line(list(words[0])), _line(["---"] + ["---:"] * (len(words[0]) - 1))]
            lines += [_line(list(one.values())) for one in words] or ["No clip is left."]
            lines += [""]
    lines += [f"- `{one.name}`: {one.about} ({_DIRECTION[one.better]})" for one in result.shown()]
    return "\n".join(lines) + "\n"


_DIRECTION = {1: "higher is better", -1: "lower is better", 0: "neither is better"}


def _line(words: Sequence[str]) -> str:
    return f"| {' | '.join(words)} |"


def _as_csv(result: Evaluation) -> str:
    """A line for every measure of every table, with all figures in full."""
    text = io.StringIO()
    lines = [
        _flat(
            {"table": table, "model": name, "prompts_are": result.header.prompts.status}
            | {"judge_independent": result.header.independent}
            | dataclasses.asdict(row)
        )
        for table, tables in (("all", result.tables), ("moving", result.filtered))
        for name, rows in tables.items()
        for row in rows
    ]
    lines += [
        {"table": "truth", "model": TRUTH, "measure": name, "adapter": mean}
        for name, mean in result.truth.items()
    ]
    names = list(dict.fromkeys(name for line in lines for name in line))
    writer = csv.DictWriter(text, names, restval="", lineterminator="\n")
    writer.writeheader()
    writer.writerows(lines)
    return text.getvalue()


def _flat(values: Mapping[str, Any]) -> dict[str, Any]:
    """Nested values under joined names; what is None is left empty."""
    flat: dict[str, Any] = {}
    for name, value in values.items():
        if isinstance(value, Mapping):
            flat |= {f"{name}_{inner}": number for inner, number in value.items()}
        elif value is not None:
            flat[name] = value
    return flat
