"""The study of footage that spoils a reward."""
