"""Which operation of Git is under way in a work tree, and which commits take part in it."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from gittheta.git.repository import Repository

#: `git merge` sets a variable for each head that it merges: this prefix and the commit; the value is the user's name.
_NAMED_HEAD = "GITHEAD_"
#: While one of these folders is in the git directory, a command is at work that will not read the index again.
_SEQUENCES = ("rebase-merge", "rebase-apply", "sequencer")


class Kind(Enum):
    """What is being done."""

    MERGE = "merge"
    REBASE = "rebase"
    PICK = "pick"
    REVERT = "revert"
    #: Nothing, or something that leaves no trace: `git stash pop`, `git checkout --merge`.
    OTHER = "other"


@dataclass(frozen=True)
class Operation:
    """An operation of Git as it stood when it was read. Read once by the command line, and handed down."""

    kind: Kind
    #: The commit of HEAD; empty before the first commit.
    head: str = ""
    #: The commits that are merged into HEAD, sorted; none unless this is a merge.
    heads: tuple[str, ...] = ()
    #: What the user calls the heads, by commit: known only while `git merge` itself runs.
    names: Mapping[str, str] = field(default_factory=dict)
    #: Whether Git picks several commits one after the other, and would take what a hook writes for a change.
    in_sequence: bool = False

    @classmethod
    def read(cls, repository: Repository) -> Operation:
        """What is going on in the work tree of a repository. Starts Git once."""
        environment = repository.git.environment
        names = {key.removeprefix(_NAMED_HEAD): name for key, name in environment.items() if _NAMED_HEAD in key[:8]}
        folder = repository.git_dir
        merged = _lines(folder / "MERGE_HEAD")
        # MERGE_HEAD may name a tag; what counts is the commit.
        commits = repository.commits("HEAD", *merged)
        heads = tuple(sorted(names or commits[1:]))
        in_sequence = any((folder / name).is_dir() for name in _SEQUENCES)
        return cls(_kind(folder, merges=bool(heads)), commits[0], heads, names, in_sequence)

    @property
    def is_running_merge(self) -> bool:
        """Whether `git merge` itself runs, rather than a command in the middle of a merge that has stopped."""
        return bool(self.names)


def _kind(folder: Path, *, merges: bool) -> Kind:
    if merges:
        return Kind.MERGE
    if any((folder / name).is_dir() for name in ("rebase-merge", "rebase-apply")):
        return Kind.REBASE
    if (folder / "REVERT_HEAD").exists():
        return Kind.REVERT
    if (folder / "CHERRY_PICK_HEAD").exists() or (folder / "sequencer").is_dir():
        return Kind.PICK
    return Kind.OTHER


def _lines(path: Path) -> list[str]:
    try:
        return os.fsdecode(path.read_bytes()).split()
    except OSError:
        return []
