"""The fault drill in its short form: `gpa bench faults` repeats it as often as one likes."""

from __future__ import annotations

import sys

import pytest

from jobs.bench.fault_commands import FAULTS as NAMES
from jobs.bench.faults.harness import FAULTS, Trial, run_drill

COMMAND = (sys.executable, "-m", "jobs.main", "bench", "simulate")


NODES = pytest.mark.long(
    reason="starts a cluster of three nodes and six workers; make test kills such a node in "
    "pipeline/test_nodes.py, and drivers and workers here"
)


@pytest.mark.slow
@pytest.mark.parametrize(
    "fault", [pytest.param(name, marks=NODES) if name == "node killed" else name for name in NAMES]
)
def test_the_same_command_finishes_and_nothing_is_lost(fault: str) -> None:
    (trial,) = run_drill(COMMAND, [fault], trials=1, seed=5, candidates=16, seconds=0.1)
    assert trial.passed, trial
    assert trial.struck or fault == "read-only", trial


def test_the_command_offers_every_fault() -> None:
    assert set(FAULTS) == set(NAMES)


@pytest.mark.parametrize("name", ["lost", "double", "broken", "trouble"])
def test_a_trial_that_lost_something_has_not_passed(name: str) -> None:
    counts = dict.fromkeys(("struck", "lost", "double", "broken", "again", "worst"), 0)
    assert Trial(fault="x", candidates=1, seconds=1.0, **counts).passed
    changed = {"trouble": "it said nothing"} if name == "trouble" else {name: 1}
    assert not Trial(fault="x", candidates=1, seconds=1.0, **counts | changed).passed
    assert not Trial(fault="x", candidates=1, seconds=1.0, **counts | {"worst": 2}).passed
