"""Refs that this clone keeps of others: remote-tracking branches, and what moved them."""
