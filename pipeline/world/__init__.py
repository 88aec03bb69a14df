"""The embedded world: a procedural static world with exact geometry, and the small models trained on it."""
