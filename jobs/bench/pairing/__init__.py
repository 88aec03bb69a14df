"""How long pairing takes, against a loop over JSON lines."""
