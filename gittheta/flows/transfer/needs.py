"""Which objects some checkpoints need, told by their manifests alone."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING

from gittheta.errors import ManifestError
from gittheta.git.history import walk

if TYPE_CHECKING:
    from gittheta.flows.workspace import Workspace
    from gittheta.git.entries import Blob
    from gittheta.model import Manifest, ObjectId


def manifests_in(workspace: Workspace, revisions: Iterable[str]) -> Iterator[tuple[Blob, Manifest]]:
    """Every manifest that the revisions reach, as Git sends them: `git replace` does not count.

    Raises ManifestError, naming the file, for an invalid one.
    """
    for blob in walk(workspace.repository.git.as_stored(), revisions):
        try:
            manifest = workspace.read_stored(blob.oid)
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


def tip_manifests(workspace: Workspace, revision: str) -> Iterator[tuple[Blob, Manifest]]:
    """The manifests in the tree of one commit, tag or tree; none of a tag that names a blob."""
    tree = workspace.repository.tree_of(revision)
    if tree:
        yield from manifests_in(workspace, [tree])


def tensor_needing(manifest: Manifest, object_id: ObjectId) -> str | None:
    """The first tensor that needs an object; None if only the skeleton does."""
    for stanza in manifest.stanzas:
        if any(place.object == object_id for link in stanza.recipe for place in link.places):
            return stanza.spec.name
    return None
