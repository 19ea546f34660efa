"""Git's own merge of one text, for files that a merge driver of ours is asked about and leaves to Git."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from gittheta.git.process import Git


def merge_texts(git: Git, base: str, ours: str, theirs: str, *, marker_size: str) -> bool:
    """Merge three files line by line into ``ours``; says whether no conflict is left. Raises GitError."""
    labels = ("-L", "ours", "-L", "base", "-L", "theirs")
    size = ("--marker-size", marker_size) if marker_size.isdigit() else ()
    done = git.attempt("merge-file", "-q", *size, *labels, ours, base, theirs)
    if done.returncode > 127:
        git.run("merge-file", ours, base, theirs)
    return done.returncode == 0
