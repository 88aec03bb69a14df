"""What a command would do and take, before it is run."""
