"""Verbs that change a checkpoint of the work tree."""
