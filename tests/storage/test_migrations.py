"""Shards of an older schema version read as today's; those of a newer one say which gpa reads them."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from storage.errors import UserError
from storage.mining.rules import PairRules
from storage.pairs.dataset import PairDataset
from storage.pairs.writer import write_pair_shards
from storage.run import Run
from storage.sql.views import fetch, session
from storage.tables import versions as migrations
from storage.tables.schemas import SCHEMA_VERSION, TABLE_KEY, TABLES, VERSION_KEY, WRITER_KEY, open_shard
from storage.tables.shards import read_rows, shard_files, write_shard
from storage.tables.versions import ColumnRule, sources
from tests.storage.builders import candidate, run_with_pairs, score
from tests.storage.mined import mine_pairs

# A version 0 that never was: other names, another type, a column that came with a value of its own, and one
# that came with the value of nothing.
RULES = {
    0: {
        "scores": (
            ColumnRule(column="reward", was="metric"),
            ColumnRule(column="motion", was="motion"),
            ColumnRule(column="reward_version", fill="v1"),
            ColumnRule(column="geometry_license", was="geometry_license", fill="unknown"),
        ),
        "pairs": (ColumnRule(column="winner_latents", was="good"), ColumnRule(column="split", was="part")),
    }
}


@pytest.fixture
def version_0(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(migrations, "RULES", RULES)


def stamp(table: str, version: int, writer: str = "9.1") -> dict[bytes, bytes]:
    return {TABLE_KEY: table.encode(), VERSION_KEY: str(version).encode(), WRITER_KEY: writer.encode()}


def write_old_scores(directory: Path, ids: list[str], version: int = 0) -> Path:
    """A shard as version 0 would have written it."""
    directory.mkdir(parents=True, exist_ok=True)
    rows = pa.table(
        {
            "candidate_id": ids,
            "metric": ["reprojection"] * len(ids),
            "value": [-0.5 - number for number in range(len(ids))],
            "motion": pa.array([7] * len(ids), pa.int32()),
            "geometry_license": pa.array([None] * len(ids), pa.string()),
            **{
                name: pa.nulls(len(ids), TABLES["scores"].field(name).type)
                for name in TABLES["scores"].names
                if name
                not in ("candidate_id", "reward", "value", "motion", "reward_version", "geometry_license")
            },
        }
    ).replace_schema_metadata(stamp("scores", version))
    path = directory / f"old{version}.parquet"
    pq.write_table(rows, path)
    return path


@pytest.mark.usefixtures("version_0")
def test_old_and_new_shards_read_as_one_table(tmp_path: Path) -> None:
    run = Run.create_or_open(tmp_path / "run")
    write_old_scores(run.shard_dir("scores"), ["a", "b"])
    write_shard(run.shard_dir("scores"), "scores", [score("c", -0.1)])
    rows = {row["candidate_id"]: row for row in run.rows("scores").to_pylist()}
    assert set(rows) == {"a", "b", "c"}
    assert {row["reward"] for row in rows.values()} == {"reprojection"}
    assert {row["reward_version"] for row in rows.values()} == {"v1"}
    assert rows["b"]["value"] == -1.5
    assert (rows["a"]["motion"], type(rows["a"]["motion"])) == (7.0, float)
    assert (rows["a"]["geometry_license"], rows["c"]["geometry_license"]) == ("unknown", None)
    with session(run, "scores") as connection:
        found = fetch(connection, "SELECT candidate_id, value, motion, reward_version FROM scores ORDER BY 1")
    assert found == [("a", -0.5, 7.0, "v1"), ("b", -1.5, 7.0, "v1"), ("c", -0.1, 0.5, "v1")]


@pytest.mark.usefixtures("version_0")
def test_pairs_are_mined_from_old_scores(tmp_path: Path) -> None:
    run = Run.create_or_open(tmp_path / "run")
    made = run_with_pairs(tmp_path / "made", prompts=1)
    for table in ("prompts", "candidates"):
        write_shard(run.shard_dir(table), table, made.rows(table))
    write_old_scores(run.shard_dir("scores"), ["p000-c0", "p000-c1"])
    mined = mine_pairs(run, PairRules(reward="reprojection", reward_version="v1"))
    assert mined.rows.select(["winner_id", "loser_id", "winner_motion"]).to_pylist() == [
        {"winner_id": "p000-c0", "loser_id": "p000-c1", "winner_motion": 7.0}
    ]


@pytest.mark.usefixtures("version_0")
def test_a_training_reads_old_pair_shards(tmp_path: Path) -> None:
    run = run_with_pairs(tmp_path / "run", prompts=2)
    rows = mine_pairs(run, PairRules(reward="reprojection", reward_version="v1")).rows
    (path,) = write_pair_shards(run, rows)
    today = [row.winner_latents for row in PairDataset(run.shard_dir("pairs"))]
    table = pq.read_table(path)
    names = {"winner_latents": "good", "split": "part"}
    old = table.rename_columns([names.get(name, name) for name in table.column_names])
    pq.write_table(old.replace_schema_metadata(stamp("pairs", 0)), path, row_group_size=1)
    dataset = PairDataset(run.shard_dir("pairs"))
    for _ in range(2):  # the second read of a pair takes another way than the first
        assert all(row.winner_latents.equal(tensor) for row, tensor in zip(dataset, today, strict=True))
    assert {row.split for row in dataset} == {"train"} | {row.split for row in dataset}
    batches = list(open_shard(path, "pairs").iter_batches(columns=["pair_id", "split"]))
    assert batches[0].schema.names == ["pair_id", "split"]


def test_a_version_without_rules_is_refused(tmp_path: Path) -> None:
    path = write_old_scores(tmp_path, ["a"])
    with pytest.raises(
        UserError, match=f"{path} has schema version 0, this gpa reads version 1: use the gpa"
    ):
        read_rows(tmp_path, "scores")


@pytest.mark.usefixtures("version_0")
def test_a_newer_version_names_the_gpa_that_reads_it(tmp_path: Path) -> None:
    path = write_old_scores(tmp_path, ["a"], version=SCHEMA_VERSION + 1)
    message = (
        f"{path} has schema version {SCHEMA_VERSION + 1}, this gpa reads versions 0 to {SCHEMA_VERSION}: "
        r"use the gpa that wrote the run \(9.1\) or a newer one: "
        "pip install -U 'geometric-preference-alignment>=9.1'"
    )
    with pytest.raises(UserError, match=message):
        read_rows(tmp_path, "scores")


@pytest.mark.usefixtures("version_0")
def test_an_old_shard_is_checked_like_a_new_one(tmp_path: Path) -> None:
    path = write_old_scores(tmp_path, ["a"])
    table = pq.read_table(path)
    pq.write_table(table.drop_columns(["metric"]), path)
    with pytest.raises(UserError, match=f"{path} has no column 'reward'"):
        read_rows(tmp_path, "scores")
    pq.write_table(table.set_column(2, "value", table["value"].cast(pa.string())), path)
    with pytest.raises(UserError, match="column 'value' of type string, expected double"):
        read_rows(tmp_path, "scores")


def test_every_shard_says_which_gpa_wrote_it(tmp_path: Path) -> None:
    from storage.tables.versions import gpa_version

    path = write_shard(tmp_path, "candidates", [candidate()])
    assert pq.read_metadata(path).metadata[WRITER_KEY].decode() == gpa_version()
    assert shard_files(tmp_path) == [path]


STEPS = st.lists(
    st.lists(
        st.tuples(
            st.sampled_from(["a", "b", "c"]),
            st.none() | st.sampled_from(["a", "b", "c", "d"]),
            st.none() | st.integers(0, 9),
        ),
        max_size=3,
        unique_by=(lambda rule: rule[0], lambda rule: rule[1]),
    ),
    max_size=4,
)


@given(STEPS)
@settings(max_examples=200, deadline=None)
def test_rules_of_many_versions_are_those_of_each_after_the_other(
    steps: list[list[tuple[str, str | None, int | None]]],
) -> None:
    rules = {
        number: {"t": tuple(ColumnRule(column=column, was=was, fill=fill) for column, was, fill in step)}
        for number, step in enumerate(steps)
    }
    row: dict[str, int | None] = {"a": 10, "b": 11, "c": None, "d": 13}
    expected = dict(row)
    for step in steps:
        changed = {
            column: fill if was is None or expected.get(was) is None else expected[was]
            for column, was, fill in step
        }
        expected = expected | changed
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(migrations, "RULES", rules)
        found = sources("t", 0, len(steps), ["a", "b", "c"])
    for name, source in found.items():
        held = None if source.column is None else row.get(source.column)
        assert (source.fill if held is None else held) == expected[name]
