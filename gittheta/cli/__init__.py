"""The command line. Only here does anything print, exit or read the environment."""

#: The environment variable that shows what is done and how long it takes, with any command.
TRACE = "GITTHETA_TRACE"
