"""The tables of a run: records, Arrow schemas, ids, and the Parquet shards that hold the rows."""
