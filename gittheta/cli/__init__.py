"""The command line: one module per verb. Only here does anything print, exit or read the environment."""
