"""Keeping a run in order: small shards are merged, damage is put aside."""
