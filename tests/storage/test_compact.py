"""Fewer shards, the same answers: whatever was written, whoever reads meanwhile, wherever it stops."""

from __future__ import annotations

import os
import random
import threading
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.pairing import run_pair
from storage.errors import UserError
from storage.mining.rules import PairRules, PairSettings
from storage.pairs.dataset import PairDataset
from storage.run import Run
from storage.sql.views import fetch, session
from storage.tables.records import Record, Reject
from storage.tables.schemas import KEYS, TABLES
from storage.tables.shards import shard_files, write_shard
from storage.upkeep.compact import Compacted, compact_table
from tests.storage.builders import candidate, prompt, run_with_pairs, score
from tests.storage.mined import mine_pairs

RULES = PairRules(reward="reprojection", reward_version="v1", min_gap=0.0)
QUESTIONS = (
    *(f"SELECT * FROM {table} ORDER BY ALL" for table in ("prompts", "candidates", "scores", "rejects")),
    "SELECT c.status, s.value, p.split FROM candidates c LEFT JOIN scores s USING (candidate_id) "
    "LEFT JOIN prompts p USING (prompt_id) ORDER BY ALL",
)


def answers(run: Run) -> list[Any]:
    """What SQL and what Arrow say is in the tables."""
    with session(run, "prompts", "candidates", "scores", "rejects") as connection:
        found: list[Any] = [fetch(connection, question) for question in QUESTIONS]
    for table in ("prompts", "candidates", "scores", "rejects"):
        keys = [(key, "ascending") for key in KEYS[table]]
        found.append(run.rows(table).sort_by(keys).to_pylist())
    return found


def mined(run: Run) -> list[Any]:
    found = mine_pairs(run, RULES)
    return [found.rows.to_pylist(), found.funnel, found.rejects]


def contents(run: Run) -> dict[str, tuple[bytes, int]]:
    return {
        f"{table}/{path.name}": (path.read_bytes(), path.stat().st_mtime_ns)
        for table in TABLES
        for path in shard_files(run.shard_dir(table))
    }


def compact(run: Run, **changes: Any) -> dict[str, Compacted]:
    return {table: compact_table(run, table, **changes) for table in TABLES}


@st.composite
def written(draw: st.DrawFn) -> list[tuple[str, list[Record]]]:
    """Shards as racing processes leave them: rows of one key more than once, and not always alike."""
    names = [f"p{number}" for number in range(draw(st.integers(1, 3)))]
    ids = [(f"{name}-c{number}", name) for name in names for number in range(draw(st.integers(1, 4)))]
    writes: list[tuple[str, list[Record]]] = [("prompts", [prompt(name)]) for name in names]
    writes.append(("prompts", [prompt(names[0], text="another text")]))
    for identity, name in draw(st.lists(st.sampled_from(ids), max_size=12)) + ids:
        status = draw(st.sampled_from(["ok", "ok", "failed"]))
        writes.append(
            ("candidates", [candidate(identity, name, status=status, seconds=draw(st.floats(0, 9)))])
        )
    for identity, _ in draw(st.lists(st.sampled_from(ids), max_size=12)) + ids:
        value = draw(st.none() | st.sampled_from([-0.05 * step for step in range(9)]))
        frames = draw(st.integers(0, 2))
        more = {"frame_indices": list(range(frames)), "w2c": [0.5] * 12 * frames}
        writes.append(("scores", [score(identity, value, **more)]))
    rules = st.sampled_from([("pair", "static"), ("sample", "quarantined")])
    for stage, rule in draw(st.lists(rules, max_size=5)):
        writes.append(("rejects", [Reject(stage=stage, id=draw(st.sampled_from(names)), rule=rule)]))
    return draw(st.permutations(writes))


@settings(max_examples=10, deadline=None)
@given(written(), st.integers(1, 7))
def test_no_answer_changes(
    tmp_path_factory: pytest.TempPathFactory, writes: list[tuple[str, list[Record]]], per_shard: int
) -> None:
    run = Run.create_or_open(tmp_path_factory.mktemp("run") / "run")
    for table, records in writes:
        write_shard(run.shard_dir(table), table, records)
    before = answers(run), mined(run)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("storage.upkeep.compact.ROWS_PER_SHARD", per_shard)
        patch.setattr("storage.tables.shards.write_shards.__defaults__", (per_shard,))
        planned = compact(run, write=False)
        found = compact(run)
        assert (answers(run), mined(run)) == before
        for table in ("prompts", "candidates", "scores"):
            files = shard_files(run.shard_dir(table))
            fewest = -(-run.rows(table).num_rows // per_shard)
            assert fewest <= len(files) == found[table].after <= max(planned[table].after, 1)
        rejects = shard_files(run.shard_dir("rejects"))
        stages = [set(pq.read_table(path)["stage"].to_pylist()) for path in rejects]
        assert all(len(stage) == 1 for stage in stages)
        settled = contents(run)
        compact(run)
        assert {name: data for name, (data, _) in contents(run).items()} == {
            name: data for name, (data, _) in settled.items()
        }
    assert not list(run.path.rglob("*.tmp"))


def many_shards(path: Path, count: int = 12) -> Run:
    run = Run.create_or_open(path)
    for number in range(count):
        name = f"p{number % 4}"
        write_shard(run.shard_dir("prompts"), "prompts", [prompt(name)])
        write_shard(run.shard_dir("candidates"), "candidates", [candidate(f"c{number}", name)])
        write_shard(run.shard_dir("candidates"), "candidates", [candidate(f"c{number}", name, seed=8)])
        write_shard(run.shard_dir("scores"), "scores", [score(f"c{number}", -0.01 * number)])
    return run


class Stopped(BaseException):
    """A process that ends here."""


def stopping(steps: list[int], plain: Callable[..., Any]) -> Callable[..., Any]:
    def call(*given: Any, **named: Any) -> Any:
        steps[0] -= 1
        if steps[0] < 0:
            raise Stopped
        return plain(*given, **named)

    return call


def test_it_may_stop_anywhere(tmp_path: Path) -> None:
    names = []
    for steps in range(0, 40, 3):
        run = many_shards(tmp_path / f"run{steps}", 4)
        before = answers(run)
        left = [steps]
        with pytest.MonkeyPatch.context() as patch, suppress(Stopped):
            patch.setattr("storage.atomic.os.fsync", stopping(left, os.fsync))
            patch.setattr("storage.atomic.os.replace", stopping(left, os.replace))
            patch.setattr(Path, "unlink", stopping(left, Path.unlink))
            compact_table(run, "candidates")
            compact_table(run, "scores")
            names.append(steps)
        assert answers(run) == before
        compact_table(run, "candidates")
        compact_table(run, "scores")
        assert answers(run) == before
        names.append(tuple(path.name for path in shard_files(run.shard_dir("candidates"))))
    # The last ones were not stopped, the first ones were, and all ended in the same shard.
    assert names[0] != 0
    assert 39 in names
    assert len({name for name in names if isinstance(name, tuple)}) == 1


def test_readers_see_every_row_once_meanwhile(tmp_path: Path) -> None:
    run = many_shards(tmp_path / "run", 12)
    expected = answers(run)
    wrong: list[Any] = []
    done = threading.Event()

    def read() -> None:
        try:
            while not done.wait(0.05):
                if answers(run) != expected:
                    wrong.append("another answer")
        except Exception as error:
            wrong.append(error)
            raise

    readers = [threading.Thread(target=read) for _ in range(2)]
    for reader in readers:
        reader.start()
    for table in TABLES:
        compact_table(run, table, wait=30.0)
    done.set()
    for reader in readers:
        reader.join()
    assert wrong == []
    assert len(shard_files(run.shard_dir("candidates"))) == 1


def paired(path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    """A run whose pairs are in shards of 4, in groups of 2."""
    run = run_with_pairs(path, 14)
    monkeypatch.setattr("storage.pairs.writer.ROWS_PER_SHARD", 4)
    monkeypatch.setattr("storage.pairs.writer.ROWS_PER_GROUP", 2)
    run_pair(run, PairSettings(rules=PairRules(min_gap=0.0)))
    return run


def test_pairs_keep_their_tensors_and_their_small_groups(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = paired(tmp_path / "run", monkeypatch)
    rows = list(PairDataset(run.shard_dir("pairs")))
    index = run.rows("pairs").sort_by("pair_id")
    found = compact_table(run, "pairs")
    assert (found.before, found.after, found.rows) == (4, 1, 14)
    (path,) = shard_files(run.shard_dir("pairs"))
    shard = pq.read_metadata(path)
    assert [shard.row_group(number).num_rows for number in range(shard.num_row_groups)] == [2] * 7
    dataset = PairDataset(run.shard_dir("pairs"))
    for _ in range(2):
        for old, new in zip(rows, dataset, strict=True):
            assert old.pair_id == new.pair_id
            assert torch.equal(old.winner_latents, new.winner_latents)
            assert torch.equal(old.loser_latents, new.loser_latents)
            assert torch.equal(old.prompt_embeds, new.prompt_embeds)
    assert run.rows("pairs").sort_by("pair_id").equals(index)
    # Neither compacting nor pairing again has anything to do.
    stamp = path.stat().st_mtime_ns
    compact_table(run, "pairs")
    assert run_pair(run, PairSettings(rules=PairRules(min_gap=0.0))).changed is False
    assert [path] == shard_files(run.shard_dir("pairs"))
    assert path.stat().st_mtime_ns == stamp
    assert run_pair(run, PairSettings(rules=PairRules(min_gap=0.0, split="train"))).changed is True


def test_an_index_in_small_shards_becomes_what_pairing_writes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = run_with_pairs(tmp_path / "run", 14)
    run_pair(run, PairSettings(rules=PairRules(min_gap=0.0), index_only=True))
    whole = shard_files(run.shard_dir("pairs"))
    index = run.rows("pairs")
    for start in range(0, 14, 3):
        write_shard(run.shard_dir("pairs"), "pairs", index.slice(start, 3))
    whole[0].unlink()
    assert compact_table(run, "pairs").after == 1
    assert shard_files(run.shard_dir("pairs")) == whole
    assert run_pair(run, PairSettings(rules=PairRules(min_gap=0.0), index_only=True)).changed is False


def test_shards_in_use_stay_until_the_next_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = paired(tmp_path / "run", monkeypatch)
    dataset = PairDataset(run.shard_dir("pairs"))
    first = dataset.read(0)
    found = compact_table(run, "pairs", wait=0.1)
    assert (found.before, found.after, found.kept) == (4, 5, 4)
    assert [row.pair_id for row in dataset] == run.rows("pairs")["pair_id"].sort().to_pylist()
    assert torch.equal(dataset.read(0).winner_latents, first.winner_latents)
    assert len(PairDataset(run.shard_dir("pairs"))) == 14
    del dataset
    found = compact_table(run, "pairs")
    assert (found.before, found.after, found.kept) == (5, 1, 0)


def test_rejects_of_pairing_are_replaced_afterwards(tmp_path: Path) -> None:
    run = run_with_pairs(tmp_path / "run", 4)
    for number in range(3):
        reject = Reject(stage="score", id=f"c{number}", rule="lost")
        write_shard(run.shard_dir("rejects"), "rejects", [reject])
    write_shard(run.shard_dir("candidates"), "candidates", [candidate("x", "p000")])
    run_pair(run, PairSettings(rules=PairRules(min_gap=0.0)))
    assert compact_table(run, "rejects").after == 2
    assert set(run.rows("rejects")["id"].to_pylist()) == {"c0", "c1", "c2", "x"}
    write_shard(run.shard_dir("scores"), "scores", [score("x", -0.15)])
    run_pair(run, PairSettings(rules=PairRules(min_gap=0.0)))
    assert set(run.rows("rejects")["id"].to_pylist()) == {"c0", "c1", "c2"}


def test_a_bad_shard_stops_it_before_anything_goes(tmp_path: Path) -> None:
    run = many_shards(tmp_path / "run")
    path = shard_files(run.shard_dir("candidates"))[3]
    path.write_bytes(path.read_bytes()[:-9])
    before = contents(run)
    with pytest.raises(UserError, match=f"{path} is not a readable Parquet file"):
        compact_table(run, "candidates")
    assert contents(run) == before


def test_rows_that_come_meanwhile_stay(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = many_shards(tmp_path / "run")
    plain = compact_table.__globals__["write_shards"]

    def late(*given: Any, **named: Any) -> Any:
        write_shard(run.shard_dir("candidates"), "candidates", [candidate("late", "p0")])
        return plain(*given, **named)

    monkeypatch.setattr("storage.upkeep.compact.write_shards", late)
    compact_table(run, "candidates")
    assert "late" in run.rows("candidates")["candidate_id"].to_pylist()
    assert run.rows("candidates").num_rows == 13


def test_two_at_once_are_refused(tmp_path: Path) -> None:
    run = many_shards(tmp_path / "run")
    with run.lock("compact"), pytest.raises(UserError, match=r"another process .* runs compact"):
        compact_table(run, "scores")
    with run.lock("pair"), pytest.raises(UserError, match=r"another process .* runs pair"):
        compact_table(run, "pairs")


def test_the_order_of_writing_does_not_matter(tmp_path: Path) -> None:
    names = []
    for seed in range(3):
        run = Run.create_or_open(tmp_path / f"run{seed}")
        rows = [score(f"c{number}", -0.1 * number) for number in range(9)]
        random.Random(seed).shuffle(rows)
        for row in rows:
            write_shard(run.shard_dir("scores"), "scores", [row])
        compact_table(run, "scores")
        names.append([path.name for path in shard_files(run.shard_dir("scores"))])
    assert names[0] == names[1] == names[2]
    assert len(names[0]) == 1
