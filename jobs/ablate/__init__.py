"""`gpa ablate`: recipes of alignment on one run, within a budget, and the tables that compare them."""
