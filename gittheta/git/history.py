"""Questions about commits: what they have in common, what they say, what they changed."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING

from gittheta.git.entries import Blob, FileChange

if TYPE_CHECKING:
    from gittheta.git.process import Git

_OID = re.compile(rb"[0-9a-f]{40,64}")


def merge_bases(git: Git, one: str, other: str) -> list[str]:
    """The best common ancestors of two commits: several if their histories cross."""
    return git.attempt("merge-base", "--all", one, other).stdout.decode().split()


def octopus_bases(git: Git, heads: Sequence[str]) -> list[str]:
    """The best common ancestors of all heads at once."""
    return git.attempt("merge-base", "--all", "--octopus", *heads).stdout.decode().split()


def independent(git: Git, heads: Iterable[str]) -> list[str]:
    """Those of some commits that no other of them contains."""
    names = list(dict.fromkeys(heads))
    return names if len(names) == 1 else git.run("merge-base", "--independent", *names).decode().split()


def parents(git: Git, commit: str) -> list[str]:
    """The parents of a commit, in order."""
    return git.line("rev-list", "--parents", "-1", commit).split()[1:]


def walk(git: Git, revisions: Iterable[str]) -> Iterator[Blob]:
    """Every blob that the revisions reach (``^`` excludes), each once, with a path that leads to it."""
    words = list(revisions)
    options = [word for word in words if word.startswith("--")]
    names = "".join(f"{word}\n" for word in words if not word.startswith("--"))
    asked = ("rev-list", "--objects", "--ignore-missing", "--stdin", *options)
    listed = git.run(*asked, stdin=names.encode())
    paths = {}
    for line in listed.split(b"\n"):
        oid, _, path = line.partition(b" ")
        if _OID.fullmatch(oid):
            paths[oid] = path
    if not paths:
        return
    kinds = ("cat-file", "--batch-check=%(objectname) %(objecttype)", "--buffer")
    for line in git.run(*kinds, stdin=b"\n".join(paths) + b"\n").splitlines():
        oid, _, kind = line.partition(b" ")
        if kind == b"blob":
            yield Blob(oid.decode(), os.fsdecode(paths[oid]))


def file_changes(git: Git, revisions: Iterable[str]) -> Iterator[FileChange]:
    """The files that commits wrote, oldest commit first; of a merge, those that no parent has like that."""
    listed = git.run("rev-list", "--reverse", "--topo-order", "--format=%cI", *revisions).decode().splitlines()
    dates = {line[len("commit ") :]: date for line, date in zip(listed[0::2], listed[1::2], strict=True)}
    compared = ("diff-tree", "--stdin", "-r", "-c", "--root", "--raw", "--no-abbrev", "--no-renames", "-z")
    changes = git.run(*compared, stdin="".join(f"{oid}\n" for oid in dates).encode())
    items = iter(os.fsdecode(changes).split("\0"))
    commit = ""
    for item in items:
        if not item.startswith(":"):
            commit = item
            continue
        # One colon for each parent; then the modes and blobs in each parent, those in the commit last.
        count = len(item) - len(item.lstrip(":"))
        words = item[count:].split(" ")
        mode, *oids = words[count : 2 * count + 2]
        before, path = tuple(oid for oid in oids[:-1] if oid.strip("0")), next(items)
        if mode.startswith("100") and oids[-1] not in before:
            yield FileChange(commit, dates[commit], path, oids[-1], before)
