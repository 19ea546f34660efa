"""One module per kind of place that keeps objects beside a Git remote."""
