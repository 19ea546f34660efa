"""``git-merge-theta``: the strategy behind ``git merge -s theta``, which is still to come."""

from __future__ import annotations

import sys


def main() -> None:
    """Say so, and leave the merge to another strategy."""
    sys.stderr.write(
        "gittheta: `git merge -s theta` is not available in this version\n"
        "  plain `git merge` merges models tensor by tensor\n"
    )
    sys.exit(2)
