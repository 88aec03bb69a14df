"""The evaluations of a run beside it in SQL: each is a run of its own in RUN/eval/NAME, one view shows all.

A view of them has the column `evaluation`, the NAME, before those of its table.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from storage.run import RUN_FILE, Run
from storage.tables.schemas import PAIR_TENSORS, TABLES, default_columns

# The table that each view shows of every evaluation. Only evaluations have clips and judgements: asked of
# one evaluation alone, as a run, these views show its own.
OF_EVALUATIONS: Final = {
    "clips": "clips",
    "judgements": "judgements",
    "eval_prompts": "prompts",
    "eval_candidates": "candidates",
    "eval_scores": "scores",
    "eval_rejects": "rejects",
}
_SHARED: Final = tuple(table for table in TABLES if table not in OF_EVALUATIONS)
# All that a question sees, by name.
VIEWS: Final = (*_SHARED, *OF_EVALUATIONS)


@dataclass(frozen=True)
class Part:
    """A table of one run, and the schema of the connection that holds its view."""

    run: Run
    table: str
    schema: str = "main"


def described(view: str) -> str:
    """A view with its columns, as a line for people."""
    table = OF_EVALUATIONS.get(view, view)
    columns = ["evaluation"] * (view in OF_EVALUATIONS) + default_columns(table)
    tensors = f"; with latents inside also {', '.join(PAIR_TENSORS)}" if table == "pairs" else ""
    return f"{view}: {', '.join(columns)}{tensors}"


def parts_of(run: Run, tables: Sequence[str], views: Sequence[str] = ()) -> list[Part]:
    """The tables of the run that a connection shows, and those that these views of evaluations need."""
    wanted = sorted({OF_EVALUATIONS[view] for view in views})
    own = [Part(run, table) for table in dict.fromkeys((*tables, *(one for one in wanted if one in _SHARED)))]
    # Its view has this name itself.
    own += [Part(run, table, "itself") for table in wanted if table not in _SHARED]
    headers = sorted((run.path / "eval").glob(f"*/{RUN_FILE}")) if views else []
    return own + [
        Part(Run(header.parent), table, f"evaluation_{number}")
        for number, header in enumerate(headers)
        for table in wanted
    ]


def statements(views: Sequence[str], parts: Sequence[Part]) -> list[str]:
    """What makes the views of evaluations, once every part has its own."""
    return [f"CREATE VIEW {view} AS " + " UNION ALL BY NAME ".join(_selects(view, parts)) for view in views]


def _selects(view: str, parts: Sequence[Part]) -> list[str]:
    """The rows of every part; those of the run itself only where it is an evaluation."""
    table = OF_EVALUATIONS[view]
    return [
        f"SELECT {_quoted(part.run.path.absolute().name)} AS evaluation, * FROM {part.schema}.{table}"
        + (" WHERE false" if part.schema == "main" else "")
        for part in parts
        if part.table == table
    ]


def _quoted(text: str) -> str:
    return "'" + text.replace("'", "''") + "'"
