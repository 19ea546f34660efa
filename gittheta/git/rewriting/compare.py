"""What differs between commits and those that were written in their place."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING

from gittheta.git.entries import Entry
from gittheta.git.trees import TreeChange

if TYPE_CHECKING:
    from gittheta.git.process import Git

#: Commits that are compared by one process.
_BATCH = 500
_OF_THE_HISTORY = (b"tree ", b"parent ")


@dataclass(frozen=True)
class RewrittenCommit:
    """An old commit, the one in its place, and how they differ."""

    old: str
    new: str
    changes: tuple[TreeChange, ...]
    #: The kinds of header that the new one has no more, such as ``gpgsig`` or ``mergetag``.
    lost: frozenset[str]
    #: Whether authors, dates, message and parents are as they should be.
    alike: bool


def compared(git: Git, new_of: Mapping[str, str]) -> Iterator[RewrittenCommit]:
    """Compare every commit with the one that was written in its place."""
    pairs = iter(new_of.items())
    while batch := dict(islice(pairs, _BATCH)):
        changes = _changes(git, batch)
        raw = _contents(git, [*batch, *batch.values()])
        for old, new in batch.items():
            before, after = _Headers.parse(raw[old]), _Headers.parse(raw[new])
            parents = tuple(new_of.get(parent, parent) for parent in before.parents)
            alike = (parents, before.kept, before.message) == (after.parents, after.kept, after.message)
            lost = frozenset(before.other) - frozenset(after.other)
            yield RewrittenCommit(old, new, tuple(changes.get(new, ())), lost, alike)


@dataclass(frozen=True)
class _Headers:
    parents: tuple[str, ...]
    kept: tuple[bytes, ...]
    other: frozenset[str]
    message: bytes

    @classmethod
    def parse(cls, content: bytes) -> _Headers:
        head, _, message = content.partition(b"\n\n")
        lines = [line for line in head.split(b"\n") if not line.startswith(b" ")]
        parents = tuple(line[7:].decode() for line in lines if line.startswith(b"parent "))
        kept = tuple(line for line in lines if line.startswith((b"author ", b"committer ", b"encoding ")))
        rest = [line for line in lines if line not in kept and not line.startswith(_OF_THE_HISTORY)]
        other = frozenset(line.partition(b" ")[0].decode(errors="replace") for line in rest)
        return cls(parents, kept, other, message)


def _changes(git: Git, batch: Mapping[str, str]) -> dict[str, list[TreeChange]]:
    """What each new commit has otherwise than the old one, by the new one."""
    stdin = "".join(f"{new} {old}\n" for old, new in batch.items() if old != new).encode()
    words = ("diff-tree", "--stdin", "-r", "--raw", "--no-abbrev", "--no-renames", "-z")
    items = iter(os.fsdecode(git.run(*words, stdin=stdin)).split("\0")[:-1])
    found: dict[str, list[TreeChange]] = {}
    commit = ""
    for item in items:
        if not item.startswith(":"):
            commit = item.strip()
            continue
        old_mode, mode, old_oid, oid, _ = item[1:].split(" ")
        path = next(items)
        old, new = Entry(old_mode, old_oid, path), Entry(mode, oid, path)
        change = TreeChange(old if old_oid.strip("0") else None, new if oid.strip("0") else None)
        found.setdefault(commit, []).append(change)
    return found


def _contents(git: Git, oids: list[str]) -> dict[str, bytes]:
    stdin = "".join(f"{oid}\n" for oid in dict.fromkeys(oids)).encode()
    answer = git.run("cat-file", "--batch", stdin=stdin)
    found: dict[str, bytes] = {}
    at = 0
    while at < len(answer):
        end = answer.index(b"\n", at)
        oid, _, size = answer[at:end].split(b" ")
        found[oid.decode()] = answer[end + 1 : end + 1 + int(size)]
        at = end + 2 + int(size)
    return found
