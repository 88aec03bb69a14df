"""Faults, done to simulated sampling on purpose, and what they cost: `gpa bench faults`."""

from pipeline.benchmarks.faults.drill import FAULTS, Trial, run_drill

__all__ = ["FAULTS", "Trial", "run_drill"]
