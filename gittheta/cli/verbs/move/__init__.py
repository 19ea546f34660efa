"""Verbs that move objects between stores."""
