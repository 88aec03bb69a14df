"""gpa query: one question, as a table, as CSV or as JSON."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from jobs.main import cli
from storage.judgements import EvaluatedClip, write_clips, write_judgements
from storage.run import Run
from storage.sql.evaluations import VIEWS
from storage.tables.schemas import TABLES
from storage.tables.shards import write_shard
from tests.storage.builders import candidate, judgement, run_with_pairs


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


def test_a_row_too_wide_for_the_screen_goes_a_line_a_column(run: Run) -> None:
    sql = "SELECT candidate_id, NULL AS none, 0.5 AS half, chr(27) || 'x' AS t FROM scores ORDER BY 1 LIMIT 2"
    assert asked(run, "--vertical", sql).stdout.splitlines()[:6] == [
        "- row 1 -",
        "candidate_id | p000-c0",
        "none         | ",
        "half         | 0.5",
        't            | "\\u001bx"',
        "- row 2 -",
    ]
    assert "--vertical" not in asked(run, sql).stderr
    assert "--vertical prints a line a column" in asked(run, "SELECT repeat('x', 401) AS wide").stderr


def test_csv_holds_nothing_that_a_spreadsheet_runs(run: Run) -> None:
    texts = ["=1+1", "+1", "-1", "@a", "\ta", "\ra", "a=1", ""]
    literals = ", ".join(f"chr({ord(text[0])}) || '{text[1:]}'" if text else "''" for text in texts)
    sql = f"SELECT {literals}, -1, -1.5::DECIMAL(3, 1), '-inf'::DOUBLE, '+v8='::BLOB AS \"=b\""
    written = [
        list(csv.reader(io.StringIO(asked(run, *words, sql).stdout, newline="")))
        for words in (["--csv"], ["--csv", "--raw"])
    ]
    safe, raw = written
    numbers = ["-1", "-1.5", "-inf"]
    assert safe[1][:-1] == ["'=1+1", "'+1", "'-1", "'@a", "'\ta", "'\ra", "a=1", "", *numbers]
    assert raw[1][:-1] == [*texts, *numbers]
    assert (safe[0][-1], raw[0][-1]) == ("'=b", "=b")
    assert asked(run, "--raw", sql).exit_code == 2


@pytest.fixture(scope="module")
def evaluated(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A run with two evaluations: of one the name has a quote, one has a candidate in two shards."""
    run = run_with_pairs(tmp_path_factory.mktemp("evaluated") / "run", 2)
    for name, prompts in (("it's", 1), ("b", 2)):
        inner = run_with_pairs(run.path / "eval" / name, prompts)
        write_judgements(inner, [judgement(), judgement(judge="ear")])
        measures = {"fault": 0.25 * prompts, "own": 1.0}
        clip = EvaluatedClip(
            model_name="base",
            candidate_id="p000-c0",
            prompt_id="p000",
            seed=1,
            adapter=None,
            adapter_weight=None,
            judges={"eye": "1"},
            measures=measures,
        )
        write_clips(inner, [clip])
    write_shard(inner.shard_dir("candidates"), "candidates", [candidate("p000-c0", "p000", seconds=9.0)])
    return run


def test_a_run_is_asked_of_its_evaluations(evaluated: Run) -> None:
    def rows(sql: str) -> list[dict[str, object]]:
        return json.loads(asked(evaluated, "--json", sql).stdout)

    assert rows("SELECT evaluation, count(*) AS n FROM eval_candidates GROUP BY ALL ORDER BY ALL") == [
        {"evaluation": "b", "n": 4},
        {"evaluation": "it's", "n": 2},
    ]
    assert rows("SELECT evaluation, fault FROM clips ORDER BY ALL") == [
        {"evaluation": "b", "fault": 0.5},
        {"evaluation": "it's", "fault": 0.25},
    ]
    assert rows("SELECT evaluation, judge FROM judgements ORDER BY ALL")[3] == {
        "evaluation": "it's",
        "judge": "eye",
    }
    joined = "SELECT count(*) AS n FROM eval_scores JOIN eval_prompts ON candidate_id LIKE prompt_id || '%' "
    assert rows(joined + "AND eval_scores.evaluation = eval_prompts.evaluation") == [{"n": 6}]
    # What the run itself holds stays apart, and an evaluation answers for itself.
    assert rows("SELECT count(*) AS n FROM candidates") == [{"n": 4}]
    alone = asked(
        Run.open(evaluated.path / "eval" / "b"),
        "--json",
        "SELECT evaluation, count(*) AS n FROM clips GROUP BY 1",
    )
    assert json.loads(alone.stdout) == [{"evaluation": "b", "n": 1}]


def test_an_evaluation_is_compacted_without_the_column_of_the_view(evaluated: Run) -> None:
    inner = Run.open(evaluated.path / "eval" / "b")
    write_judgements(inner, [judgement(judge="nose")])
    assert CliRunner().invoke(cli, ["compact", str(inner.path)]).exit_code == 0
    assert inner.rows("judgements").schema.names == TABLES["judgements"].names
    assert (
        '"n": 3'
        in asked(evaluated, "--json", "SELECT count(*) AS n FROM judgements WHERE evaluation = 'b'").stdout
    )


def test_views_are_empty_without_evaluations_and_listed_without_a_question(run: Run) -> None:
    assert asked(run, "--csv", "SELECT count(evaluation) AS n FROM eval_scores").stdout == "n\n0\n"
    listed = dict(line.split(": ", 1) for line in asked(run).stdout.splitlines())
    assert set(listed) == set(VIEWS)
    for view in set(VIEWS) - {"pairs"}:
        named = [row["column_name"] for row in json.loads(asked(run, "--json", f"DESCRIBE {view}").stdout)]
        assert listed[view] == ", ".join(named)


def test_an_unknown_name_says_which_there_are(run: Run) -> None:
    table, column = asked(run, "FROM cliips"), asked(run, "SELECT x FROM scores, prompts")
    assert [line.split(":")[0] for line in table.stderr.splitlines()] == [*VIEWS, "error"]
    assert [line.split(":")[0] for line in column.stderr.splitlines()] == ["prompts", "scores", "error"]
    assert "candidate_id, reward, reward_version, value" in column.stderr


def test_wrong_questions_fail_with_one_line(run: Run, tmp_path: Path) -> None:
    for words, says in (
        (["DROP VIEW scores"], "error: gpa query only reads, got a statement of kind DROP"),
        (["SELEC x FROM scores"], "error: SQL error at line 1, column 1: syntax error"),
        (["--memory", "much", "SELECT 1"], "error: --memory must be a size such as 4GB"),
    ):
        result = asked(run, *words)
        assert (result.exit_code, result.stdout) == (1, "")
        assert result.stderr.startswith(says)
        assert len(result.stderr.splitlines()) == 1
    missing = CliRunner().invoke(cli, ["query", str(tmp_path / "none"), "SELECT 1"])
    assert (missing.exit_code, "there is no run at" in missing.stderr) == (1, True)
