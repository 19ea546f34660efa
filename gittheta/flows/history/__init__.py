"""What history tells of checkpoints."""
