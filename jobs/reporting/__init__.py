"""The page of gpa report: what it is made of."""
