"""A net under the hooks: whether the objects of what this clone has pushed are where they should be.

A push without the hook (`--no-verify`, or hooks that another tool has replaced) moves a branch and leaves the objects
behind. Git then moves its remote-tracking branch, which is seen here. A remote is asked once for each such move; what
it answered is kept in ``theta/pushed``, a line each: remote, commit, objects missing (-1: not known), branch.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from itertools import chain
from typing import TYPE_CHECKING

from gittheta.errors import ThetaError
from gittheta.git.history import merge_bases
from gittheta.git.refs.tracking import TrackingRef, last_pushed, tracking_refs

if TYPE_CHECKING:
    from pathlib import Path

    from gittheta.flows.workspace import Workspace

_UNKNOWN = -1
#: Bytes above which the list is written anew, with what still counts.
_LONG = 256 << 10


@dataclass(frozen=True, slots=True)
class Unsent:
    """A branch on a remote, and how many objects of its models that remote lacks; None if it could not be asked."""

    remote: str
    branch: str
    commit: str
    count: int | None

    def line(self, workspace: Workspace) -> str:
        """What happened, and what to do now, in one line."""
        # The local branch of that name may be another one, or none.
        here = workspace.repository.commit(f"refs/heads/{self.branch}") == self.commit
        command = f"git theta push {self.remote} {self.branch if here else f'{self.remote}/{self.branch}'}"
        objects = "an unknown number of" if self.count is None else str(self.count)
        noun = "object" if self.count == 1 else "objects"
        return f"{self.remote} lacks {objects} {noun} of the models on its branch {self.branch}: {command}"


@dataclass(frozen=True, slots=True)
class _Entry:
    remote: str
    commit: str
    count: int
    branch: str

    def text(self) -> str:
        return f"{self.remote}\t{self.commit}\t{self.count}\t{self.branch}\n"


def warn_of_unsent(workspace: Workspace, *, again: bool = False) -> None:
    """Look at the branches that pushes have moved since the last look, and warn. Never fails, and stops nobody.

    With ``again``, of those as well that were named before and still wait.
    """
    with suppress(ThetaError, OSError):
        for unsent in (unsent_branches if again else look_at_pushes)(workspace):
            workspace.reporter.warn(unsent.line(workspace))


def look_at_pushes(workspace: Workspace) -> list[Unsent]:
    """Ask about each branch that a push has moved since the last look, once. What a first look finds counts as sent."""
    path = _list(workspace)
    if not path.parent.is_dir():
        return []
    first = not path.exists()
    entries = _read(path)
    known = {(entry.remote, entry.commit) for entry in entries}
    moved = [ref for ref in _tracking(workspace) if (ref.remote, ref.commit) not in known]
    new = [_Entry(ref.remote, ref.commit, 0, ref.branch) if first else _look(workspace, ref, entries) for ref in moved]
    if new or first:
        _append(workspace, new)
    return [_unsent(entry) for entry in new if entry.count > 0]


def unsent_branches(workspace: Workspace) -> list[Unsent]:
    """The branches that still stand where a push without objects has left them. Asks only about what has moved."""
    look_at_pushes(workspace)
    return [_unsent(entry) for entry in _waiting(workspace)]


def _waiting(workspace: Workspace) -> list[_Entry]:
    latest = {(entry.remote, entry.commit): entry for entry in _read(_list(workspace))}
    standing = [latest.get((ref.remote, ref.commit)) for ref in _tracking(workspace)]
    return [entry for entry in standing if entry and entry.count]


def note_sent(workspace: Workspace, remote: str, revisions: Iterable[str]) -> None:
    """Remember that a remote has the objects of some revisions (`--all`: of all that is known here)."""
    words = list(revisions)
    with suppress(ThetaError, OSError):
        if not _list(workspace).exists():
            look_at_pushes(workspace)
        named = [workspace.repository.commit(word) for word in words if not word.startswith("-")]
        commits = [commit for commit in named if commit]
        waiting = [ref.commit for ref in _waiting(workspace) if ref.remote == remote]
        commits += [commit for commit in waiting if "--all" in words or _contain(workspace, commits, commit)]
        _append(workspace, [_Entry(remote, commit, 0, "") for commit in dict.fromkeys(commits)])


def _contain(workspace: Workspace, commits: Iterable[str], commit: str) -> bool:
    git = workspace.repository.git
    return any(merge_bases(git, commit, other) == [commit] for other in commits)


def _tracking(workspace: Workspace) -> list[TrackingRef]:
    names = [key[7:-4] for key in workspace.repository.config if key.startswith("remote.") and key.endswith(".url")]
    return list(tracking_refs(workspace.repository, names)) if names else []


def _look(workspace: Workspace, ref: TrackingRef, entries: Iterable[_Entry]) -> _Entry:
    """One look: what was fetched is not ours to send, of what was pushed the remote must have the objects."""
    known = {entry.commit: entry.count for entry in entries if entry.remote == ref.remote}
    pushed = last_pushed(workspace.repository, ref, known)
    sent = [commit for commit, count in known.items() if count == 0]
    try:
        count = _count_missing(workspace, ref.remote, pushed, sent) if pushed else 0
    except (ThetaError, OSError):
        count = _UNKNOWN
    return _Entry(ref.remote, ref.commit, count, ref.branch)


def _count_missing(workspace: Workspace, remote: str, commit: str, sent: Iterable[str]) -> int:
    from gittheta.flows.transfer.needs import Needs, needed_objects
    from gittheta.flows.transfer.remotes import missing_at, opened_remote

    needs = Needs(workspace)
    history = needs.within([commit, *(f"^{oid}" for oid in sent)], only_here=True)
    needed = needed_objects(chain(history, needs.tip(commit, only_here=True)))
    if not needed:
        return 0
    with opened_remote(workspace, remote, workspace.repository.remotes()[remote]) as opened:
        return len(missing_at(opened, needed))


def _unsent(entry: _Entry) -> Unsent:
    return Unsent(entry.remote, entry.branch, entry.commit, None if entry.count == _UNKNOWN else entry.count)


def _list(workspace: Workspace) -> Path:
    return workspace.repository.common_dir / "theta" / "pushed"


def _read(path: Path) -> list[_Entry]:
    try:
        lines = os.fsdecode(path.read_bytes()).splitlines()
    except OSError:
        return []
    words = [line.split("\t") for line in lines]
    return [
        _Entry(item[0], item[1], int(item[2]), item[3])
        for item in words
        if len(item) == 4 and item[2].lstrip("-").isdigit()
    ]


def _append(workspace: Workspace, entries: Iterable[_Entry]) -> None:
    path = _list(workspace)
    if not path.parent.is_dir():
        return
    with open(workspace.permissions.append_to(path), "ab") as file:
        file.write(os.fsencode("".join(entry.text() for entry in entries)))
    if path.stat().st_size > _LONG:
        _shorten(workspace, path)


def _shorten(workspace: Workspace, path: Path) -> None:
    """Keep what is said of branches as they stand, and the last lines: a push may just be noting some."""
    current = {(ref.remote, ref.commit) for ref in _tracking(workspace)}
    entries = _read(path)
    kept = [entry for entry in entries[:-100] if (entry.remote, entry.commit) in current] + entries[-100:]
    temporary = path.with_name(f"{path.name}.{os.urandom(4).hex()}.new")
    try:
        temporary.write_bytes(os.fsencode("".join(entry.text() for entry in kept)))
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
