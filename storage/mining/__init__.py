"""From scores to preference pairs, in SQL: the rules, the statements, and what a person decided."""
