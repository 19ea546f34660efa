"""push: revisions -> manifests -> objects -> what the remote lacks -> upload. Objects before refs."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from itertools import chain
from typing import TYPE_CHECKING

from gittheta.errors import ObjectMissing, RemoteError
from gittheta.flows.transfer.needs import manifests_in, needed_objects, tip_manifests
from gittheta.flows.transfer.remotes import missing_at, opened_remote, uncounted
from gittheta.storage.files import HINT_MISSING

if TYPE_CHECKING:
    from gittheta.api import Remote
    from gittheta.flows.workspace import Workspace
    from gittheta.model import ObjectId


@dataclass(frozen=True, slots=True)
class RefUpdate:
    """A ref that is about to move on a remote: the commit it will name, and the one it names now (zeros: none)."""

    new: str
    old: str


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
    RemoteError or ObjectMissing, and then no ref may move.
    """
    updates = [update for update in updates if update.new.strip("0")]
    revisions = revisions_to_push(workspace, url, updates)
    if not revisions:
        return 0
    tips = chain.from_iterable(tip_manifests(workspace, update.new) for update in updates)
    needed = needed_objects(manifest for _, manifest in chain(manifests_in(workspace, revisions), tips))
    if not needed:
        return 0
    with opened_remote(workspace, name, url) as remote:
        return upload(workspace, remote, needed)


def upload(workspace: Workspace, remote: Remote, needed: Mapping[ObjectId, int]) -> int:
    """Send those objects that the remote lacks. Raises ObjectMissing if one of them is not here either."""
    lacking = sorted(missing_at(remote, needed))
    sources = {object_id: workspace.tensors.store.find(object_id) for object_id in lacking}
    for object_id, source in sources.items():
        if source is None:
            raise ObjectMissing(f"object {object_id} is neither here nor on the remote", hint=HINT_MISSING)
    sizes = {object_id: source.stat().st_size for object_id, source in sources.items() if source}
    workspace.reporter.start("Uploading model objects", sum(sizes.values()))
    for object_id, source in sources.items():
        if source is not None:
            remote.upload(object_id, source, uncounted)
    still = missing_at(remote, sizes)
    if still:
        raise RemoteError(f"{len(still)} objects did not arrive, {min(still)} among them", hint="push again")
    return len(lacking)
