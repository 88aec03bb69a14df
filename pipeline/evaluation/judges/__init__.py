"""The judges that come with gpa, one file each; see `pipeline.evaluation.judge` for what a judge is."""
