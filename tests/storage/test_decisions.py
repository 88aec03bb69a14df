"""What a person decided: the file, and what it does to mined pairs, against a plain account of it."""

from __future__ import annotations

import hashlib
import json
import random
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from storage.errors import UserError
from storage.mining.decisions import WORDS, read_decisions
from storage.mining.rules import DROPPED, PairRules
from storage.run import Run
from storage.tables.shards import write_shard
from tests.storage.builders import candidate, prompt, score
from tests.storage.mined import MinedPairs, mine_pairs

PROMPTS, CANDIDATES = 3, 4
RULES = PairRules(reward="reprojection", reward_version="v1", min_gap=0.15, strategy="all")


def stored(path: Path) -> Run:
    """Prompts whose candidates have falling values, .1 apart."""
    run = Run.create_or_open(path)
    names = [(f"p{p}", f"p{p}-c{c}", -0.1 * c) for p in range(PROMPTS) for c in range(CANDIDATES)]
    write_shard(run.shard_dir("prompts"), "prompts", [prompt(f"p{p}") for p in range(PROMPTS)])
    write_shard(run.shard_dir("candidates"), "candidates", [candidate(c, p) for p, c, _ in names])
    write_shard(run.shard_dir("scores"), "scores", [score(c, value) for _, c, value in names])
    return run


def entry(prompt_id: str, winner_id: str, loser_id: str, decision: str, **more: Any) -> dict[str, Any]:
    ids = {"prompt_id": prompt_id, "winner_id": winner_id, "loser_id": loser_id}
    return {**ids, "decision": decision, **more}


def written(path: Path, entries: list[dict[str, Any]], form: str = "lines") -> Path:
    lines = "\n".join(json.dumps(one) for one in entries)
    whole: Any = entries if form == "array" else {"decisions": entries}
    path.write_text(lines if form == "lines" else json.dumps(whole))
    return path


@st.composite
def decided(draw: st.DrawFn) -> list[dict[str, Any]]:
    """Decisions about different pairs, seen in either order."""
    pairs = [(p, a, b) for p in range(PROMPTS) for a in range(CANDIDATES) for b in range(a)]
    chosen = draw(st.lists(st.sampled_from(pairs), unique=True, max_size=8))
    entries = []
    for p, a, b in chosen:
        seen = (f"p{p}-c{a}", f"p{p}-c{b}")
        winner, loser = seen if draw(st.booleans()) else seen[::-1]
        entries.append(entry(f"p{p}", winner, loser, draw(st.sampled_from(WORDS))))
    return entries


def verdicts(entries: list[dict[str, Any]]) -> dict[frozenset[str], str | None]:
    """The better candidate of every decided pair; None for a dropped one."""
    named = {"keep": "winner_id", "swap": "loser_id"}
    return {
        frozenset((one["winner_id"], one["loser_id"])): one[named[one["decision"]]]
        if one["decision"] in named
        else None
        for one in entries
    }


def table(mined: MinedPairs) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = mined.rows.to_pylist()
    return rows


@settings(max_examples=25, deadline=None)
@given(decided(), st.sampled_from(["lines", "array", "object"]), st.randoms())
def test_decisions_agree_with_a_plain_account(
    tmp_path_factory: pytest.TempPathFactory,
    entries: list[dict[str, Any]],
    form: str,
    shuffler: random.Random,
) -> None:
    folder = tmp_path_factory.mktemp("run")
    run = stored(folder / "run")
    before = table(mine_pairs(run, RULES))
    found = mine_pairs(run, RULES, read_decisions(written(folder / "d.jsonl", entries, form)))
    expected, wanted = verdicts(entries), {}
    for row in before:
        pair = frozenset((row["winner_id"], row["loser_id"]))
        if pair not in expected:
            wanted[pair] = (row["winner_id"], None, row["pair_id"])
        elif expected[pair] is not None:
            word = "keep" if expected[pair] == row["winner_id"] else "swap"
            first, second = sorted(pair, key=lambda one: one != expected[pair])
            name = f"{first}|{second}|reprojection|v1|{word}"
            wanted[pair] = (first, word, hashlib.sha256(name.encode()).hexdigest()[:32])
    rows = table(found)
    got = {
        frozenset((row["winner_id"], row["loser_id"])): (row["winner_id"], row["human"], row["pair_id"])
        for row in rows
    }
    assert got == wanted
    values = {f"p{p}-c{c}": -0.1 * c for p in range(PROMPTS) for c in range(CANDIDATES)}
    for row in rows:
        assert (row["winner_value"], row["loser_value"]) == (
            values[row["winner_id"]],
            values[row["loser_id"]],
        )
        assert row["gap"] == pytest.approx(row["winner_value"] - row["loser_value"])
        assert (row["gap"] < 0) == (row["human"] == "swap")
    assert [row["pair_id"] for row in rows] == sorted(row["pair_id"] for row in rows)
    check_funnel(found, before, expected)
    # Neither the order of the entries nor their repetition matters.
    again = entries + shuffler.sample(entries, len(entries) // 2)
    shuffler.shuffle(again)
    repeated = mine_pairs(run, RULES, read_decisions(written(folder / "e.jsonl", again)))
    assert (repeated.rows, repeated.funnel) == (found.rows, found.funnel)


def check_funnel(
    found: MinedPairs, before: list[dict[str, Any]], expected: dict[frozenset[str], str | None]
) -> None:
    was = {member for row in before for member in (row["winner_id"], row["loser_id"])}
    left = {member for row in table(found) for member in (row["winner_id"], row["loser_id"])}
    step = {one.rule: one for one in found.funnel}[DROPPED]
    assert (step.candidates_lost, step.left) == (len(was - left), len(left))
    prompts = {row["prompt_id"] for row in before} - {row["prompt_id"] for row in table(found)}
    assert step.prompts_lost == len(prompts)
    assert {reject.id for reject in found.rejects if reject.rule == DROPPED} == prompts


def test_what_was_decided_is_counted(tmp_path: Path) -> None:
    from storage.mining.mining import mining

    run = stored(tmp_path / "run")
    entries = [
        entry("p0", "p0-c0", "p0-c2", "keep"),
        entry("p0", "p0-c0", "p0-c3", "swap"),
        entry("p1", "p1-c3", "p1-c0", "drop"),
        entry("p1", "p1-c0", "p1-c1", "keep"),
    ]
    with mining(run, RULES, decisions=read_decisions(written(tmp_path / "d.jsonl", entries))) as mined:
        assert mined.applied is not None
        assert mined.applied.as_dict() == {"keep": 1, "drop": 1, "swap": 1, "without_pair": 1}
    with mining(run, RULES) as mined:
        assert mined.applied is None


@pytest.mark.parametrize(
    ("one", "says"),
    [
        (entry("p9", "p0-c0", "p0-c1", "keep"), r"d.jsonl entry 2: the run holds no prompt p9: give the dec"),
        (entry("p0", "p0-c0", "c9", "keep"), r"entry 2: the run holds no candidate c9"),
        (entry("p0", "p1-c0", "p0-c1", "drop"), r"entry 2: candidate p1-c0 is of prompt p1, not of p0"),
    ],
)
def test_ids_that_the_run_does_not_hold_are_named(tmp_path: Path, one: dict[str, Any], says: str) -> None:
    run = stored(tmp_path / "run")
    path = written(tmp_path / "d.jsonl", [entry("p0", "p0-c0", "p0-c1", "keep"), one])
    with pytest.raises(UserError, match=says):
        mine_pairs(run, RULES, read_decisions(path))


GOOD = entry("p0", "a", "b", "keep")


@pytest.mark.parametrize(
    ("text", "says"),
    [
        (json.dumps(GOOD) + "\n{", r"line 2 is not JSON: give one object a line"),
        ("[1]", r"entry 1 must be an object, got 1"),
        (json.dumps([GOOD | {"decision": "love"}]), r"one of keep, drop, swap, got 'love'"),
        (json.dumps([GOOD | {"winner_id": 3}]), r"entry 1: winner_id must be an id, got 3"),
        (json.dumps([GOOD | {"prompt_id": ""}]), r"entry 1: prompt_id must be an id, got ''"),
        (json.dumps([GOOD | {"loser_id": "a"}]), r"must be two candidates, got 'a' twice"),
        (
            json.dumps([GOOD, GOOD | {"decision": "swap"}]),
            r"entries 1 and 2 decide differently about .* a and b",
        ),
        (json.dumps([GOOD, entry("p0", "b", "a", "keep")]), r"contradicts itself"),
        (json.dumps([GOOD, entry("p0", "b", "a", "drop")]), r"contradicts itself"),
        ("[" * 100_000, r"is not JSON"),
    ],
)
def test_a_bad_file_is_refused(tmp_path: Path, text: str, says: str) -> None:
    path = tmp_path / "d.jsonl"
    path.write_text(text)
    with pytest.raises(UserError, match=says):
        read_decisions(path)


def test_keep_seen_the_other_way_round_is_a_swap_and_files_may_be_empty(tmp_path: Path) -> None:
    same = [GOOD, entry("p0", "b", "a", "swap", note="</script>")]
    held = read_decisions(written(tmp_path / "d.jsonl", same))
    assert [(row["better_id"], row["worse_id"]) for row in held.table.to_pylist()] == [("a", "b")]
    (tmp_path / "empty.jsonl").write_text("\n")
    assert read_decisions(tmp_path / "empty.jsonl").table.num_rows == 0
    (tmp_path / "latin").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(UserError, match="is not UTF-8"):
        read_decisions(tmp_path / "latin")
    with pytest.raises(UserError, match="cannot be read"):
        read_decisions(tmp_path / "gone")
