"""push: revisions -> manifests -> objects -> what the remote lacks -> upload. Objects before refs."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import chain
from typing import TYPE_CHECKING

from gittheta.errors import ObjectCorrupt, ObjectMissing, RemoteError, StoreError
from gittheta.flows.transfer.absent import Absence, lost
from gittheta.flows.transfer.fetch import Asked, download
from gittheta.flows.transfer.moving import Mover
from gittheta.flows.transfer.needs import Needs, needed_objects
from gittheta.flows.transfer.notes import announce, canonical_url, rely_on
from gittheta.flows.transfer.pointers import add_pointers
from gittheta.flows.transfer.remotes import is_chosen, missing_at, opened_remote
from gittheta.flows.transfer.selection import EVERYTHING, Selection
from gittheta.git.history import promisors
from gittheta.wording import quoted

if TYPE_CHECKING:
    from gittheta.api import BatchRemote
    from gittheta.flows.workspace import Workspace
    from gittheta.model import ObjectId
    from gittheta.remotes.managed import PatientManager


@dataclass(frozen=True, slots=True)
class RefUpdate:
    """A ref that is about to move on a remote: the commit it will name, and the one it names now (zeros: none)."""

    new: str
    old: str


@dataclass(frozen=True)
class Pushed:
    """What a push did: objects that were needed, those that were sent, and why others were not."""

    needed: int
    sent: int
    #: Bytes of what was sent.
    nbytes: int = 0
    problems: tuple[StoreError, ...] = ()


def revisions_to_push(workspace: Workspace, url: str, updates: Iterable[RefUpdate]) -> list[str]:
    """The history that a push sends, as words for `rev-list`; empty if it sends none.

    What the remote has is asked of that very remote: remote-tracking branches may speak of another URL.
    """
    updates = list(updates)
    known = [update.old for update in updates if update.old.strip("0")]
    if len(known) < len(updates):
        known += workspace.repository.remote_heads(url)
    return [*(update.new for update in updates), *(f"^{oid}" for oid in known)] if updates else []


def push_objects(workspace: Workspace, name: str, url: str, updates: Iterable[RefUpdate]) -> int:
    """Send every object that the new history needs and the remote lacks; returns how many.

    The trees of the new heads are looked at whole, so that what an earlier push left out is sent now. Raises
    RemoteError or StoreError, and then no ref may move.
    """
    updates = [update for update in updates if update.new.strip("0")]
    revisions = revisions_to_push(workspace, url, updates)
    if not revisions:
        return 0
    heads = [update.new for update in updates]
    pushed = _push(workspace, name, url, revisions, heads, EVERYTHING, whole=True)
    for problem in pushed.problems:
        raise problem
    return pushed.sent


def push_revisions(
    workspace: Workspace, name: str, url: str, revisions: Iterable[str], selection: Selection = EVERYTHING
) -> Pushed:
    """Send what is here, or can be fetched from elsewhere, of all that the revisions need and the remote lacks.

    Raises RemoteError.
    """
    return _push(workspace, name, url, list(revisions), (), selection, whole=False)


def plan_push(
    workspace: Workspace, name: str, url: str, revisions: Iterable[str], selection: Selection = EVERYTHING
) -> Pushed:
    """What :func:`push_revisions` would send of what is here. Raises RemoteError."""
    needs = Needs(workspace, selection)
    needed = needed_objects(needs.within(revisions, only_here=name in promisors(workspace.repository.git)))
    needs.warn()
    if not needed:
        return Pushed(0, 0)
    with opened_remote(workspace, name, url) as remote:
        lacking = missing_at(remote, needed)
    paths = list(filter(None, map(workspace.tensors.store.find, lacking)))
    return Pushed(len(needed), len(paths), sum(path.stat().st_size for path in paths))


def _push(
    workspace: Workspace,
    name: str,
    url: str,
    revisions: list[str],
    heads: Iterable[str],
    selection: Selection,
    *,
    whole: bool,
) -> Pushed:
    """With ``whole``, nothing is sent unless all can be."""
    needs = Needs(workspace, selection)
    # What a partial clone lacks it would get from its remote, which has it already.
    only_here = name in promisors(workspace.repository.git)
    tips = chain.from_iterable(needs.tip(head, only_here=only_here) for head in heads)
    needed = needed_objects(chain(needs.within(revisions, only_here=only_here), tips))
    needs.warn()
    if not needed:
        return Pushed(0, 0)
    with opened_remote(workspace, name, url) as remote:
        manager = _announced(workspace, remote, name, url)
        lacking = {object_id: needed[object_id] for object_id in missing_at(remote, needed)}
        absent = workspace.tensors.store.missing(lacking)
        asked = download(workspace, absent, but=url)
        absent = workspace.tensors.store.missing(lacking)
        problems = list(_absences(workspace, revisions, absent, asked, name)) if absent else []
        if problems and whole:
            return Pushed(len(needed), 0, 0, tuple(problems))
        here = {object_id: size for object_id, size in lacking.items() if object_id not in absent}
        damaged = _upload(workspace, remote, here)
        if damaged:  # another remote may have whole copies
            download(workspace, damaged, but=url)
            damaged = _upload(workspace, remote, {object_id: here[object_id] for object_id in damaged})
        if remote.wants_pointers:  # only now: each of them has arrived
            absent_there = absent | damaged.keys()
            add_pointers(workspace, name, url, {key: size for key, size in needed.items() if key not in absent_there})
        if manager is not None:
            away = lacking.keys() - (here.keys() - damaged.keys())
            _hold(manager, remote, {object_id: size for object_id, size in needed.items() if object_id not in away})
    sent = here.keys() - damaged.keys()
    nbytes = sum(path.stat().st_size for path in map(workspace.tensors.store.find, sent) if path)
    return Pushed(len(needed), len(sent), nbytes, (*problems, *damaged.values()))


def _announced(workspace: Workspace, remote: BatchRemote, name: str, url: str) -> PatientManager | None:
    """The part of a remote that deletes, if it can; where others may use it too, they know now who pushes there."""
    from gittheta.remotes.managed import managed

    manager = managed(remote)
    if manager is not None and is_chosen(workspace, name):
        repository = workspace.repository
        announce(manager, canonical_url(url, repository.top or repository.git_dir))
    return manager


def _hold(manager: PatientManager, remote: BatchRemote, needed: Mapping[ObjectId, int]) -> None:
    """Keep what was pushed, and what was there already, from collections. Raises RemoteError if something is gone."""
    if rely_on(manager, needed, time.time()):
        gone = missing_at(remote, needed)
        if gone:
            what = f"{len(gone)} objects were deleted there in the meantime, {min(gone)} among them"
            raise RemoteError(what, hint="push again")


def _absences(
    workspace: Workspace, revisions: list[str], absent: set[ObjectId], asked: Asked, name: str
) -> Iterator[ObjectMissing]:
    """An error for each checkpoint that needs what is nowhere; a warning for each manifest that is only a text."""
    for absence in lost(workspace, revisions, absent):
        if absence.filtered:
            yield _missing(absence, asked, name)
        else:
            workspace.reporter.warn(absence.warning())


def _missing(absence: Absence, asked: Asked, name: str) -> ObjectMissing:
    first, *more = sorted(absence.objects)
    count = f" and {len(more)} more" if more else ""
    elsewhere = "".join(f"; {reason}" for reason in asked.reasons if reason != "there is no remote")
    return ObjectMissing(
        f"object {first}{count} is neither here nor on {quoted(name)}{elsewhere}",
        path=absence.path,
        hint="get it with `git theta fetch --all` from a remote that has it, or `git theta push --all` from a clone",
    )


def _upload(
    workspace: Workspace, remote: BatchRemote, objects: Mapping[ObjectId, int]
) -> dict[ObjectId, ObjectCorrupt]:
    """Send objects that are here; returns what is wrong with those that are damaged. Raises RemoteError."""
    store = workspace.tensors.store
    paths = {object_id: path for object_id in sorted(objects) if (path := store.find(object_id))}
    damaged = Mover(workspace, remote, workspace.settings.transfers).send(paths)
    still = missing_at(remote, {object_id: size for object_id, size in objects.items() if object_id not in damaged})
    if still:
        raise RemoteError(f"{len(still)} objects did not arrive, {min(still)} among them", hint="push again")
    return damaged
