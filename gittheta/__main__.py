"""``python -m gittheta``."""

from gittheta.cli.main import main

main()
