"""push and fetch: revisions -> manifests -> objects -> what the other side lacks -> transfer. Objects before refs."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from itertools import chain

from gittheta.api import Remote
from gittheta.errors import ManifestError, ObjectCorrupt, ObjectMissing, RemoteError
from gittheta.flows.workspace import Workspace
from gittheta.git import Blob
from gittheta.model import Manifest, ObjectId
from gittheta.store import MEND_CORRUPT, MEND_MISSING


@dataclass(frozen=True, slots=True)
class RefUpdate:
    """A ref that is about to move on a remote: the commit it will name, and the one it names now (zeros: none)."""

    new: str
    old: str


def open_remote(workspace: Workspace, name: str, url: str) -> Remote:
    """What keeps the objects of a Git remote. Raises RemoteError if nothing here can."""
    chosen = workspace.repository.setting(f"remote.{name}.thetaurl") or url
    base = workspace.repository.top or workspace.repository.git_dir
    for kind in workspace.registry.remotes():
        remote = kind.at(chosen, base)
        if remote is not None:
            return remote
    raise RemoteError(
        f"no installed remote can keep model objects at {chosen}",
        mend=f"name a folder that everyone can reach: git config remote.{name}.thetaUrl /path/to/folder",
    )


def manifests_in(workspace: Workspace, revisions: Iterable[str]) -> Iterator[tuple[Blob, Manifest]]:
    """Every manifest that the revisions reach. Raises ManifestError, naming the file, for an invalid one."""
    for blob in workspace.repository.walk(revisions):
        try:
            manifest = workspace.read_manifest(blob.oid)
        except ManifestError as error:
            raise error.located(path=blob.path or blob.oid) from None
        if manifest is not None:
            yield blob, manifest


def needed_objects(manifests: Iterable[Manifest]) -> dict[ObjectId, int]:
    """Every object that some checkpoints need, and the least size it must have."""
    needed: dict[ObjectId, int] = {}
    for manifest in manifests:
        for object_id, size in manifest.objects().items():
            needed[object_id] = max(size, needed.get(object_id, 0))
    return needed


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
    return upload(workspace, open_remote(workspace, name, url), needed)


def tip_manifests(workspace: Workspace, revision: str) -> Iterator[tuple[Blob, Manifest]]:
    """The manifests in the tree of one commit."""
    kind = workspace.repository.git.line("cat-file", "-t", f"{revision}^{{}}")
    if kind in ("commit", "tree"):
        yield from manifests_in(workspace, [workspace.repository.git.line("rev-parse", f"{revision}^{{tree}}")])


def upload(workspace: Workspace, remote: Remote, needed: Mapping[ObjectId, int]) -> int:
    """Send those objects that the remote lacks. Raises ObjectMissing if one of them is not here either."""
    lacking = sorted(remote.missing(needed))
    sources = {object_id: workspace.store.find(object_id) for object_id in lacking}
    for object_id, source in sources.items():
        if source is None:
            raise ObjectMissing(f"object {object_id} is neither here nor on the remote", mend=MEND_MISSING)
    sizes = {object_id: source.stat().st_size for object_id, source in sources.items() if source}
    workspace.reporter.start("Uploading model objects", sum(sizes.values()))
    for object_id, source in sources.items():
        if source is not None:
            remote.upload(object_id, source, workspace.reporter.advance)
    still = remote.missing(sizes)
    if still:
        raise RemoteError(f"{len(still)} objects did not arrive, {min(still)} among them", mend="push again")
    return len(lacking)


def fetch_missing(workspace: Workspace, manifest: Manifest) -> int:
    """Get the objects of a checkpoint that are not here, from any remote; returns how many. Raises ObjectMissing."""
    missing = workspace.store.missing(manifest.objects())
    if not missing:
        return 0
    count = len(missing)
    tried = download(workspace, dict.fromkeys(missing, 0))
    missing = workspace.store.missing(manifest.objects())
    if missing:
        object_id = min(missing)
        if workspace.store.find(object_id):
            raise ObjectCorrupt(
                f"object {object_id} is truncated",
                tensor=tensor_needing(manifest, object_id),
                mend=MEND_CORRUPT,
            )
        raise ObjectMissing(
            f"object {object_id} is not in the store" + "".join(f"; {reason}" for reason in tried),
            tensor=tensor_needing(manifest, object_id),
            mend="push it from a clone that has it: git theta push; or copy that clone's .git/theta folder here",
        )
    return count


def tensor_needing(manifest: Manifest, object_id: ObjectId) -> str | None:
    """The first tensor that needs an object; None if only the skeleton does."""
    for stanza in manifest.stanzas:
        if any(place.object == object_id for link in stanza.recipe for place in link.places):
            return stanza.spec.name
    return None


def on_remotes(workspace: Workspace, objects: Iterable[ObjectId]) -> set[ObjectId]:
    """Those of the objects that some remote has. A remote that cannot be asked has none."""
    left = set(objects)
    found: set[ObjectId] = set()
    for name, url in workspace.repository.remotes().items():
        if left - found:
            with suppress(RemoteError):
                asked = left - found
                found |= asked - open_remote(workspace, name, url).missing(dict.fromkeys(asked, 0))
    return found


def download(workspace: Workspace, wanted: Mapping[ObjectId, int], only: str | None = None) -> list[str]:
    """Get objects from the remotes, the likeliest first; returns what stood in the way of each remote."""
    left = set(wanted)
    reasons: list[str] = []
    for name, url in workspace.repository.remotes().items():
        if not left or (only is not None and name != only):
            continue
        try:
            remote = open_remote(workspace, name, url)
            here = left - remote.missing(dict.fromkeys(left, 0))
        except RemoteError as error:
            reasons.append(f"remote '{name}': {error.what}")
            continue
        if left - here:
            reasons.append(f"remote '{name}' does not have it")
        failed = _download_from(workspace, remote, here)
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
            workspace.store.import_file(
                object_id, lambda target: remote.download(object_id, target, workspace.reporter.advance)
            )
        except ObjectCorrupt:
            return object_id, f"its copy of {object_id} is damaged"
        except RemoteError as error:
            return object_id, error.what
        return object_id, ""

    return {object_id: what for object_id, what in workspace.pool.map(get, sorted(objects)) if what}


def fetch_revisions(workspace: Workspace, revisions: Iterable[str], only: str | None = None) -> int:
    """Get every object that the revisions need and that is not here; returns how many. Raises ObjectMissing."""
    needed = needed_objects(manifest for _, manifest in manifests_in(workspace, revisions))
    missing = workspace.store.missing(needed)
    reasons = download(workspace, dict.fromkeys(missing, 0), only)
    still = workspace.store.missing(dict.fromkeys(missing, 0))
    if still:
        raise ObjectMissing(
            f"{len(still)} objects were not found, {min(still)} among them" + "".join(f"; {why}" for why in reasons),
            mend="push them from a clone that has them: git theta push",
        )
    return len(missing)
