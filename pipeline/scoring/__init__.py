"""Scores from candidates."""
