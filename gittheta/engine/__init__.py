"""Run merge methods on tensors. Does not know Git."""
