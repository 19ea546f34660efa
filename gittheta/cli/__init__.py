"""The command line. Only here does anything print, exit or read the environment."""
