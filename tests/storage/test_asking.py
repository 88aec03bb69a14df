"""Questions in SQL: they see every row once, and neither write nor read anything outside of the shards."""

from __future__ import annotations

import hashlib
import os
import tempfile
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from storage.errors import UserError
from storage.mining.rules import PairRules
from storage.pairs.writer import write_pair_shards
from storage.run import Run
from storage.sql.evaluations import VIEWS
from storage.sql.sql_query import asked
from storage.sql.views import Limits
from storage.tables.schemas import TABLES
from storage.tables.shards import shard_files, write_shard
from tests.storage.builders import candidate, run_with_pairs
from tests.storage.mined import mine_pairs

SECRET = "c4f1e6-secret"
READING = [
    "SELECT * FROM '{outside}/secret.txt'",
    "SELECT * FROM '{outside}/secret.parquet'",
    'SELECT * FROM "{outside}/secret.csv"',
    "FROM read_csv('{outside}/secret.csv')",
    "FROM read_csv_auto('{outside}/secret.csv')",
    "FROM sniff_csv('{outside}/secret.csv')",
    "FROM read_text('{outside}/secret.txt')",
    "FROM read_text('{run}/run.yaml')",
    "FROM read_text('{run}/prompts/../../outside/secret.txt')",
    "FROM read_text('{run}/prompts/link.txt')",
    "FROM read_blob(['{shard}', '{outside}/secret.txt'])",
    "FROM read_parquet('{outside}/secret.parquet')",
    "FROM read_parquet(['{shard}', '{outside}/secret.parquet'], union_by_name=true)",
    "FROM parquet_metadata('{outside}/secret.parquet')",
    "FROM parquet_schema('{outside}/secret.parquet')",
    "FROM parquet_kv_metadata('{outside}/secret.parquet')",
    "FROM read_json('{outside}/secret.json')",
    "FROM read_ndjson_objects('{outside}/secret.json')",
    "FROM read_duckdb('{outside}/secret.duckdb', table_name='secret')",
    "FROM glob('{outside}/*')",
    "FROM glob('{run}/*')",
    "FROM read_text('/proc/self/environ')",
    "FROM read_text('/etc/passwd')",
    "FROM read_csv('/dev/stdin')",
    "FROM 'https://example.com/secret.csv'",
    "FROM read_text('s3://bucket/secret.txt')",
    "SELECT getenv('GPA_SECRET')",
    "FROM query('FROM read_text(''{outside}/secret.txt'')')",
    "FROM query_table('{outside}/secret.parquet')",
    "FROM json_execute_serialized_sql(json_serialize_sql('FROM read_text(''{outside}/secret.txt'')'))",
    "SELECT (SELECT content FROM read_text('{outside}/secret.txt')) FROM prompts",
    "WITH x AS MATERIALIZED (FROM read_text('{outside}/secret.txt')) FROM x",
    "EXPLAIN ANALYZE FROM read_text('{outside}/secret.txt')",
    "DESCRIBE FROM read_csv('{outside}/secret.csv')",
    "SUMMARIZE FROM read_csv('{outside}/secret.csv')",
    "SELECT * FROM hidden",
    "FROM python_arrow_scan(1, 2, 3)",
    "FROM arrow_scan(1, 2, 3)",
    "FROM pandas_scan(1)",
]
WRITING = [
    "COPY prompts TO '{outside}/new.csv'",
    "COPY (SELECT 1) TO '{shard}'",
    "COPY prompts FROM '{outside}/secret.csv'",
    "EXPLAIN ANALYZE COPY (SELECT 1 AS x) TO '{shard}'",
    "EXPLAIN ANALYZE /* c */ COPY (SELECT 1 AS x) TO '{outside}/new.parquet'",
    "EXPLAIN (ANALYZE) COPY (SELECT 1 AS x) TO '{shard}'",
    "explain -- c\nanalyze copy (SELECT 1 AS x) TO '{shard}'",
    "EXPLAIN ANALYZE CREATE TABLE x AS SELECT 1",
    "EXPORT DATABASE '{outside}/export'",
    "IMPORT DATABASE '{outside}/export'",
    "ATTACH '{outside}/new.duckdb' AS other",
    "ATTACH ':memory:' AS other",
    "FROM query('COPY (SELECT 1) TO ''{shard}''')",
    "FROM query('EXPLAIN ANALYZE COPY (SELECT 1) TO ''{shard}''')",
    "SELECT 1; COPY (SELECT 1) TO '{shard}'",
    "COPY (SELECT 1) TO '{shard}'; SELECT 1",
    "WITH x AS (INSERT INTO shards.prompts SELECT * FROM shards.prompts RETURNING 1) FROM x",
    "INSERT INTO prompts SELECT * FROM prompts",
    "DELETE FROM prompts",
    "UPDATE prompts SET text = ''",
    "TRUNCATE prompts",
    "MERGE INTO prompts USING scores ON true WHEN MATCHED THEN DELETE",
    "CREATE TABLE x AS SELECT 1",
    "CREATE TEMP TABLE x AS SELECT 1",
    "CREATE OR REPLACE VIEW prompts AS SELECT 1",
    "CREATE MACRO f() AS 1",
    "CREATE PERSISTENT SECRET s (TYPE s3)",
    "DROP VIEW prompts",
    "ALTER VIEW prompts RENAME TO x",
    "COMMENT ON VIEW prompts IS 'x'",
    "INSTALL httpfs",
    "LOAD httpfs",
    "LOAD '{outside}/evil.duckdb_extension'",
    "SET enable_external_access = true",
    "RESET enable_external_access",
    "SET allowed_directories = ['/']",
    "SET lock_configuration = false",
    "SET VARIABLE x = 1",
    "SET log_query_path = '{outside}/new.log'",
    "USE memory",
    "PRAGMA enable_profiling",
    "PRAGMA profiling_output = '{outside}/new.json'",
    "PRAGMA enable_checkpoint_on_shutdown",
    "FROM enable_profiling(save_location = '{outside}/new.json')",
    "FROM enable_logging('QueryLog', storage = 'file', storage_path = '{outside}/log')",
    "CALL enable_logging('QueryLog', storage = 'file', storage_path = '{outside}/log')",
    "CALL pragma_version()",
    "CHECKPOINT",
    "VACUUM",
    "BEGIN",
    "COMMIT",
    "PREPARE p AS COPY (SELECT 1) TO '{shard}'",
    "EXECUTE p",
    "DETACH memory",
]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    base = tmp_path_factory.mktemp("asked")
    run = run_with_pairs(base / "run", 3)
    write_pair_shards(run, mine_pairs(run, PairRules(reward="reprojection", reward_version="v1")).rows)
    outside = base / "outside"
    outside.mkdir()
    for name in ("secret.txt", "secret.csv"):
        (outside / name).write_text(f"secret\n{SECRET}\n")
    (outside / "secret.json").write_text(f'{{"secret": "{SECRET}"}}')
    pq.write_table(pa.table({"secret": [SECRET]}), outside / "secret.parquet")
    with duckdb.connect(str(outside / "secret.duckdb")) as connection:
        connection.execute(f"CREATE TABLE secret AS SELECT '{SECRET}' AS secret")
    (run.shard_dir("prompts") / "link.txt").symlink_to(outside / "secret.txt")
    return run


def everything_below(directory: Path) -> dict[str, str]:
    return {
        str(path): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(directory.rglob("*"))
        if path.is_file()
    }


def rows(run: Run, sql: str) -> list[tuple[Any, ...]]:
    with asked(run, sql) as answer:
        return list(answer.rows)


@pytest.mark.parametrize("attack", READING + WRITING)
def test_an_attack_is_refused_and_changes_nothing(
    run: Run, attack: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    hidden = pa.table({"secret": [SECRET]})
    monkeypatch.setenv("GPA_SECRET", SECRET)
    monkeypatch.chdir(run.path.parent / "outside")
    places = {"run": run.path, "outside": run.path.parent / "outside"}
    sql = attack.format(**places, shard=shard_files(run.shard_dir("prompts"))[0])
    before = everything_below(run.path.parent)
    with pytest.raises(UserError) as refused:
        rows(run, sql)
    assert SECRET not in str(refused.value)
    assert "\n" not in str(refused.value)
    assert everything_below(run.path.parent) == before
    assert hidden.num_rows == 1


def test_questions_are_answered(run: Run) -> None:
    assert rows(run, "SELECT count(*) FROM candidates") == [(6,)]
    assert rows(run, "from scores select max(value);") == [(-0.1,)]
    assert rows(run, "WITH a AS (SELECT prompt_id FROM pairs) SELECT count(*) FROM a") == [(3,)]
    assert [row[0] for row in rows(run, "DESCRIBE pairs")] == TABLES["pairs"].names
    assert [row[0] for row in rows(run, "SHOW TABLES")] == sorted(VIEWS)
    assert len(rows(run, "SUMMARIZE scores")) == len(TABLES["scores"])
    assert rows(run, "EXPLAIN SELECT count(*) FROM scores")[0][0] == "physical_plan"
    assert "Total Time" in rows(run, "explain /* c */ analyze SELECT count(*) FROM scores")[0][1]
    assert rows(run, "PIVOT prompts ON split IN (nowhere) USING count(*) GROUP BY scene_id")[0][1] == 0
    assert rows(run, "SELECT * FROM rejects") == []
    # Neither secrets of DuckDB's own folder nor files that it spilled into are to be seen.
    assert rows(run, "FROM duckdb_secrets()") == rows(run, "FROM duckdb_temporary_files()") == []


def test_every_row_is_counted_once(run: Run, tmp_path: Path) -> None:
    doubled = run_with_pairs(tmp_path / "run", 2)
    write_shard(doubled.shard_dir("candidates"), "candidates", [candidate("p000-c0", "p000", seconds=9.0)])
    failed = candidate("p001-c1", "p001", status="failed")
    write_shard(doubled.shard_dir("candidates"), "candidates", [failed])
    sql = "SELECT count(*), count(DISTINCT candidate_id), count(*) FILTER (status = 'ok') FROM candidates"
    assert rows(doubled, sql) == [(4, 4, 4)]


@pytest.mark.parametrize(
    ("sql", "says"),
    [
        ("SELECT foo\nFROM scores\n  WHERE éx > 1", "SQL error at line 3, column 9: Referenced column"),
        ("\n-- a comment\n SELECT x FROM scores", "SQL error at line 3, column 9: Referenced column"),
        ("SELEC 1", "SQL error at line 1, column 1: syntax error"),
        ("SELECT * FROM score", 'at line 1, column 15: Table with name score .*Did you mean "scores"'),
        ("EXPLAIN\nSELEC 1", "SQL error at line 2, column 1: syntax error"),
        ("SELECT 'a'::INT", "SQL error at line 1, column 11: Could not convert"),
        ("", "got 0 SQL statements: give one statement of SELECT"),
        ("SELECT 1; SELECT 2", "got 2 SQL statements: give one statement"),
        ("SELECT $x, $y", r"the statement has parameters \(\$x, \$y\): write their values into it"),
        ("DROP VIEW scores", "only reads, got a statement of kind DROP: give one statement of SELECT"),
    ],
)
def test_a_wrong_statement_says_where(run: Run, sql: str, says: str) -> None:
    with pytest.raises(UserError, match=says):
        rows(run, sql)


def test_limits_hold_and_bad_ones_are_named(run: Run) -> None:
    sql = "SELECT count(*), current_setting('threads') FROM (FROM range(3000000) t(i) ORDER BY hash(i))"
    place = tempfile.gettempdir()
    before = set(os.listdir(place))
    with asked(run, sql, Limits(memory="60MB", threads=1)) as answer:
        assert list(answer.rows) == [(3_000_000, 1)]
    assert not {name for name in set(os.listdir(place)) - before if name.startswith("gpa-duckdb")}
    big = "SELECT length(string_agg(repeat('x', 1000), '')) FROM range(200000)"
    with (
        pytest.raises(UserError, match="give it more memory, or ask for less"),
        asked(run, big, Limits(memory="60MB")) as answer,
    ):
        list(answer.rows)
    with pytest.raises(UserError, match="memory must be a size such as 4GB or 500MB, got 'much': correct it"):
        rows_with(run, Limits(memory="much"))
    with pytest.raises(UserError, match="threads must be at least 1, got 0"):
        rows_with(run, Limits(threads=0))


def rows_with(run: Run, limits: Limits) -> None:
    with asked(run, "SELECT 1", limits):
        pass


def test_a_damaged_shard_is_named(tmp_path: Path) -> None:
    run = run_with_pairs(tmp_path / "run", 40)
    path = shard_files(run.shard_dir("scores"))[0]
    data = bytearray(path.read_bytes())
    data[4 : len(data) // 3] = bytes(byte ^ 0xFF for byte in data[4 : len(data) // 3])
    path.write_bytes(bytes(data))
    with pytest.raises(UserError, match=f"{path} is not a readable Parquet file"):
        rows(run, "SELECT max(candidate_id) FROM scores")
