"""What is asked of a run in SQL: views over its shards, those of commands, of the report and of the user."""
