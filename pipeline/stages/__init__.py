"""The stages: what a worker loads, and what it does with one task."""
