"""copy-store: every object of one store in another, past the store of this repository."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING

from gittheta.errors import ObjectCorrupt, RemoteError
from gittheta.flows.transfer.moving import uncounted
from gittheta.flows.transfer.needs import Needs, needed_objects
from gittheta.flows.transfer.remotes import OpenedRemote, missing_at, opened_remote
from gittheta.model import ObjectId
from gittheta.remotes.managed import managed

if TYPE_CHECKING:
    from gittheta.api import BatchRemote
    from gittheta.flows.workspace import Workspace


@dataclass(frozen=True)
class Copied:
    """What a copy did, or would do."""

    #: Objects that the source has, of those that were looked for.
    objects: int
    #: Of these, the ones that the target lacked, and their bytes.
    sent: int
    nbytes: int
    #: Whether the source could list its objects; otherwise only those were looked for that this repository's refs need.
    complete: bool
    #: Objects of which the source has a damaged copy, or none.
    lost: tuple[ObjectId, ...] = ()


def copy_store(workspace: Workspace, source: str, target: str, *, dry_run: bool = False) -> Copied:
    """Send what one store has and another lacks. Each object is compared with its name on the way.

    A store is that of a Git remote of this name, or the one at this URL. Where the source cannot list its objects,
    those are sent that the refs of this repository need. Raises RemoteError.
    """
    with _opened(workspace, source) as here, _opened(workspace, target) as there:
        manager = managed(here)
        if manager is not None:
            sizes = manager.names()
            lost = set[ObjectId]()
        else:
            needs = Needs(workspace)
            needed = needed_objects(needs.within(["--all"]))
            needs.warn()
            sizes = dict(here.sizes(needed))
            lost = needed.keys() - sizes.keys()
        lacking = sorted(missing_at(there, sizes))
        workspace.reporter.start("Copying model objects", sum(sizes[object_id] for object_id in lacking))
        if not dry_run:
            lost |= _copy(workspace, here, there, lacking)
    sent = [object_id for object_id in lacking if object_id not in lost]
    return Copied(len(sizes), len(sent), sum(sizes[name] for name in sent), manager is not None, tuple(sorted(lost)))


def _opened(workspace: Workspace, word: str) -> AbstractContextManager[OpenedRemote]:
    url = workspace.repository.remotes().get(word)
    return opened_remote(workspace, word, url or word, exact=url is None)


def _copy(workspace: Workspace, here: BatchRemote, there: BatchRemote, objects: list[ObjectId]) -> set[ObjectId]:
    """Send some objects; returns those that the source does not have whole. Raises RemoteError if the target fails."""
    store = workspace.tensors.store

    def send(object_id: ObjectId) -> ObjectId | None:
        temporary = store.temporary()
        try:
            with suppress(RemoteError):
                here.download(object_id, temporary, uncounted)
            if not temporary.exists():
                return object_id
            there.upload(object_id, temporary, uncounted)  # compares it with its name
        except ObjectCorrupt:
            return object_id
        finally:
            temporary.unlink(missing_ok=True)
        return None

    pool = ThreadPoolExecutor(workspace.settings.transfers, "gittheta-copy")
    try:
        return set(filter(None, pool.map(send, objects)))
    finally:
        pool.shutdown(cancel_futures=True)
