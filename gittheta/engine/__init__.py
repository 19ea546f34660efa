"""Runs a merge method on tensors. Knows no Git."""
