"""How many scored videos the rules of footage will leave out, for whoever scores them."""

from __future__ import annotations

from typing import NamedTuple

from storage.mining.rules import OF_FOOTAGE, PairRules
from storage.run import Run
from storage.sql.views import fetch, session


class Spoilt(NamedTuple):
    """Videos over a bound: the rule, the field of PairRules with the bound, and how many."""

    rule: str
    field: str
    videos: int


def spoilt(run: Run, rules: PairRules) -> tuple[int, list[Spoilt]]:
    """The scores of a reward and version, and which rules of footage any of these videos break.

    A video counts for every rule that it breaks. Raises UserError for shards that cannot be read.
    """
    columns = ", ".join(f"count(*) FILTER ({one.measure} > ${one.field})" for one in OF_FOOTAGE)
    values = {one.field: getattr(rules, one.field) for one in OF_FOOTAGE}
    with session(run, "scores") as connection:
        total, *counts = fetch(
            connection,
            f"SELECT count(*), {columns} FROM scores WHERE reward = $reward AND reward_version = $version",
            {**values, "reward": rules.reward, "version": rules.reward_version},
        )[0]
    return total, [
        Spoilt(one.rule, one.field, count) for one, count in zip(OF_FOOTAGE, counts, strict=True) if count
    ]
