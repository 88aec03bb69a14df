"""Training of the embedded world's models, one file a model; everything is resumable and seeded."""
