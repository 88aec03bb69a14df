"""What scoring costs, and against what: `gpa bench score`."""
