"""What Git calls: filter, hooks, merge driver, merge strategy."""
