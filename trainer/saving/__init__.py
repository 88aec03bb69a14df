"""What a training writes and reads again: checkpoints, adapters, model cards."""
