"""Pair shards that carry their training tensors: written from a run, read one random pair at a time."""
