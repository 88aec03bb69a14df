"""The `gpa` command line: one module per command."""
