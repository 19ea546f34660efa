"""The only package that starts Git."""
