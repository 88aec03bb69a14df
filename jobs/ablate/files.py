"""The results of an ablation as files: Markdown, CSV and JSON, each whole or not at all."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from jobs.ablate.tables import Figures, budget_line, cell, points
from jobs.ablate.trainings import Outcome, Record
from pipeline.evaluation.comparison import Interval, Row
from pipeline.evaluation.tables import UNIT
from storage.atomic import write_bytes

_DIRECTION = {1: "higher is better", -1: "lower is better", 0: "neither is better"}


def write_results(path: Path, made_by: str, outcome: Outcome, found: Figures) -> list[Path]:
    """Write PATH (Markdown) with .csv and .json beside it; returns the three."""
    path.parent.mkdir(parents=True, exist_ok=True)
    texts = {
        path: markdown(made_by, outcome, found),
        path.with_suffix(".csv"): _as_csv(outcome, found),
        path.with_suffix(".json"): json.dumps(as_json(made_by, outcome, found), indent=2) + "\n",
    }
    for file, text in texts.items():
        write_bytes(file, text.encode())
    return list(texts)


def notes(outcome: Outcome) -> list[str]:
    """What a reader must know of the figures: the budget, the judges, the unit, and what is missing."""
    result = outcome.evaluation
    assert result is not None
    rewards = {record.selection.reward for record in outcome.records}
    lines = [budget_line(outcome.records), *result.header.lines(), UNIT]
    if "epipolar" in rewards:
        lines.append("the epipolar column is not independent for recipes whose reward is epipolar")
    lines += outcome.notes
    lines += [f"left out: {name}, {reason}" for name, reason in outcome.left_out.items()]
    return lines + [f"failed: {name}, {reason}" for name, reason in outcome.failed.items()]


def markdown(made_by: str, outcome: Outcome, found: Figures) -> str:
    """All tables, every recipe with its settings, and the command that makes the file."""
    parts = [
        [
            "# Results of an ablation",
            "",
            f"Made by `{made_by}`; the same command writes this file again.",
            "",
        ],
        [f"- {line}" for line in notes(outcome)],
        _recipes("Recipes against the base", found, found.recipes),
        _recipes("The same without clips that stand still", found, found.moving),
        _against(found),
        _trainings(outcome.records, found),
        _settings(outcome.records),
        ["", *(f"- `{one.name}`: {one.about} ({_DIRECTION[one.better]})" for one in found.measures)],
    ]
    return "\n".join(line for part in parts for line in part) + "\n"


def _recipes(title: str, found: Figures, tables: Mapping[str, Mapping[str, Row]]) -> list[str]:
    if not any(tables.values()):
        return []
    if tables is found.moving and tables == found.recipes:
        return ["", f"## {title}", "", "No clip stands still: the table is the same."]
    head = ["recipe", "trainings", *(one.name for one in found.measures)]
    lines = []
    if tables is found.recipes:
        # Which clips stand still depends on the recipe, so that there is not one base without them.
        lines += _references(found, 1)
    for name, rows in tables.items():
        trainings = next((row.spread.trainings for row in rows.values() if row.spread), 1)
        cells = ("<br>".join(cell(rows.get(one.name))) for one in found.measures)
        lines.append([name, str(trainings), *cells])
    about = (
        "Mean; its share of the base's, or its difference where a share means nothing, with the 95 % "
        "interval over prompts; share of prompts that are better than the base's, with its interval."
    )
    return ["", f"## {title}", "", about, "", *_table(head, lines)]


def _references(found: Figures, blanks: int) -> list[list[str]]:
    """The rows of true clips and base, empty in as many columns behind the name."""
    return [
        [who, *[""] * blanks, *(_number(means.get(one.name)) for one in found.measures)]
        for who, means in found.references.items()
    ]


def _against(found: Figures) -> list[str]:
    if not found.against:
        return []
    judged = [one for one in found.measures if one.better]
    head = [f"{found.first} against", *(one.name for one in judged)]
    lines = [
        [name, *("<br>".join(_versus(rows.get(one.name))) for one in judged)]
        for name, rows in found.against.items()
    ]
    about = (
        f"Mean of {found.first} as a share of the other recipe's, or their difference, training by training "
        f"of the same seed, and the share of prompts on which {found.first} is better."
    )
    return ["", f"## {found.first} against the others", "", about, "", *_table(head, lines)]


def _versus(row: Row | None) -> list[str]:
    return [""] if row is None else cell(row)[1:]


def _trainings(records: Sequence[Record], found: Figures) -> list[str]:
    head = ["recipe", "seed", "pairs", "steps", "pairs a step", *(one.name for one in found.measures)]
    lines = _references(found, 4)
    for record in records:
        rows = found.trainings[record.label]
        given = [record.recipe, record.seed, record.pairs, record.options["steps"], record.pairs_per_step]
        means = (_number(rows[one.name].adapter if one.name in rows else None) for one in found.measures)
        lines.append([*map(str, given), *means])
    return ["", "## Every training", "", *_table(head, lines)]


def _settings(records: Sequence[Record]) -> list[str]:
    lines = [
        "",
        "## Settings",
        "",
        "What a recipe changes in its preset, and the commands of its first training.",
    ]
    first: dict[str, Record] = {}
    for record in records:
        first.setdefault(record.recipe, record)
    for record in first.values():
        changed = [
            f"{section}.{option} {value}"
            for section, options in record.changes.items()
            for option, value in options.items()
        ]
        lines += ["", f"**{record.recipe}**: {record.about}", ""]
        lines += [f"- preset `{record.preset}`, {', '.join(changed) or 'nothing changed'}"]
        by = f"{record.selection.reward} {record.selection.reward_version}"
        lines += [f"- {record.pairs} pairs by {by}: {_listed(record.selection.rules)}"]
        lines += [f"- training: {_listed(record.options)}"]
        lines += [f"- `{command}`" for command in record.commands]
    return lines


def _listed(values: Mapping[str, Any]) -> str:
    return ", ".join(f"{name} {value}" for name, value in values.items() if value is not None)


def as_json(made_by: str, outcome: Outcome, found: Figures) -> dict[str, Any]:
    """Everything as plain values, which depend on the clips and the trainings alone."""
    result = outcome.evaluation
    assert result is not None
    return {
        "made_by": made_by,
        "notes": notes(outcome),
        "judged_by": asdict(result.header),
        "measures": {one.name: {"better": one.better, "about": one.about} for one in found.measures},
        "points": points(found),
        "base": found.base,
        "truth": dict(found.truth),
        "recipes": _plain(found.recipes),
        "moving": _plain(found.moving),
        "against": {"recipe": found.first, "others": _plain(found.against)},
        "trainings": [
            asdict(record) | {"figures": _plain({"": found.trainings[record.label]})[""]}
            for record in outcome.records
        ],
        "left_out": outcome.left_out,
        "failed": outcome.failed,
    }


def _plain(tables: dict[str, dict[str, Row]]) -> dict[str, dict[str, Any]]:
    return {name: {measure: asdict(row) for measure, row in rows.items()} for name, rows in tables.items()}


def _as_csv(outcome: Outcome, found: Figures) -> str:
    """A line for every measure of every training, every recipe over its trainings, and every comparison."""
    lines: list[dict[str, Any]] = []
    for record in outcome.records:
        given = {"recipe": record.recipe, "seed": record.seed, "pairs": record.pairs}
        given |= {"steps": record.options["steps"], "pairs_per_step": record.pairs_per_step}
        lines += [given | _flat("base", row) for row in found.trainings[record.label].values()]
    for name, rows in found.recipes.items():
        lines += [{"recipe": name, "seed": "all"} | _flat("base", row) for row in rows.values()]
    for name, rows in found.against.items():
        lines += [{"recipe": found.first, "seed": "all"} | _flat(name, row) for row in rows.values()]
    text = io.StringIO()
    writer = csv.DictWriter(text, list(dict.fromkeys(key for line in lines for key in line)), restval="")
    writer.writeheader()
    writer.writerows(lines)
    return text.getvalue()


def _flat(against: str, row: Row) -> dict[str, Any]:
    flat: dict[str, Any] = {"against": against, "measure": row.measure, "better": row.better}
    flat |= {"against_mean": row.base, "mean": row.adapter, "prompts": row.prompts, "clips": row.clips}
    for name in ("difference", "share", "win_rate", "clip_win_rate"):
        one: Interval | None = getattr(row, name)
        if one is not None:
            flat |= {name: one.mean, f"{name}_low": one.low, f"{name}_high": one.high}
    return flat


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.4g}"


def _table(head: Sequence[str], lines: Iterable[Sequence[str]]) -> list[str]:
    rule = ["---", *["---:"] * (len(head) - 1)]
    return [f"| {' | '.join(words)} |" for words in (head, rule, *lines)]
