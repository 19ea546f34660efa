"""Objects on the Git LFS server of a Git remote."""
