"""gpa bench pair: the loop over JSON and SQL agree on the pairs, or it raises."""

from __future__ import annotations

import json

from click.testing import CliRunner

from jobs.main import cli


def test_the_loop_over_json_finds_the_pairs_of_sql() -> None:
    words = ["bench", "pair", "--candidates", "4000", "--sample", "2000", "--json"]
    result = CliRunner().invoke(cli, words)
    assert result.exit_code == 0, result.output
    rows = json.loads(result.stdout)["rows"]
    pairs = {(row["candidates"], row["pairs"]) for row in rows}
    assert {candidates for candidates, _ in pairs} == {2000, 4000}
    assert len(pairs) == 2
    assert all(row["pairs"] > 0 and row["peak_bytes"] > 0 for row in rows)
