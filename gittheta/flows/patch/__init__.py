"""Patches: files that turn one version of a checkpoint into another, wherever that lies."""
