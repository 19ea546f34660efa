"""Verbs that set things up."""
