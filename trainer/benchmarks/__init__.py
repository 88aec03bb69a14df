"""What training costs on this machine, against the obvious way."""
