"""The commands that fill, read and tidy a run: sample, import, score, pair, run, query, export, compact."""
