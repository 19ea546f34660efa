"""gc --remote: what no ref of any repository that pushes to a store needs leaves it, in two steps 14 days apart.

The order of the steps, and why it is safe while others push, is specified in ``docs/spec/store.md``.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from gittheta.errors import RemoteError
from gittheta.flows.maintain.gc import KEPT as WAIT
from gittheta.flows.maintain.gc import may_be_manifest, named_objects
from gittheta.flows.transfer.notes import (
    CANDIDATES,
    DELETING,
    Notes,
    canonical_url,
    read_notes,
    write_list,
)
from gittheta.flows.transfer.remotes import opened_remote
from gittheta.git.history import walk
from gittheta.git.refs.scratch import fetched_refs
from gittheta.git.rewriting.worktree import refuse_incomplete
from gittheta.storage.manifest import MAX_TEXT, claims_to_be_manifest
from gittheta.wording import shell_word, shown

if TYPE_CHECKING:
    from gittheta.flows.workspace import Workspace
    from gittheta.model import ObjectId
    from gittheta.remotes.managed import PatientManager

#: Seconds for which a collection may delete after it said so, and after which it counts as cut short.
_DELETING, _ABANDONED = 3600.0, 7200.0


@dataclass(frozen=True)
class RemoteCollected:
    """What was deleted on a remote, or would be, and what is on its list now."""

    #: The objects that were deleted, and their sizes in bytes.
    deleted: Mapping[ObjectId, int] = field(default_factory=dict)
    #: The objects on the list, and their sizes in bytes.
    listed: Mapping[ObjectId, int] = field(default_factory=dict)
    #: When the first of them may be deleted, in seconds since the epoch; None if the list is empty.
    earliest: float | None = None
    total: int = 0


def collect_remote(workspace: Workspace, name: str, url: str, now: float, *, dry_run: bool = False) -> RemoteCollected:
    """One of the two steps: put on the list what is not needed, and delete what was put there long enough ago.

    ``now`` is the time in seconds since the epoch. Raises RemoteError or GitError, and deletes nothing, if it cannot be
    known what is needed.
    """
    refuse_incomplete(workspace.repository.git)
    with _manager(workspace, name, url) as manager:
        notes = read_notes(manager)
        _refuse_other(notes, now)
        remotes = _repositories(workspace, name, url, notes)
        needed = _needed(workspace, remotes)
        present = manager.names()
        unneeded = {object_id: size for object_id, size in present.items() if object_id not in needed}
        dates = {
            object_id: notes.candidates[object_id]
            if object_id in notes.candidates and object_id not in notes.kept
            else now
            for object_id in unneeded
        }
        due = {object_id for object_id, date in dates.items() if date <= now - WAIT}
        if dry_run:
            deleted = due
        else:
            own, deleted = _delete(manager, notes, due, now) if due else ("", set())
            _renew_lists(manager, notes, {oid: date for oid, date in dates.items() if oid not in deleted}, now)
            if own:
                manager.remove_note(own)
        left = {object_id: size for object_id, size in unneeded.items() if object_id not in deleted}
        earliest = min((dates[object_id] + WAIT for object_id in left), default=None)
        return RemoteCollected({oid: unneeded[oid] for oid in sorted(deleted)}, left, earliest, len(present))


@contextmanager
def _manager(workspace: Workspace, name: str, url: str) -> Iterator[PatientManager]:
    from gittheta.remotes.managed import managed

    with opened_remote(workspace, name, url) as remote:
        manager = managed(remote)
        if manager is None:
            raise RemoteError(
                f"the objects of '{name}' are kept where nothing can be deleted this way",
                hint="folders and buckets can do it; a Git LFS server deletes by itself: see its manual",
            )
        reason = manager.reservation()
        if reason:
            raise RemoteError(reason, hint="nothing was deleted")
        yield manager


def _refuse_other(notes: Notes, now: float) -> None:
    for note in notes.deleting:
        if now - _time_of(note) < _ABANDONED:
            raise RemoteError(
                "another collection is deleting there",
                hint="wait until it has ended; after two hours it counts as dead",
            )


def _time_of(note: str) -> float:
    """The time in a note's name; one that is no number counts as the end of time."""
    text = note.split("-")[1] if note.count("-") == 2 else ""
    return float(text) if text.isdigit() else float("inf")


def _repositories(workspace: Workspace, name: str, url: str, notes: Notes) -> dict[str, str]:
    """The URL by which each repository can be fetched that pushes to the store, by its URL in notes."""
    repository = workspace.repository
    base = repository.top or repository.git_dir
    own = canonical_url(url, base)
    known = {own: url}
    pushers = {own, *notes.pushers.values()}
    for remote, fetched in repository.remotes().items():
        for place in (fetched, *repository.push_urls(remote)):
            known.setdefault(canonical_url(place, base), fetched)
    unknown = sorted(pushers - known.keys())
    if unknown:
        raise RemoteError(
            f"{shown(unknown[0])} pushes there too, and is not a remote of this repository",
            hint=f"git remote add NAME {shell_word(unknown[0])}, then this again; if it is gone for good: "
            f"git theta gc --remote {shell_word(name)} --forget {shell_word(unknown[0])}",
        )
    return {pusher: known[pusher] for pusher in pushers}


def _needed(workspace: Workspace, remotes: Mapping[str, str]) -> set[ObjectId]:
    """Every object that a manifest names which a ref of the repositories reaches, valid or not."""
    git = workspace.repository.git.as_stored()
    needed: set[ObjectId] = set()
    for url in sorted(set(remotes.values())):
        with fetched_refs(workspace.repository.git, url) as names:
            for blob in walk(git, names) if names else ():
                if may_be_manifest(blob.size):
                    text = workspace.stored_blobs.read(blob.oid, MAX_TEXT)
                    if text and claims_to_be_manifest(text):
                        needed |= named_objects(text)
    return needed


def _delete(manager: PatientManager, notes: Notes, due: set[ObjectId], now: float) -> tuple[str, set[ObjectId]]:
    """Delete what is due, unless somebody has taken it off the list by now; returns the note of it, and what is gone.

    After an error the note stays: a deletion whose answer was lost may still be carried out.
    """
    began = time.monotonic()
    own = write_list(manager, DELETING, now, sorted(due))
    since = read_notes(manager)
    others = since.deleting.keys() - notes.deleting.keys() - {own}
    if others or since.pushers.keys() - notes.pushers.keys():
        manager.remove_note(own)
        raise RemoteError("somebody else has begun to use the store", hint="nothing was deleted; run this again")
    gone = set()
    for object_id in sorted(due - since.kept):
        if time.monotonic() - began > _DELETING:
            break
        manager.remove(object_id)
        gone.add(object_id)
    return own, gone


def _renew_lists(manager: PatientManager, notes: Notes, dates: Mapping[ObjectId, float], now: float) -> None:
    """One list in place of those that were read, and of what was kept; what others have written since stays."""
    write_list(manager, CANDIDATES, now, (f"{object_id} {date:.0f}" for object_id, date in sorted(dates.items())))
    for name in notes.lists:
        manager.remove_note(name)
    for name in notes.deleting:
        manager.remove_note(name)


def forget_pusher(workspace: Workspace, name: str, url: str, gone: str) -> bool:
    """No longer keep on a remote what a repository needs that is gone for good; says whether it was known."""
    base = workspace.repository.top or workspace.repository.git_dir
    with _manager(workspace, name, url) as manager:
        for note, pusher in read_notes(manager).pushers.items():
            if pusher in (gone, canonical_url(gone, base)):
                manager.remove_note(note)
                return True
    return False
