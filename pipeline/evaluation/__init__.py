"""A base model against adapters on held-out prompts: judges, statistics, tables."""
