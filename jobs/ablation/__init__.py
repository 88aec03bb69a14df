"""What `gpa ablate` is made of: the commands it gives, what they will take, their course, and the tables."""
