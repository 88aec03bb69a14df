"""What is looked at beside a training: held-out pairs and videos, and who is told of its figures."""
