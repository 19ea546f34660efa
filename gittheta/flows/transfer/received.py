"""What has been pushed into this repository: whether its objects came too. For the hook ``pre-receive``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import chain
from typing import TYPE_CHECKING

from gittheta.errors import ObjectMissing
from gittheta.flows.transfer.absent import lost
from gittheta.flows.transfer.needs import Needs, needed_objects
from gittheta.flows.transfer.remotes import missing_at, opened_remote
from gittheta.git.refs.names import heads_of_all

if TYPE_CHECKING:
    from gittheta.flows.workspace import Workspace
    from gittheta.model import ObjectId


def check_received(workspace: Workspace, commits: Sequence[str]) -> None:
    """Raise ObjectMissing if a checkpoint of some new commits needs an object that is not in the store.

    The store is this repository's own, or the place that its setting ``theta.url`` names. What refs had before is not
    looked at again. Raises RemoteError if that place cannot be asked.
    """
    if not commits:
        return
    needs = Needs(workspace)
    revisions = [*commits, *(f"^{oid}" for oid in heads_of_all(workspace.repository))]
    needed = needed_objects(chain(needs.within(revisions), *(needs.tip(commit) for commit in commits)))
    absent = _absent(workspace, needed) if needed else set()
    for absence in lost(workspace, revisions, absent) if absent else ():
        if absence.filtered:
            first, *more = sorted(absence.objects)
            count = f" and {len(more)} more" if more else ""
            raise ObjectMissing(
                f"object {first}{count} has not been pushed",
                path=absence.path,
                hint="on your machine: git theta install, then push again",
            )


def _absent(workspace: Workspace, needed: Mapping[ObjectId, int]) -> set[ObjectId]:
    url = workspace.repository.setting("theta.url")
    if not url:
        return workspace.tensors.store.missing(needed)
    with opened_remote(workspace, url, url) as remote:
        return missing_at(remote, needed)
