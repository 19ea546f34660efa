"""Decoders that follow docs/spec in plain Python: slow, and without a line of gittheta."""
