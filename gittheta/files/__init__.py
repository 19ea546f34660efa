"""Checkpoint files: detect their format, and open them as tensors by name."""
