"""Store tensors and read them back. Does not know Git."""
