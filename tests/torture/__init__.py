"""Thousands of random git operations with faults among them."""
