"""Real git, from end to end."""
