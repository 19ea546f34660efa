"""The merge engine: methods and their options, and one tensor after the other on a device. Knows nothing of Git."""
