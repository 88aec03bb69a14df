"""gpa query: one question, as a table, as CSV or as JSON."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from jobs.main import cli
from storage.run import Run
from tests.storage.builders import run_with_pairs


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    return run_with_pairs(tmp_path_factory.mktemp("query") / "run", 5)


def asked(run: Run, *words: str, stdin: str | None = None) -> Result:
    return CliRunner().invoke(cli, ["query", str(run.path), *words], input=stdin)


def test_the_same_answer_in_three_forms(run: Run) -> None:
    sql = "SELECT candidate_id, value, [1, 2] AS list, NULL AS none FROM scores ORDER BY candidate_id LIMIT 2"
    table = asked(run, sql)
    assert table.exit_code == 0
    assert "p000-c1" in table.stdout
    rows = list(csv.reader(io.StringIO(asked(run, "--csv", sql).stdout)))
    assert rows == [
        ["candidate_id", "value", "list", "none"],
        ["p000-c0", "-0.1", "[1, 2]", ""],
        ["p000-c1", "-0.2", "[1, 2]", ""],
    ]
    objects = json.loads(asked(run, "--json", sql).stdout)
    assert objects[1] == {"candidate_id": "p000-c1", "value": -0.2, "list": [1, 2], "none": None}


def test_values_that_json_does_not_have(run: Run) -> None:
    sql = "SELECT 'nan'::DOUBLE AS x, 'ab'::BLOB AS x, {'y': DATE '2026-01-02'} AS z, 1.5::DECIMAL(3, 1) AS d"
    assert json.loads(asked(run, "--json", sql).stdout) == [
        {"x": None, "x_2": "YWI=", "z": {"y": "2026-01-02"}, "d": "1.5"}
    ]
    assert json.loads(asked(run, "--json", "SELECT 1 WHERE false").stdout) == []


def test_a_cut_answer_says_so(run: Run) -> None:
    cut = asked(run, "--csv", "--limit", "3", "FROM scores SELECT candidate_id")
    assert len(cut.stdout.splitlines()) == 4
    assert cut.stderr == "only the first 3 rows are shown: --limit N shows more, --limit 0 all\n"
    for limit in ("10", "0"):
        whole = asked(run, "--csv", "--limit", limit, "FROM scores SELECT candidate_id")
        assert (len(whole.stdout.splitlines()), whole.stderr) == (11, "")


def test_sql_from_stdin(run: Run) -> None:
    assert asked(run, "--csv", "-", stdin="SELECT 1 AS one\n-- the end\n").stdout == "one\n1\n"


def test_wrong_questions_fail_with_one_line(run: Run, tmp_path: Path) -> None:
    for words, says in (
        (["DROP VIEW scores"], "error: gpa query only reads, got a statement of kind DROP"),
        (["SELECT x FROM scores"], "error: SQL error at line 1, column 8: Referenced column"),
        (["--memory", "much", "SELECT 1"], "error: --memory must be a size such as 4GB"),
    ):
        result = asked(run, *words)
        assert (result.exit_code, result.stdout) == (1, "")
        assert result.stderr.startswith(says)
        assert len(result.stderr.splitlines()) == 1
    missing = CliRunner().invoke(cli, ["query", str(tmp_path / "none"), "SELECT 1"])
    assert (missing.exit_code, "there is no run at" in missing.stderr) == (1, True)
