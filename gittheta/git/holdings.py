"""What a repository holds on this disk: every blob, whoever needs it, and the files of every work tree."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from gittheta.errors import GitError

if TYPE_CHECKING:
    from gittheta.git.process import Git


def local_blobs(git: Git) -> Iterator[tuple[str, int]]:
    """Every blob that is here, reachable or not, and its size in bytes. Asks no remote."""
    words = ("--batch-all-objects", "--unordered", "--buffer")
    listed = git.run("cat-file", "--batch-check=%(objectname) %(objecttype) %(objectsize)", *words)
    for line in listed.splitlines():
        oid, kind, size = (*line.split(b" "), b"", b"")[:3]
        if not size.isdigit():
            raise GitError(f"object {oid.decode()} of Git cannot be read", hint="run `git fsck`")
        if kind == b"blob":
            yield oid.decode(), int(size)


def work_trees(git: Git) -> list[Path]:
    """The top folders of all work trees that are on this disk."""
    listed = os.fsdecode(git.run("worktree", "list", "--porcelain", "-z")).split("\0")
    paths = [Path(line.removeprefix("worktree ")) for line in listed if line.startswith("worktree ")]
    return [path for path in paths if (path / ".git").exists()]


def files_in(git: Git) -> list[str]:
    """The paths of all files in Git's current work tree, tracked, untracked or ignored."""
    return os.fsdecode(git.run("ls-files", "-z", "--cached", "--others")).split("\0")[:-1]


def is_partial(git: Git) -> bool:
    """Whether objects were left out when this was cloned."""
    return git.attempt("config", "--get-regexp", r"^remote\..*\.promisor$").returncode == 0


def approximate_time(git: Git, text: str) -> float:
    """The time that a date such as ``2.weeks.ago`` or ``now`` means to Git, in seconds since the epoch.

    Raises GitError.
    """
    if text == "now":
        return time.time()
    answer = git.attempt("rev-parse", f"--since={text}")
    words = answer.stdout.decode(errors="replace").strip().partition("--max-age=")
    if answer.returncode or not words[2].isdigit():
        raise GitError(f"not a date: '{text}'", hint="say now, 3.days.ago or 2026-01-31")
    return float(words[2])
