"""A merge in progress: what was done, what is in conflict, what its commit says, and the same once more."""
