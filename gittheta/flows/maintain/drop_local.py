"""gc --drop-local: objects that are needed, but by nothing that is checked out, leave if a remote has them."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from gittheta.errors import GitError, RemoteError, StoreError
from gittheta.flows.maintain.gc import named_objects, refuse_if_unknown, texts_in_work_trees, texts_of_borrowers
from gittheta.flows.transfer.remotes import opened_remote
from gittheta.git.holdings import work_trees
from gittheta.git.operation import Kind, Operation
from gittheta.git.repository import Repository
from gittheta.storage.manifest import MAX_TEXT, claims_to_be_manifest
from gittheta.storage.objects import FRESH

if TYPE_CHECKING:
    from gittheta.flows.workspace import Workspace
    from gittheta.model import ObjectId

#: Objects that are set apart at a time.
_BATCH = 200


@dataclass
class Dropped:
    """What was deleted here, or would be: objects and their sizes in bytes; and what no remote has."""

    objects: dict[ObjectId, int] = field(default_factory=dict)
    #: Objects that are not checked out, and on no remote either.
    only_here: dict[ObjectId, int] = field(default_factory=dict)
    #: Why remotes could not be asked.
    reasons: list[str] = field(default_factory=list)

    @property
    def nbytes(self) -> int:
        """The bytes of all objects that are gone."""
        return sum(self.objects.values())


def drop_local(workspace: Workspace, *, dry_run: bool = False) -> Dropped:
    """Delete objects here that a remote confirms to hold, unless something that is checked out needs them.

    Raises StoreError where it cannot be known who needs objects of this store, and GitError in the middle of a merge.
    """
    refuse_if_unknown(workspace)
    _refuse_operations(workspace)
    store = workspace.tensors.store
    store.remove_abandoned()
    oldest = store.unfinished.oldest_claim()
    limit = time.time() if oldest is None else oldest - FRESH
    kept = set().union(*map(named_objects, _texts_at_hand(workspace)))
    sizes = {object_id: store.own_size(object_id) for object_id in store.all() if object_id not in kept}
    unused = {object_id: size for object_id, size in sizes.items() if _last_used(workspace, object_id) < limit}
    dropped = Dropped()
    names = sorted(unused)
    for at in range(0, len(names), _BATCH):
        batch = {object_id: unused[object_id] for object_id in names[at : at + _BATCH]}
        gone = _confirmed(workspace, batch, dropped)
        if gone and not dry_run:
            gone = _drop(workspace, batch, dropped)
        dropped.objects |= {object_id: batch[object_id] for object_id in sorted(gone)}
        dropped.only_here |= {object_id: size for object_id, size in batch.items() if object_id not in gone}
    return dropped


def _refuse_operations(workspace: Workspace) -> None:
    for top in work_trees(workspace.repository.git):
        operation = Operation.read(Repository.elsewhere(top))
        if operation.kind is not Kind.OTHER or operation.in_sequence:
            raise GitError(f"a {operation.kind.value} is going on in {top}", hint="finish it, or abort it")


def _texts_at_hand(workspace: Workspace) -> Iterator[bytes]:
    """The manifests of all that is checked out, and of whoever borrows from here."""
    for top in work_trees(workspace.repository.git):
        here = Repository.elsewhere(top)
        entries = [*here.index(), *(here.tree("HEAD") if here.commit("HEAD") else ())]
        for oid in dict.fromkeys(entry.oid for entry in entries if entry.mode.startswith("100")):
            text = workspace.stored_blobs.read(oid, MAX_TEXT)
            if text and claims_to_be_manifest(text):
                yield text
    yield from texts_in_work_trees(workspace)
    yield from texts_of_borrowers(workspace)


def _last_used(workspace: Workspace, object_id: ObjectId) -> float:
    with suppress(OSError):
        return workspace.tensors.store.last_used(object_id)
    return time.time()


def _drop(workspace: Workspace, objects: Mapping[ObjectId, int], dropped: Dropped) -> set[ObjectId]:
    """Set some objects apart, so that no remote can show them to us as its own; then ask, and delete or put back."""
    store = workspace.tensors.store
    apart: dict[ObjectId, Path] = {}
    try:
        for object_id in objects:
            path = store.set_apart(object_id)
            if path is not None:
                apart[object_id] = path
        confirmed = _confirmed(workspace, {object_id: objects[object_id] for object_id in apart}, dropped)
        for object_id in confirmed:
            apart.pop(object_id).unlink()
        return confirmed
    finally:
        for object_id, path in apart.items():
            store.put_back(object_id, path)


def _confirmed(workspace: Workspace, objects: Mapping[ObjectId, int], dropped: Dropped) -> set[ObjectId]:
    """Those of some objects that a remote has with the same length."""
    left = dict(objects)
    found: set[ObjectId] = set()
    for name, url in workspace.repository.remotes().items():
        wanted = left.keys() - found
        if not wanted:
            break
        try:
            with opened_remote(workspace, name, url) as remote:
                sizes = remote.sizes(wanted)
        except (RemoteError, StoreError) as error:
            _note(dropped.reasons, [f"{name}: {error.what}"])
            continue
        found |= {object_id for object_id in wanted if sizes.get(object_id) == left[object_id]}
    return found


def _note(reasons: list[str], new: Iterable[str]) -> None:
    reasons += [reason for reason in new if reason not in reasons]
