"""gpa train-dpo."""
