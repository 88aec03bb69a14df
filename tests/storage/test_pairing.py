"""Pair mining in SQL against a plain Python account of the same rules."""

from __future__ import annotations

import hashlib
import math
import random
from collections import defaultdict
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from storage.errors import UserError
from storage.mining.rules import CANDIDATE_RULES, PAIR_RULES, PairRules
from storage.mining.spoilt import spoilt
from storage.run import Run
from storage.sql.views import reward_versions, scored_ids
from storage.tables.ids import split_of
from storage.tables.records import Candidate, Score
from storage.tables.schemas import ADDED, TABLES, default_columns, stamped
from storage.tables.shards import write_shard
from tests.storage.builders import candidate, prompt, score
from tests.storage.mined import MinedPairs, mine_pairs

# Coarse grids make ties and values exactly at a bound common.
VALUES = st.sampled_from([None, math.nan, math.inf, -math.inf, *(-0.05 * step for step in range(21))])
MOTIONS = st.sampled_from([None, math.nan, math.inf, 0.0, 0.1, 0.2, 0.4, 0.8])


@dataclass
class Item:
    """A candidate as the oracle sees it."""

    prompt: str
    failed: bool
    scored: bool
    value: float | None
    motion: float | None
    image_motion: float | None = 0.4
    sharpness: float | None = 0.9
    coverage: float | None = 1.0
    detail: float | None = 0.1
    cut: float | None = 0.0
    overlay: float | None = None
    height: int = 64
    fps: float = 8.0
    level: int | None = None
    adapter: str | None = None
    id: str = ""

    @property
    def format(self) -> tuple[int, int]:
        return self.height, round(self.fps)


@dataclass
class Account:
    """What the oracle found: pairs, and for every rule who left there."""

    pairs: set[tuple[str, str]] = field(default_factory=set)
    lost: dict[str, set[str]] = field(default_factory=lambda: defaultdict(set))
    lost_prompts: dict[str, set[str]] = field(default_factory=lambda: defaultdict(set))


items = st.builds(
    Item,
    prompt=st.sampled_from(["p0", "p1", "p2", "p3"]),
    failed=st.sampled_from([False] * 7 + [True]),
    scored=st.sampled_from([True] * 7 + [False]),
    value=VALUES | st.sampled_from([-0.05 * step for step in range(21)]),
    motion=MOTIONS | st.sampled_from([0.1, 0.2, 0.4, 0.8]),
    image_motion=MOTIONS | st.sampled_from([0.1, 0.2, 0.4, 0.8]),
    sharpness=MOTIONS | st.sampled_from([0.4, 0.8, 0.8]),
    coverage=MOTIONS | st.sampled_from([0.4, 0.8, 0.8]),
    detail=st.sampled_from([None, 0.05, 0.1, 0.1, 0.2]),
    cut=st.sampled_from([None, math.nan, 0.0, 0.0, 0.3, 0.5]),
    overlay=st.sampled_from([None, 0.0, 0.0, 0.02]),
    height=st.sampled_from([64, 64, 64, 32]),
    fps=st.sampled_from([8.0, 8.0, 8.0, 7.992, 16.0]),
    level=st.sampled_from([None, 10, 12, 60, 200]),
    adapter=st.sampled_from([None, None, "a1"]),
)
rule_sets = st.builds(
    PairRules,
    reward=st.just("reprojection"),
    reward_version=st.just("v1"),
    min_gap=st.sampled_from([0.0, 0.05, 0.1, 0.3]),
    max_error=st.sampled_from([0.1, 0.25, 0.8, math.inf]),
    min_motion=st.sampled_from([0.0, 0.0, 0.2, 0.4]),
    min_image_motion=st.sampled_from([0.0, 0.0, 0.2]),
    min_sharpness=st.sampled_from([0.0, 0.0, 0.8]),
    min_coverage=st.sampled_from([0.0, 0.0, 0.8]),
    min_image_motion_ratio=st.sampled_from([0.0, 0.0, 1.0]),
    min_sharpness_ratio=st.sampled_from([0.0, 0.0, 1.0]),
    min_detail_ratio=st.sampled_from([0.0, 0.0, 0.8]),
    max_motion_ratio=st.sampled_from([1.0, 2.0, 4.0, math.inf, math.inf]),
    min_motion_ratio=st.sampled_from([0.0, 0.0, 0.5, 1.0]),
    max_cut=st.sampled_from([0.3, 0.3, 0.2, 1.0]),
    max_overlay=st.sampled_from([0.01, 1.0, 1.0]),
    min_difference=st.sampled_from([0.0, 0.03, 0.06]),
    strategy=st.sampled_from(["best-worst", "all", "top-k"]),
    top_k=st.integers(1, 4),
    split=st.sampled_from([None, None, "train", "test"]),
    adapter=st.sampled_from([None, None, None, "base", "a1"]),
)


def finite(number: float | None) -> bool:
    return number is not None and math.isfinite(number)


def asked_for(item: Item, rules: PairRules) -> bool:
    of_split = rules.split is None or split_of(f"scene-{item.prompt}") == rules.split
    return of_split and (rules.adapter is None or (item.adapter or "base") == rules.adapter)


def own_fault(item: Item, rules: PairRules) -> str | None:
    if item.failed:
        return "sampling-failed"
    if not item.scored:
        return "not-scored"
    if not finite(item.value):
        return "unscorable"
    for rule, measure, bound in (
        ("static", item.motion, rules.min_motion),
        ("still", item.image_motion, rules.min_image_motion),
        ("soft", item.sharpness, rules.min_sharpness),
        ("uncovered", item.coverage, rules.min_coverage),
    ):
        if bound > 0 and not (finite(measure) and measure >= bound):  # type: ignore[operator]
            return rule
    # What is not known of footage passes.
    for rule, share, bound in (
        ("cut", item.cut, rules.max_cut), ("overlay", item.overlay, rules.max_overlay)
    ):  # fmt: skip
        if finite(share) and share > bound:  # type: ignore[operator]
            return rule
    return None


def chosen(ranked: list[Item], rules: PairRules) -> list[tuple[Item, Item]]:
    if rules.strategy == "best-worst":
        return [(ranked[0], ranked[-1])]
    if rules.strategy == "top-k":
        k = min(rules.top_k, len(ranked) // 2)
        return [(winner, loser) for winner in ranked[:k] for loser in ranked[-k:]]
    return [(ranked[i], ranked[j]) for i in range(len(ranked)) for j in range(i + 1, len(ranked))]


def pair_fault(winner: Item, loser: Item, rules: PairRules) -> str | None:
    assert winner.value is not None
    assert loser.value is not None
    if -winner.value > rules.max_error:
        return "max-error"
    gap = winner.value - loser.value
    if gap < rules.min_gap or not winner.value > loser.value:
        return "min-gap"
    if math.isfinite(rules.max_motion_ratio):
        if not (finite(winner.motion) and finite(loser.motion)):
            return "motion-ratio"
        high, low = max(winner.motion, loser.motion), min(winner.motion, loser.motion)  # type: ignore[type-var]
        if high > rules.max_motion_ratio * low:  # type: ignore[operator]
            return "motion-ratio"
    for rule, measure in (
        ("motion-ratio", "motion"),
        ("image-motion-ratio", "image_motion"),
        ("sharpness-ratio", "sharpness"),
        ("detail-ratio", "detail"),
    ):
        bound = getattr(rules, f"min_{measure}_ratio")
        ours, theirs = getattr(winner, measure), getattr(loser, measure)
        if bound > 0 and not (finite(ours) and finite(theirs) and ours >= bound * theirs):
            return rule
    if (
        None not in (winner.level, loser.level)
        and abs(winner.level - loser.level) < 50 * rules.min_difference
    ):  # type: ignore[operator]
        return "copies"
    return None


def that_bind(everything: list[Item], rules: PairRules) -> PairRules:
    """The rules without bounds on what no score has."""

    def known(measure: str) -> bool:
        return any(item.scored and finite(getattr(item, measure)) for item in everything)

    off = {
        name: 0.0
        for measure in ("motion", "image_motion", "sharpness", "coverage", "detail")
        for name in (f"min_{measure}", f"min_{measure}_ratio")
        if hasattr(rules, name) and not known(measure)
    }
    return replace(rules, **off, **({} if known("motion") else {"max_motion_ratio": math.inf}))


def brute_force(everything: list[Item], rules: PairRules) -> Account:
    account = Account()
    rules = that_bind(everything, rules)
    by_prompt: dict[str, list[Item]] = defaultdict(list)
    for item in everything:
        if asked_for(item, rules):
            by_prompt[item.prompt].append(item)
    order = [*CANDIDATE_RULES, *PAIR_RULES]
    for name, group in by_prompt.items():
        faults = {item.id: own_fault(item, rules) for item in group}
        ranked = sorted(
            (item for item in group if faults[item.id] is None),
            key=lambda item: (-(item.value or 0.0), item.id),
        )
        fate: dict[str, str | None] = {key: fault for key, fault in faults.items() if fault}
        if len(ranked) < 2:
            fate |= {item.id: "fewer-than-two" for item in ranked}
        else:
            reached: dict[str, list[str | None]] = defaultdict(list)
            alike: dict[tuple[int, int], list[Item]] = defaultdict(list)
            for item in ranked:
                alike[item.format].append(item)
            for several in alike.values():
                for winner, loser in chosen(several, rules) if len(several) > 1 else ():
                    fault = pair_fault(winner, loser, rules)
                    reached[winner.id].append(fault)
                    reached[loser.id].append(fault)
                    if fault is None:
                        account.pairs.add((winner.id, loser.id))
            for item in ranked:
                ends = reached.get(item.id)
                if len(alike[item.format]) < 2:
                    fate[item.id] = "other-format"
                elif ends is None:
                    fate[item.id] = "not-chosen"
                else:
                    fate[item.id] = None if None in ends else max((e for e in ends if e), key=order.index)
        for key, rule in fate.items():
            if rule is not None:
                account.lost[rule].add(key)
        if all(fate.values()):
            account.lost_prompts[max((rule for rule in fate.values() if rule), key=order.index)].add(name)
    return account


def stored(path: Path, everything: list[Item]) -> Run:
    run = Run.create_or_open(path)
    candidates: list[Candidate] = []
    rows: list[dict[str, Any]] = []
    for number, item in enumerate(everything):
        # Ids out of step with the order of writing, so that ties are decided by id and by nothing else.
        item.id = hashlib.sha256(str(number).encode()).hexdigest()[:8]
        status = "failed" if item.failed else "ok"
        shape = {"height": item.height, "fps": item.fps, "adapter": item.adapter}
        candidates.append(candidate(item.id, item.prompt, status=status, **shape))
        if item.scored:
            whole = score(item.id, -0.5, reward_version="v1")
            rows.append({name: getattr(whole, name) for name in TABLES["scores"].names})
            rows[-1] |= {"value": item.value, "motion": item.motion, "reason": None}
            rows[-1] |= {"image_motion": item.image_motion, "sharpness": item.sharpness}
            rows[-1] |= {"detail": item.detail}
            rows[-1] |= {"coverage": item.coverage, "cut": item.cut, "overlay": item.overlay}
            rows[-1] |= {"thumbnail": None if item.level is None else [item.level - 50, item.level + 50]}
            # Neither another version nor another reward of the same candidate may matter.
            rows.append(rows[-1] | {"reward_version": "v0", "value": -0.9 + 0.01 * number})
            rows.append(rows[-1] | {"reward": "epipolar", "reward_version": "v1"})
    write_shard(run.shard_dir("prompts"), "prompts", [prompt(f"p{number}") for number in range(4)])
    if candidates:
        write_shard(run.shard_dir("candidates"), "candidates", candidates)
    if rows:
        write_shard(run.shard_dir("scores"), "scores", pa.Table.from_pylist(rows, schema=TABLES["scores"]))
    return run


def pairs_of(mined: MinedPairs) -> set[tuple[str, str]]:
    return set(zip(mined.rows["winner_id"].to_pylist(), mined.rows["loser_id"].to_pylist(), strict=True))


@settings(max_examples=30, deadline=None)
@given(st.lists(items, max_size=24), rule_sets)
def test_mining_agrees_with_brute_force(
    tmp_path_factory: pytest.TempPathFactory, everything: list[Item], rules: PairRules
) -> None:
    run = stored(tmp_path_factory.mktemp("run"), everything)
    mined = mine_pairs(run, rules)
    expected = brute_force(everything, rules)
    assert pairs_of(mined) == expected.pairs
    assert mined.rows.num_rows == len(expected.pairs)
    check_funnel(mined, expected, everything, rules)
    check_rejects(mined, expected)
    check_rows(mined, everything, rules)
    assert mine_pairs(run, rules).rows.equals(mined.rows)


@settings(max_examples=8, deadline=None)
@given(st.lists(items, min_size=2, max_size=10), rule_sets, st.randoms())
def test_how_rows_lie_in_shards_does_not_matter(
    tmp_path_factory: pytest.TempPathFactory,
    everything: list[Item],
    rules: PairRules,
    shuffler: random.Random,
) -> None:
    base = tmp_path_factory.mktemp("runs")
    run = stored(base / "one", everything)
    other = Run.create_or_open(base / "many")
    for table in ("prompts", "candidates", "scores"):
        rows = run.rows(table)
        order = list(range(rows.num_rows))
        shuffler.shuffle(order)
        while order:
            count = shuffler.randint(1, 4)
            write_shard(other.shard_dir(table), table, rows.take(order[:count]))
            order = order[count:]
    first, second = mine_pairs(run, rules), mine_pairs(other, rules)
    assert second.rows.equals(first.rows)
    assert (second.funnel, second.rejects) == (first.funnel, first.rejects)


def check_funnel(mined: MinedPairs, expected: Account, everything: list[Item], rules: PairRules) -> None:
    asked = [item for item in everything if asked_for(item, rules)]
    assert mined.funnel[0] == ("sampled", 0, 0, len(asked))
    assert (mined.candidates, mined.prompts) == (len(asked), len({item.prompt for item in asked}))
    left = len(asked)
    for rule, candidates, prompts, after in mined.funnel[1:]:
        assert candidates == len(expected.lost[rule]), rule
        assert prompts == len(expected.lost_prompts[rule]), rule
        left -= candidates
        assert after == left
    assert left == len({member for pair in expected.pairs for member in pair})
    paired_prompts = len(set(mined.rows["prompt_id"].to_pylist()))
    assert mined.prompts - sum(step.prompts_lost for step in mined.funnel) == paired_prompts


def check_rejects(mined: MinedPairs, expected: Account) -> None:
    found: dict[str, set[str]] = defaultdict(set)
    for reject in mined.rejects:
        assert reject.stage == "pair"
        assert reject.detail
        found[reject.rule].add(reject.id)
    for rule in CANDIDATE_RULES[: CANDIDATE_RULES.index("fewer-than-two")]:
        assert found[rule] == expected.lost[rule]
    for rule in PAIR_RULES:
        assert found[rule] == expected.lost_prompts[rule]
    assert len(found["fewer-than-two"]) == len(expected.lost["fewer-than-two"])


def check_rows(mined: MinedPairs, everything: list[Item], rules: PairRules) -> None:
    by_id = {item.id: item for item in everything}
    assert mined.rows.schema.names == default_columns("pairs")
    scenes: dict[str, set[str]] = defaultdict(set)
    for row in mined.rows.to_pylist():
        winner, loser = by_id[row["winner_id"]], by_id[row["loser_id"]]
        assert winner.prompt == loser.prompt == row["prompt_id"]
        assert winner.format == loser.format
        assert row["winner_value"] == winner.value > loser.value == row["loser_value"]
        assert row["gap"] == row["winner_value"] - row["loser_value"] >= rules.min_gap
        assert row["split"] == split_of(row["scene_id"])
        named = f"{winner.id}|{loser.id}|reprojection|v1"
        assert row["pair_id"] == hashlib.sha256(named.encode()).hexdigest()[:32]
        assert (row["model"], row["revision"], row["text"]) == ("world", "r1", f"a room, {row['prompt_id']}")
        scenes[row["scene_id"]].add(row["split"])
    assert all(len(splits) == 1 for splits in scenes.values())


def one_prompt(path: Path, values: list[float | None], motions: list[float] | None = None) -> Run:
    motions = motions or [0.5] * len(values)
    every = [Item("p0", False, True, value, motion) for value, motion in zip(values, motions, strict=True)]
    return stored(path, every)


RULES = {"reward": "reprojection", "reward_version": "v1"}


@pytest.mark.parametrize(
    ("strategy", "values", "count"),
    [
        ("best-worst", [-0.1, -0.2, -0.3, -0.4], 1),
        ("all", [-0.1, -0.2, -0.3, -0.4], 6),
        ("top-k", [-0.1, -0.2, -0.3, -0.4], 4),
        ("top-k", [-0.1, -0.2, -0.3], 1),
        ("best-worst", [-0.2, -0.2], 0),
        ("all", [-0.1], 0),
    ],
)
def test_each_strategy_makes_its_number_of_pairs(
    tmp_path: Path, strategy: Any, values: list[float | None], count: int
) -> None:
    run = one_prompt(tmp_path, values)
    assert mine_pairs(run, PairRules(**RULES, min_gap=0.0, strategy=strategy)).rows.num_rows == count


def test_rejects_carry_the_figures(tmp_path: Path) -> None:
    run = one_prompt(tmp_path, [-0.1, -0.12, None], [0.5, 0.25, 0.5])
    rejects = {reject.rule: reject for reject in mine_pairs(run, PairRules(**RULES)).rejects}
    assert rejects["min-gap"].id == "p0"
    assert "winner error 0.1, gap 0.02, motions 0.5 and 0.25" in rejects["min-gap"].detail
    assert "unscorable" in rejects


def test_a_clip_that_only_looks_good_cannot_win(tmp_path: Path) -> None:
    still = Item("p0", False, True, -0.01, 0.5, image_motion=0.0)
    soft = Item("p0", False, True, -0.02, 0.5, sharpness=0.5)
    hidden = Item("p0", False, True, -0.03, 0.5, coverage=0.1)
    good, bad = Item("p0", False, True, -0.1, 0.5), Item("p0", False, True, -0.3, 0.5)
    run = stored(tmp_path, [still, soft, hidden, good, bad])
    guards = {"min_image_motion": 0.1, "min_sharpness": 0.8, "min_coverage": 0.5}
    mined = mine_pairs(run, PairRules(**RULES, **guards))
    assert pairs_of(mined) == {(good.id, bad.id)}
    details = {reject.rule: (reject.id, reject.detail) for reject in mined.rejects}
    assert details["still"] == (still.id, "image_motion 0.0")
    assert details["soft"] == (soft.id, "sharpness 0.5")
    assert details["uncovered"] == (hidden.id, "coverage 0.1")


@pytest.mark.parametrize("strategy", ["best-worst", "all", "top-k"])
def test_takes_of_two_sizes_are_ranked_each_by_itself(tmp_path: Path, strategy: Any) -> None:
    # The small copies have the least error, so best against worst of the prompt would be small against large.
    large = [Item("p0", False, True, value, 0.5) for value in (-0.3, -0.5)]
    small = [Item("p0", False, True, value, 0.5, height=32) for value in (-0.1, -0.2)]
    odd = Item("p0", False, True, -0.05, 0.5, fps=16.0)
    run = stored(tmp_path, [*large, *small, odd])
    mined = mine_pairs(run, PairRules(**RULES, strategy=strategy))
    assert pairs_of(mined) == {(large[0].id, large[1].id), (small[0].id, small[1].id)}
    assert {step.rule: step.candidates_lost for step in mined.funnel}["other-format"] == 1
    assert [(one.id, one.detail) for one in mined.rejects if one.rule == "other-format"] == [
        (odd.id, "64x64, 9 frames at 16 a second")
    ]


@pytest.mark.parametrize(
    ("other", "told"),
    [
        ({"width": 32}, "32x64, 9 frames at 8 a second"),
        ({"height": 32}, "64x32, 9 frames at 8 a second"),
        ({"num_frames": 8}, "64x64, 8 frames at 8 a second"),
        ({"fps": 9.0}, "64x64, 9 frames at 9 a second"),
    ],
)
def test_takes_that_differ_in_one_of_size_length_and_rate_never_pair(
    tmp_path: Path, other: dict[str, Any], told: str
) -> None:
    run = Run.create_or_open(tmp_path)
    write_shard(run.shard_dir("prompts"), "prompts", [prompt()])
    takes = [candidate("c0"), candidate("c1", fps=8.02), candidate("c2", **other)]
    write_shard(run.shard_dir("candidates"), "candidates", takes)
    values = zip(takes, (-0.2, -0.3, -0.1), strict=True)
    write_shard(run.shard_dir("scores"), "scores", [score(one.candidate_id, value) for one, value in values])
    mined = mine_pairs(run, PairRules(**RULES, strategy="all"))
    assert pairs_of(mined) == {("c0", "c1")}
    assert [(one.id, one.rule, one.detail) for one in mined.rejects] == [("c2", "other-format", told)]
    assert {step.rule: step.candidates_lost for step in mined.funnel}["other-format"] == 1


def test_footage_that_is_no_scene_is_left_out_and_what_is_unknown_passes(tmp_path: Path) -> None:
    cut, good = Item("p0", False, True, -0.01, 0.5, cut=0.9), Item("p0", False, True, -0.1, 0.5)
    copy, bad = Item("p0", False, True, -0.2, 0.5), Item("p0", False, True, -0.4, 0.5, cut=None)
    good.level, copy.level, bad.level = 100, 101, 140
    run = stored(tmp_path, [cut, good, copy, bad])
    mined = mine_pairs(run, PairRules(**RULES, strategy="all"))
    assert pairs_of(mined) == {(good.id, bad.id), (copy.id, bad.id)}
    assert {one.rule: (one.id, one.detail) for one in mined.rejects} == {"cut": (cut.id, "cut 0.9")}
    everything = mine_pairs(run, PairRules(**RULES, strategy="all", max_cut=1.0, min_difference=0.0))
    assert everything.rows.num_rows == 6


def test_what_spoils_the_reward_is_counted_for_the_one_who_scores(tmp_path: Path) -> None:
    run = stored(tmp_path, [Item("p0", False, True, -0.1, 0.5, cut=share) for share in (0.9, 0.4, 0.3, None)])
    assert spoilt(run, PairRules(**RULES)) == (4, [("cut", "max_cut", 2)])
    assert spoilt(run, PairRules(**RULES, max_cut=0.5)) == (4, [("cut", "max_cut", 1)])


def test_scores_from_before_a_column_are_read_with_nulls(tmp_path: Path) -> None:
    import pyarrow.parquet as pq

    run = one_prompt(tmp_path, [-0.1, -0.3])
    path = next(run.shard_dir("scores").glob("*.parquet"))
    pq.write_table(pq.read_table(path).drop_columns(list(ADDED["scores"])), path)
    assert run.rows("scores", ["sharpness"])["sharpness"].null_count == len(run.rows("scores"))
    assert mine_pairs(run, PairRules(**RULES)).rows.num_rows == 1
    # What no score has bounds nothing, and that is told.
    assert mine_pairs(run, PairRules(**RULES)).idle == ()
    bounds = {"min_sharpness": 0.1, "min_image_motion_ratio": 1.0, "min_motion": 0.1}
    mined = mine_pairs(run, PairRules(**RULES, **bounds))
    assert mined.rows.num_rows == 1
    assert set(mined.idle) == {"min_sharpness", "min_image_motion_ratio"}


def test_what_some_scores_have_the_others_cannot_be_vouched_for(tmp_path: Path) -> None:
    values = (-0.1, -0.2, -0.3)
    every = [Item("p0", False, True, value, 0.5, sharpness=None) for value in values[:2]]
    run = stored(tmp_path, [*every, Item("p0", False, True, values[2], 0.5, sharpness=0.9)])
    mined = mine_pairs(run, PairRules(**RULES, min_sharpness=0.1))
    assert {step.rule: step.candidates_lost for step in mined.funnel}["soft"] == 2
    assert mined.idle == ()


def test_rows_of_racing_writers_count_once(tmp_path: Path) -> None:
    run = one_prompt(tmp_path, [-0.1, -0.3])
    before = mine_pairs(run, PairRules(**RULES))
    rows = run.rows("candidates").to_pylist()
    for number, row in enumerate(rows):
        write_shard(run.shard_dir("candidates"), "candidates", [Candidate(**(row | {"seconds": 9.0}))])
        write_shard(run.shard_dir("scores"), "scores", [score(row["candidate_id"], -0.1 - 0.2 * number)])
        failed = {"status": "failed", "reason": "lost a race", "video_uri": None}
        write_shard(run.shard_dir("candidates"), "candidates", [Candidate(**(row | failed))])
    after = mine_pairs(run, PairRules(**RULES))
    assert after.candidates == before.candidates == 2
    assert pairs_of(after) == pairs_of(before)
    assert len(pairs_of(after)) == 1


def test_an_empty_run_has_an_empty_funnel(tmp_path: Path) -> None:
    run = Run.create_or_open(tmp_path)
    mined = mine_pairs(run, PairRules(**RULES))
    assert (mined.rows.num_rows, mined.candidates, mined.rejects) == (0, 0, [])
    assert {step[1:] for step in mined.funnel} == {(0, 0, 0)}
    assert scored_ids(run, "reprojection", "v1") == set()


def test_candidates_without_their_prompt_are_named(tmp_path: Path) -> None:
    run = Run.create_or_open(tmp_path)
    write_shard(run.shard_dir("candidates"), "candidates", [candidate("c0", "gone")])
    with pytest.raises(UserError, match=r"1 candidates of .* have no row in prompts/ \(the first is c0\)"):
        mine_pairs(run, PairRules(**RULES))


def test_helpers_tell_what_is_done(tmp_path: Path) -> None:
    run = Run.create_or_open(tmp_path)
    rows = [candidate("a"), candidate("b", status="failed")]
    write_shard(run.shard_dir("candidates"), "candidates", rows)
    scores: list[Score] = [
        score("a"), score("b", None), score("a", reward_version="v2"), score("a", reward="epipolar")
    ]  # fmt: skip
    write_shard(run.shard_dir("scores"), "scores", scores)
    assert scored_ids(run, "reprojection", "v1") == {"a", "b"}
    assert scored_ids(run, "reprojection", "'; DROP VIEW scores; --") == set()
    assert reward_versions(run, "reprojection") == [("v1", 2), ("v2", 1)]


def test_a_damaged_score_shard_is_named(tmp_path: Path) -> None:
    run = one_prompt(tmp_path, [-0.1 * step for step in range(1, 9)])
    path = next(run.shard_dir("scores").glob("*.parquet"))
    data = bytearray(path.read_bytes())
    data[4 : len(data) // 3] = bytes(byte ^ 0xFF for byte in data[4 : len(data) // 3])
    path.write_bytes(bytes(data))
    with pytest.raises(UserError, match=f"{path} is not a readable Parquet file"):
        mine_pairs(run, PairRules(**RULES))


def test_a_run_of_another_schema_is_named(tmp_path: Path) -> None:
    import pyarrow.parquet as pq

    run = one_prompt(tmp_path, [-0.1, -0.2])
    path = next(run.shard_dir("scores").glob("*.parquet"))
    table = pq.read_table(path)
    metadata = stamped(table.schema, "scores").metadata | {b"gpa.schema_version": b"0"}
    pq.write_table(table.replace_schema_metadata(metadata), path)
    with pytest.raises(UserError, match=f"{path} has schema version 0, this gpa reads version 1"):
        mine_pairs(run, PairRules(**RULES))


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"reward": ""}, "reward must be a name, got ''"),
        ({"min_gap": -0.1}, "min_gap must be finite and >= 0, got -0.1"),
        ({"min_motion": math.nan}, "min_motion must be finite and >= 0, got nan"),
        ({"max_error": math.nan}, "max_error must be a number, got nan"),
        ({"max_motion_ratio": 0.5}, "max_motion_ratio must be >= 1, got 0.5"),
        ({"min_motion_ratio": -1.0}, "min_motion_ratio must be finite and >= 0, got -1.0"),
        (
            {"min_motion_ratio": 2.0, "max_motion_ratio": 1.5},
            "min_motion_ratio must be <= max_motion_ratio, got 2.0",
        ),
        ({"max_cut": -0.1}, "max_cut must be >= 0, got -0.1"),
        ({"max_bars": math.nan}, "max_bars must be >= 0, got nan"),
        ({"strategy": "best"}, "strategy must be one of best-worst, all, top-k, got 'best'"),
        ({"top_k": 0}, "top_k must be >= 1, got 0"),
        ({"split": "dev"}, "split must be one of train, val, test or None, got 'dev'"),
    ],
)
def test_bad_rules_are_refused(changes: dict[str, Any], says: str) -> None:
    with pytest.raises(ValueError, match=says):
        PairRules(**(RULES | changes))
