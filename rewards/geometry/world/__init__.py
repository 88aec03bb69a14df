"""The embedded world's geometry networks."""
