"""A checkpoint on its way into the store."""
