"""Videos, images and tensors: those of a run, and those that were made elsewhere."""
