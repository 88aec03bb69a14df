"""`gpa evaluate`, and what makes its weights."""
