"""Objects to a remote and back: what is needed, what is missing, and the way there."""
