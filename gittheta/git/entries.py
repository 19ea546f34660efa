"""Files as Git lists them: in a tree, in the index, in history."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Entry:
    """A file in a tree or in the index."""

    mode: str
    oid: str
    path: str
    stage: int = 0


@dataclass(frozen=True, slots=True)
class Blob:
    """A blob that a walk of history met, one path that led to it, and its size in bytes."""

    oid: str
    path: str
    size: int = 0


@dataclass(frozen=True, slots=True)
class FileChange:
    """What a commit made of one file; ``before`` are its blobs in the commit's parents, where it was there."""

    commit: str
    date: str
    path: str
    oid: str
    before: tuple[str, ...]
