"""`gpa bench`: what this checkout ships is measured."""
