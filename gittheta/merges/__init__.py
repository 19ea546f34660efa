"""One module for each family of merge methods."""
