from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import torch

from pipeline.pairing import run_pair
from storage.errors import UserError
from storage.media.tensors import read_tensors
from storage.mining.rules import PairRules, PairSettings
from storage.pairs.dataset import PairDataset
from storage.run import Run
from storage.sql.views import fetch, session
from storage.tables.ids import split_of
from storage.tables.shards import write_shard
from tests.storage.builders import candidate, prompt, run_with_pairs, score

PROMPTS = 6


def settings(**changes: Any) -> PairSettings:
    rules = {name: changes.pop(name) for name in set(changes) & set(PairRules.__dataclass_fields__)}
    return PairSettings(rules=PairRules(**{"min_gap": 0.0, **rules}), **changes)


def contents(directory: Path) -> dict[str, tuple[bytes, int]]:
    return {path.name: (path.read_bytes(), path.stat().st_mtime_ns) for path in directory.glob("*.parquet")}


def scored_run(path: Path, *values: float | None, **changes: Any) -> Run:
    """One prompt whose candidates have these values."""
    run = Run.create_or_open(path)
    write_shard(run.shard_dir("prompts"), "prompts", [prompt("p0")])
    names = [f"c{number}" for number in range(len(values))]
    write_shard(run.shard_dir("candidates"), "candidates", [candidate(name, "p0") for name in names])
    rows = [score(name, value, **changes) for name, value in zip(names, values, strict=True)]
    write_shard(run.shard_dir("scores"), "scores", rows)
    return run


def test_pairs_carry_their_tensors_and_the_funnel_adds_up(tmp_path: Path) -> None:
    run = run_with_pairs(tmp_path / "run", PROMPTS)
    result = run_pair(run, settings())
    assert (result.pairs, result.prompts, result.changed) == (PROMPTS, PROMPTS, True)
    assert result.directory == run.path / "pairs"
    assert result.funnel[0].left == 2 * PROMPTS
    dataset = PairDataset(result.directory)
    assert len(dataset) == PROMPTS
    assert dataset.read(0).winner_latents.shape == (2, 4, 6, 6)


def test_the_same_settings_change_nothing_and_others_replace(tmp_path: Path) -> None:
    run = run_with_pairs(tmp_path / "run", PROMPTS, 4)
    run_pair(run, settings())
    before = contents(run.shard_dir("pairs"))
    assert run_pair(run, settings()).changed is False
    assert contents(run.shard_dir("pairs")) == before
    other = run_pair(run, settings(strategy="top-k", top_k=2))
    assert (other.changed, other.pairs) == (True, 4 * PROMPTS)
    assert len(PairDataset(other.directory)) == 4 * PROMPTS


def test_out_goes_elsewhere_and_spares_foreign_files(tmp_path: Path) -> None:
    run = run_with_pairs(tmp_path / "run", PROMPTS)
    result = run_pair(run, settings(out=tmp_path / "elsewhere", index_only=True))
    assert result.directory == tmp_path / "elsewhere"
    assert not (run.path / "pairs").exists()
    with pytest.raises(UserError, match=r"\.parquet"):
        run_pair(run, settings(out=run.path / "candidates"))
    assert run.rows("candidates").num_rows == 2 * PROMPTS


def test_a_dry_run_writes_nothing(tmp_path: Path) -> None:
    run = run_with_pairs(tmp_path / "run", PROMPTS)
    assert run_pair(run, settings(), write=False).pairs == PROMPTS
    assert not (run.path / "pairs").exists()


def test_rejects_are_those_of_the_last_selection(tmp_path: Path) -> None:
    run = run_with_pairs(tmp_path / "run", PROMPTS)
    extra = [candidate("static", "p000")]
    write_shard(run.shard_dir("candidates"), "candidates", extra)
    write_shard(run.shard_dir("scores"), "scores", [score("static", -0.9, motion=0.0)])
    run_pair(run, settings(min_motion=0.1))
    assert [(row["id"], row["rule"]) for row in run.rows("rejects").to_pylist()] == [("static", "static")]
    run_pair(run, settings(index_only=True))
    assert run.rows("rejects").num_rows == 0


def test_the_split_chooses_prompts(tmp_path: Path) -> None:
    run = run_with_pairs(tmp_path / "run", 20)
    train = sum(split_of(f"scene-p{number:03}") == "train" for number in range(20))
    assert run_pair(run, settings(split="train")).pairs == train < 20


def test_several_versions_must_be_chosen_from(tmp_path: Path) -> None:
    run = run_with_pairs(tmp_path / "run", 2)
    write_shard(run.shard_dir("scores"), "scores", [score("p000-c0", -0.1, reward_version="v2")])
    message = r"several versions of reward 'reprojection': give reward_version, of v1 \(4 scores\), v2 \(1"
    with pytest.raises(UserError, match=message):
        run_pair(run, settings())
    assert run_pair(run, settings(reward_version="v1")).pairs == 2


@pytest.mark.parametrize(
    ("values", "changes", "message"),
    [
        ((-0.1, -0.13), {"min_gap": 0.5}, r"lost 1 to min-gap: the largest gap is 0\.03, min_gap is 0\.5"),
        ((-0.1, -0.1), {}, "lost 1 to min-gap: all candidates of a prompt score the same"),
        ((-0.1, None), {}, "1 to fewer-than-two; a prompt needs two scorable candidates: sample more"),
        ((None, None), {}, "1 to unscorable; a prompt needs two scorable .*see the reason column"),
        ((-0.1, -0.5), {"min_motion": 2.0}, "1 to static.*lower min_motion"),
        ((-0.3, -0.5), {"max_error": 0.1}, "1 to max-error: raise max_error"),
        ((-0.1, -0.5), {"split": "val"}, "holds no candidates of split val; .*choose another `split`"),
    ],
)
def test_no_pair_says_which_rule_took_them(
    tmp_path: Path, values: tuple[float | None, ...], changes: dict[str, Any], message: str
) -> None:
    run = scored_run(tmp_path / "run", *values)
    with pytest.raises(UserError, match=message):
        run_pair(run, settings(**changes))


def test_a_run_without_scores_says_so(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="has no scores of reward 'reprojection': run `gpa score"):
        run_pair(Run.create_or_open(tmp_path / "run"), settings())


def test_bad_rules_are_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"min_gap must be finite and >= 0"):
        run_pair(run_with_pairs(tmp_path / "run", 1), settings(min_gap=-1.0))


def test_pairing_keeps_the_rejects_that_a_scoring_writes_meanwhile(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from pipeline import pairing as pair
    from storage.tables.records import Reject

    run = scored_run(tmp_path / "run", -0.1, -0.3, None)
    run_pair(run, settings(index_only=True))
    before = run.rows("rejects").num_rows
    write = pair.write_shards

    def slowly(*given: Any) -> list[Path]:
        write_shard(run.shard_dir("rejects"), "rejects", [Reject(stage="score", id="c9", rule="error")])
        return write(*given)

    monkeypatch.setattr(pair, "write_shards", slowly)
    run_pair(run, settings(max_error=0.2, index_only=True))
    rows = run.rows("rejects").to_pylist()
    assert [row["id"] for row in rows if row["stage"] == "score"] == ["c9"]
    assert len([row for row in rows if row["stage"] == "pair"]) == before == 1


def test_pairs_under_a_training_are_not_replaced_but_may_go_elsewhere(tmp_path: Path) -> None:
    run = run_with_pairs(tmp_path / "run", PROMPTS, 4)
    run_pair(run, settings())
    before = contents(run.shard_dir("pairs"))
    with run.keep_pairs():
        with pytest.raises(UserError, match=r"the pairs of .* are being read .*`out` DIR"):
            run_pair(run, settings(strategy="top-k"))
        assert contents(run.shard_dir("pairs")) == before
        assert run_pair(run, settings(strategy="top-k"), write=False).pairs > PROMPTS
        assert run_pair(run, settings(strategy="top-k", out=tmp_path / "other")).changed
    assert run_pair(run, settings(strategy="top-k")).changed


def test_a_person_decides_and_the_rows_say_so(tmp_path: Path) -> None:
    run = run_with_pairs(tmp_path / "run", PROMPTS)
    run_pair(run, settings())
    mined = {row["prompt_id"]: row for row in run.rows("pairs").to_pylist()}
    ids = ("prompt_id", "winner_id", "loser_id")
    words = {"p000": "keep", "p001": "drop", "p002": "swap"}
    lines = [{name: mined[p][name] for name in ids} | {"decision": word} for p, word in words.items()]
    file = tmp_path / "decisions.jsonl"
    file.write_text("\n".join(json.dumps(line) for line in lines))
    result = run_pair(run, settings(decisions=file))
    assert (result.pairs, result.changed) == (PROMPTS - 1, True)
    assert result.applied is not None
    assert result.applied.as_dict() == {"keep": 1, "drop": 1, "swap": 1, "without_pair": 0}
    after = {row["prompt_id"]: row for row in run.rows("pairs").to_pylist()}
    assert {p: row["human"] for p, row in after.items() if row["human"]} == {"p000": "keep", "p002": "swap"}
    assert after["p002"]["winner_id"] == mined["p002"]["loser_id"]
    assert "p001" not in after
    assert after["p003"] == mined["p003"]
    swapped = next(pair for pair in PairDataset(result.directory) if pair.prompt_id == "p002")
    latents = read_tensors(run.resolve(run.latent_uri(swapped.winner_id)))["latents"]
    assert torch.equal(swapped.winner_latents, latents)
    assert run_pair(run, settings(decisions=file)).changed is False
    # Without the file, the pairs are those that the reward makes.
    run_pair(run, settings())
    assert {row["prompt_id"]: row for row in run.rows("pairs").to_pylist()} == mined


def test_pairs_from_before_people_decided_are_read(tmp_path: Path) -> None:
    run = run_with_pairs(tmp_path / "run", PROMPTS)
    run_pair(run, settings(index_only=True))
    path = next(run.shard_dir("pairs").glob("*.parquet"))
    pq.write_table(pq.read_table(path).drop_columns(["human"]), path)
    assert run.rows("pairs")["human"].null_count == PROMPTS
    with session(run, "pairs") as connection:
        assert fetch(connection, "SELECT count(human), count(*) FROM pairs") == [(0, PROMPTS)]
        assert fetch(connection, "SELECT typeof(human) FROM pairs LIMIT 1") == [("VARCHAR",)]


def test_dropping_every_pair_says_so(tmp_path: Path) -> None:
    run = scored_run(tmp_path / "run", -0.1, -0.3)
    line = {"prompt_id": "p0", "winner_id": "c0", "loser_id": "c1", "decision": "drop"}
    (tmp_path / "d.json").write_text(json.dumps([line]))
    with pytest.raises(UserError, match="lost 1 to dropped-by-hand: drop fewer pairs"):
        run_pair(run, settings(decisions=tmp_path / "d.json"))
