"""What is looked at while a training runs: its figures, who is told of them, held-out pairs and videos."""
