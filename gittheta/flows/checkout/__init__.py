"""A checkpoint on its way into the work tree."""
