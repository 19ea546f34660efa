"""The index: its entries, what it remembers of files, and putting other content there."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING

from gittheta.errors import GitError
from gittheta.git.entries import Entry

if TYPE_CHECKING:
    from gittheta.git.process import Git

_DEBUG_SIZE = re.compile(r"([^\0]*)\0  ctime: [^\0]*?\n  size: ([0-9]+)\tflags: [0-9a-f]+\n")


def entries(git: Git) -> Iterator[Entry]:
    """The entries of the index, unmerged ones too."""
    for item in os.fsdecode(git.run("ls-files", "-z", "--stage")).split("\0")[:-1]:
        words, _, path = item.partition("\t")
        mode, oid, stage = words.split(" ")
        yield Entry(mode, oid, path, int(stage))


def blob_sizes(git: Git, oids: Iterable[str]) -> dict[str, int]:
    """The size in bytes of each of some blobs; those that are not here are left out."""
    stdin = "".join(f"{oid}\n" for oid in dict.fromkeys(oids)).encode()
    if not stdin:
        return {}
    listed = git.run("cat-file", "--batch-check=%(objectname) %(objectsize)", "--buffer", stdin=stdin).decode()
    pairs = (line.split(" ") for line in listed.splitlines())
    return {oid: int(size) for oid, size in pairs if size.isdigit()}


def remembered_sizes(git: Git) -> dict[str, int]:
    """The size in bytes that the index remembers of each file; 0 where it has none.

    Git promises no format for what this reads, so it is checked against the number of entries. Raises GitError.
    """
    listed = os.fsdecode(git.run("ls-files", "-z", "--debug"))
    sizes = _DEBUG_SIZE.findall(listed)
    expected = git.run("ls-files", "-z").count(b"\0")
    if len(sizes) != expected:
        raise GitError(
            f"git ls-files --debug speaks of {len(sizes)} files in a way that is understood, the index has {expected}",
            hint="this version of Git is newer than gittheta: upgrade gittheta",
        )
    return {path: int(size) for path, size in sizes}


def staged_changes(git: Git, commit: str) -> list[str]:
    """The paths whose entries differ from a commit's."""
    listed = git.run("diff-index", "--cached", "--name-only", "-z", commit, "--")
    return os.fsdecode(listed).split("\0")[:-1]


def changed_files(git: Git, paths: Sequence[str]) -> list[str]:
    """Those of some paths whose files in the work tree differ from the index. Files that were deleted do not count."""
    words = ("diff-files", "--name-only", "-z", "--diff-filter=d", "--", *paths)
    return os.fsdecode(git.run("--literal-pathspecs", *words)).split("\0")[:-1]


def untracked_files(git: Git) -> list[str]:
    """The files of the work tree that the index does not have, ignored ones too."""
    return [
        path for path in os.fsdecode(git.run("ls-files", "-z", "--others")).split("\0") if path[-1:] not in ("", "/")
    ]
