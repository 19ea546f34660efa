"""Remote-tracking branches: where they stand, and whether a push of this clone moved them there."""

from __future__ import annotations

import os
from collections.abc import Container, Iterable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from gittheta.git.repository import Repository

_PREFIX = "refs/remotes/"
#: What Git writes into the reflog of a remote-tracking branch when a push has moved it.
_BY_PUSH = "update by push"
#: Entries of a reflog that are looked at, the newest ones.
_ENTRIES = 100
_TAIL = 64 << 10


@dataclass(frozen=True, slots=True)
class TrackingRef:
    """What this clone believes of a branch on a remote."""

    name: str
    commit: str
    remote: str
    branch: str


def tracking_refs(repository: Repository, remotes: Iterable[str]) -> Iterator[TrackingRef]:
    """The remote-tracking branches of some remotes. Starts Git once."""
    longest_first = sorted(remotes, key=len, reverse=True)
    listed = repository.git.run("for-each-ref", "--format=%(objectname) %(refname) %(symref)", _PREFIX)
    for line in os.fsdecode(listed).splitlines():
        commit, name, symref = line.split(" ")
        remote = next((each for each in longest_first if name.startswith(f"{_PREFIX}{each}/")), None)
        if remote is not None and not symref:
            yield TrackingRef(name, commit, remote, name.removeprefix(f"{_PREFIX}{remote}/"))


def last_pushed(repository: Repository, ref: TrackingRef, known: Container[str]) -> str | None:
    """The newest commit to which a push has moved a branch after it stood at a known one; None if none has.

    Where Git keeps no reflog, every move may have been a push.
    """
    entries = list(_reflog(repository, ref.name))
    for commit, message in entries:
        if commit in known:
            return None
        if message == _BY_PUSH:
            return commit
    return None if entries else ref.commit


def _reflog(repository: Repository, name: str) -> Iterator[tuple[str, str]]:
    """Commits and messages, the newest first."""
    try:
        with open(repository.common_dir / "logs" / name, "rb") as file:
            file.seek(max(0, os.fstat(file.fileno()).st_size - _TAIL))
            lines = os.fsdecode(file.read()).splitlines()
    except OSError:
        words = ("reflog", "show", f"-{_ENTRIES}", "--format=%H%x09%gs", name, "--")
        for line in os.fsdecode(repository.git.attempt(*words).stdout).splitlines():
            commit, _, message = line.partition("\t")
            yield commit, message
        return
    for line in lines[: -_ENTRIES - 1 : -1]:
        head, _, message = line.partition("\t")
        commits = head.split(" ", 2)  # before, after, and who did it
        if len(commits) == 3:
            yield commits[1], message
