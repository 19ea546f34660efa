"""Commit messages: adding trailers to one that is being written."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from gittheta.git.process import Git


def add_trailer(git: Git, message: str, line: str) -> None:
    """Add a trailer to a file that holds a commit message, unless the last trailer says the same."""
    words = ("--if-exists", "addIfDifferent", "--trailer", line, message)
    git.run("-c", "trailer.separators=:", "interpret-trailers", "--in-place", *words)
