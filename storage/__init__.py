"""Records, Parquet shards, media and every SQL statement of a run.

Nothing is imported here, so a reader of pairs needs neither PyAV nor DuckDB.
"""
