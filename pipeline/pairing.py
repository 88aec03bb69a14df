"""gpa pair: from scores to preference pairs, and what every rule cost."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass, replace
from pathlib import Path

import pyarrow as pa

from pipeline.damage import mend_tables
from storage.errors import UserError
from storage.mining.decisions import read_decisions
from storage.mining.mining import Applied, Mining, mining
from storage.mining.rules import CANDIDATE_RULES, REMEDIES, FunnelStep, PairRules, PairSettings
from storage.pairs.writer import write_pair_shards
from storage.run import Run
from storage.sql.views import Limits, reward_versions
from storage.tables.schemas import open_shard
from storage.tables.shards import remove, shard_files, write_shards


@dataclass(frozen=True, kw_only=True)
class PairResult:
    """How many pairs of how many prompts, rule by rule what was lost, and the directory that holds the pairs.

    `changed` when its shards are not the old ones. `rows` are those that would be written, when none were.
    `applied` counts what a person decided, when that was asked for; `unmeasured` the candidates whose footage
    was not measured when they were scored; `idle` the fields that bound what this reward does not measure;
    `adapters` how many made the candidates that are ranked, the base counted as one.
    """

    funnel: list[FunnelStep]
    pairs: int
    prompts: int
    rules: PairRules
    directory: Path
    changed: bool
    applied: Applied | None = None
    unmeasured: int = 0
    idle: tuple[str, ...] = ()
    adapters: int = 1
    rows: pa.Table | None = None


def run_pair(
    run: Run,
    settings: PairSettings,
    *,
    write: bool = True,
    before_work: Callable[[], None] | None = None,
    limits: Limits | None = None,
) -> PairResult:
    """Mine pairs and write them as the shards of a directory, which then holds no other pairs.

    With the same settings and scores nothing is rewritten; with others the old selection goes once the new
    one is durable. Raises UserError when no pair is left, saying which rule took them, for decisions that do
    not fit, for a directory of other files, when another process pairs, and while a training reads the pairs
    to be replaced.
    """
    decisions = None if settings.decisions is None else read_decisions(settings.decisions)
    if write:
        mend_tables(run, "pair", "pairs", "rejects")
    with run.lock("pair") if write else nullcontext():
        rules = settled(run, settings.rules)
        directory = settings.out or run.shard_dir("pairs")
        changed = False
        rows = None
        with mining(run, rules, limits, decisions) as mined:
            if not mined.pairs:
                raise UserError(_why_none(run, rules, mined))
            if write:
                before = _pair_shards(directory)
                if before_work is not None:
                    before_work()
                own = directory.resolve() == run.shard_dir("pairs").resolve()
                with run.replace_pairs() if own else nullcontext():
                    after = write_pair_shards(run, mined.rows(), directory, index_only=settings.index_only)
                changed = set(after) != before
                _write_rejects(run, mined.rejects())
            else:
                rows = mined.rows().read_all()
        return PairResult(
            funnel=mined.funnel,
            pairs=mined.pairs,
            prompts=mined.paired_prompts,
            rules=rules,
            directory=directory,
            changed=changed,
            applied=mined.applied,
            unmeasured=mined.unmeasured,
            idle=mined.idle,
            adapters=mined.adapters,
            rows=rows,
        )


def settled(run: Run, rules: PairRules) -> PairRules:
    """The rules with the run's reward version. Raises UserError when that is ambiguous, or there is none."""
    return rules if rules.reward_version else replace(rules, reward_version=_only_version(run, rules.reward))


def _only_version(run: Run, reward: str) -> str:
    versions = reward_versions(run, reward)
    if not versions:
        raise UserError(f"{run.path} has no scores of reward {reward!r}: run `gpa score {run.path}` first")
    if len(versions) > 1:
        listed = ", ".join(f"{version} ({count} scores)" for version, count in versions)
        raise UserError(
            f"{run.path} has several versions of reward {reward!r}: give reward_version, of {listed}"
        )
    return versions[0][0]


def _pair_shards(directory: Path) -> set[Path]:
    """The shards of a directory, all of them pairs: these may be replaced, other files raise UserError."""
    files = shard_files(directory)
    for path in files:
        open_shard(path, "pairs", ["pair_id"]).close()
    return set(files)


def _write_rejects(run: Run, rejects: pa.RecordBatchReader) -> None:
    """Put the rejects of this selection in the place of those of the last one."""
    directory = run.shard_dir("rejects")
    old = [path for path in shard_files(directory) if _is_of_pairing(path)]
    new = write_shards(directory, "rejects", rejects)
    # Not "all but the new ones": a scoring may have written its own in the meantime.
    remove(directory, [path for path in old if path not in new])


def _is_of_pairing(path: Path) -> bool:
    with open_shard(path, "rejects", ["stage"]) as shard:
        return set(shard.read(columns=["stage"])["stage"].to_pylist()) == {"pair"}


def _why_none(run: Run, rules: PairRules, mined: Mining) -> str:
    if not mined.candidates:
        which = "candidates" if rules.split is None else f"candidates of split {rules.split}"
        of = "" if rules.adapter is None else f" of adapter {rules.adapter}"
        other = "`split`" if rules.adapter is None else "`adapter`"
        return f"no pair: {run.path} holds no {which}{of}; run `gpa sample` or choose another {other}"
    losses = [step for step in mined.funnel if step.prompts_lost]
    worst = max(losses, key=lambda step: step.prompts_lost)
    said = ", ".join(f"{step.prompts_lost} to {step.rule}" for step in losses)
    remedy = _largest_gap(run, rules) if worst.rule == "min-gap" else REMEDIES[worst.rule]
    scorable = "" if worst.rule not in CANDIDATE_RULES else "; a prompt needs two scorable candidates"
    had = f"{mined.prompts} prompts with {mined.candidates} candidates"
    return f"no pair: of {had} were lost {said}{scorable}: {remedy}"


def _largest_gap(run: Run, rules: PairRules) -> str:
    with mining(run, replace(rules, min_gap=0.0)) as mined:
        if mined.largest_gap is None:
            return "all candidates of a prompt score the same; sample more of them (gpa sample --candidates)"
        return f"the largest gap is {mined.largest_gap:.4g}, min_gap is {rules.min_gap:g}: lower it"
