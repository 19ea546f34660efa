"""One module a metric: how two versions of a tensor differ."""
