"""fetch: what is needed and not here, from the likeliest remote first."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING

from gittheta.errors import ObjectCorrupt, ObjectMissing, RemoteError
from gittheta.flows.transfer.needs import manifests_in, needed_objects, tensor_needing
from gittheta.flows.transfer.remotes import opened_remote, uncounted
from gittheta.storage.files import HINT_CORRUPT
from gittheta.wording import counted

if TYPE_CHECKING:
    from gittheta.api import Remote
    from gittheta.flows.workspace import Workspace
    from gittheta.model import Manifest, ObjectId


def fetch_missing(workspace: Workspace, manifest: Manifest) -> int:
    """Get the objects of a checkpoint that are not here, from any remote; returns how many. Raises ObjectMissing."""
    missing = workspace.tensors.store.missing(manifest.objects())
    if not missing:
        return 0
    count = len(missing)
    tried = download(workspace, dict.fromkeys(missing, 0))
    missing = workspace.tensors.store.missing(manifest.objects())
    if missing:
        object_id = min(missing)
        if workspace.tensors.store.find(object_id):
            raise ObjectCorrupt(
                f"object {object_id} is truncated",
                tensor=tensor_needing(manifest, object_id),
                hint=HINT_CORRUPT,
            )
        raise ObjectMissing(
            f"object {object_id} is not in the store" + "".join(f"; {reason}" for reason in tried),
            tensor=tensor_needing(manifest, object_id),
            hint="push it from a clone that has it: git theta push; if the models lie elsewhere than the commits:\n"
            "  git config remote.NAME.thetaUrl URL",
        )
    return count


def fetch_objects(workspace: Workspace, needed: Mapping[ObjectId, int]) -> None:
    """Get those of some objects that are not here, as far as any remote has them."""
    missing = workspace.tensors.store.missing(needed)
    if missing:
        download(workspace, dict.fromkeys(missing, 0))


def download(workspace: Workspace, wanted: Mapping[ObjectId, int], only: str | None = None) -> list[str]:
    """Get objects from the remotes, the likeliest first; returns what stood in the way of each remote."""
    left = set(wanted)
    reasons: list[str] = []
    for name, url in workspace.repository.remotes().items():
        if not left or (only is not None and name != only):
            continue
        try:
            with opened_remote(workspace, name, url) as remote:
                here = set(remote.sizes(left))
                if left - here:
                    reasons.append(f"remote '{name}' does not have it")
                failed = _download_from(workspace, remote, here)
        except RemoteError as error:
            reasons.append(f"remote '{name}': {error.what}")
            continue
        reasons += [f"remote '{name}': {what}" for what in failed.values()]
        left -= here - failed.keys()
    if not workspace.repository.remotes():
        reasons.append("there is no remote")
    return reasons


def _download_from(workspace: Workspace, remote: Remote, objects: Iterable[ObjectId]) -> dict[ObjectId, str]:
    """Get some objects; returns what was wrong with those that did not arrive whole."""
    workspace.reporter.start("Downloading model objects", 0)

    def get(object_id: ObjectId) -> tuple[ObjectId, str]:
        try:
            workspace.tensors.store.import_file(object_id, lambda target: remote.download(object_id, target, uncounted))
        except ObjectCorrupt:
            return object_id, f"its copy of {object_id} is damaged"
        except RemoteError as error:
            return object_id, error.what
        return object_id, ""

    return {object_id: what for object_id, what in workspace.tensors.workers.map(get, sorted(objects)) if what}


def fetch_revisions(workspace: Workspace, revisions: Iterable[str], only: str | None = None) -> int:
    """Get every object that the revisions need and that is not here; returns how many. Raises ObjectMissing."""
    needed = needed_objects(manifest for _, manifest in manifests_in(workspace, revisions))
    missing = workspace.tensors.store.missing(needed)
    reasons = download(workspace, dict.fromkeys(missing, 0), only)
    still = workspace.tensors.store.missing(dict.fromkeys(missing, 0))
    if still:
        raise ObjectMissing(
            f"{counted(len(still), 'object')} not found, {min(still)} among them"
            + "".join(f"; {why}" for why in reasons),
            hint="push them from a clone that has them: git theta push; if the models lie elsewhere than the commits:\n"
            "  git config remote.NAME.thetaUrl URL",
        )
    return len(missing)
