"""A tensor into the store and out again. Knows no Git."""
