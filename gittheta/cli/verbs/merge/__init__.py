"""Verbs for merging."""
