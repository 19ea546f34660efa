"""migrate: history that holds raw checkpoints, or pointers of Git LFS, gets manifests; and the way back."""
