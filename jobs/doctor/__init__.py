"""`gpa doctor`: the machine, its software and the weights."""
