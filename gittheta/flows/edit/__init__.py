"""A checkpoint of the work tree, replaced by a changed version of itself."""
