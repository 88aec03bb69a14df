"""Rounds: sample from the aligned model, score, pair, train on, evaluate, as long as it pays."""
