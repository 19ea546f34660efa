"""One module for each metric: how two versions of a tensor differ."""
