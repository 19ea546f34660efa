"""A checkpoint file: which format it has, and where its tensors lie."""
