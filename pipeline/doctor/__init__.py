"""What gpa doctor looks at before money is spent. Nothing here uses the network or listens."""
