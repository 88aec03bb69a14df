"""What training costs, against the obvious way."""
