"""The judges that come with gpa, one file each; see `pipeline.judging` for what a judge is."""
