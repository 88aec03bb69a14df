"""The judges that come with gpa, one file each; `judge.py` says what a judge is and names them."""
