"""History written anew: other files in each commit, refs that move all at once, and what became of each commit."""
