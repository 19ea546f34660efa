"""fsck: every manifest that refs and the index reach is canonical; its objects are whole, here or on a remote."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from gittheta.codec.decode import Decoder
from gittheta.errors import GitError, ManifestError, StoreError, ThetaError
from gittheta.flows.checkout.smudge import read_skeleton
from gittheta.flows.transfer.needs import needed_objects, tensor_needing
from gittheta.flows.transfer.remotes import on_remotes
from gittheta.git.entries import Blob
from gittheta.git.history import walk

if TYPE_CHECKING:
    from gittheta.flows.workspace import Workspace
    from gittheta.model import Manifest, ObjectId

_HINT = "the manifest and its objects do not belong together; take them from an intact clone"


@dataclass
class Health:
    """What was looked at, and what is wrong."""

    manifests: int
    objects: int
    #: Objects that are not here but on a remote, as in any fresh clone: no problem.
    remote_only: int
    problems: list[ThetaError]


def check(workspace: Workspace, *, deep: bool = False) -> Health:
    """Look at everything that refs and the index reach; ``deep`` also decodes every tensor and checks its digest."""
    problems: list[ThetaError] = []
    found: list[Blob] = []
    needed = needed_objects(_manifests(workspace, found, problems))
    elsewhere = on_remotes(workspace, workspace.tensors.store.missing(dict.fromkeys(needed, 0)))
    bad = dict(
        _check_objects(workspace, {object_id: size for object_id, size in needed.items() if object_id not in elsewhere})
    )
    named: set[ObjectId] = set()
    for blob in found if bad or deep else ():
        manifest = _again(workspace, blob)
        objects = manifest.objects().keys()
        for object_id in (bad.keys() & objects) - named:
            named.add(object_id)
            problems.append(bad[object_id].located(path=blob.path, tensor=tensor_needing(manifest, object_id)))
        if deep and not (bad.keys() | elsewhere) & objects:
            problems += _check_values(workspace, blob, manifest)
    return Health(len(found), len(needed), len(elsewhere), problems)


def _manifests(workspace: Workspace, found: list[Blob], problems: list[ThetaError]) -> Iterator[Manifest]:
    """Every manifest, one after the other: all of a long history at once would not fit into memory."""
    for blob in _blobs(workspace):
        try:
            manifest = workspace.read_stored(blob.oid)
        except ManifestError as error:
            problems.append(error.located(path=blob.path or blob.oid))
            continue
        if manifest is not None:
            found.append(blob)
            yield manifest


def _again(workspace: Workspace, blob: Blob) -> Manifest:
    manifest = workspace.read_stored(blob.oid)
    if manifest is None:
        raise GitError(f"blob {blob.oid} has gone", path=blob.path, hint="run `git fsck`")
    return manifest


def _blobs(workspace: Workspace) -> Iterator[Blob]:
    repository = workspace.repository
    seen = set()
    heads = ["--all"]
    if repository.commit("HEAD"):  # --all leaves out a HEAD that is not on a branch
        heads.append("HEAD")
    for blob in walk(repository.git.as_stored(), heads):
        seen.add(blob.oid)
        yield blob
    if repository.top is not None:
        for entry in repository.index():
            if entry.oid not in seen and entry.mode.startswith("100"):
                seen.add(entry.oid)
                yield Blob(entry.oid, entry.path)


def _check_objects(workspace: Workspace, needed: dict[ObjectId, int]) -> Iterator[tuple[ObjectId, ThetaError]]:
    sizes = {
        object_id: path.stat().st_size for object_id in needed if (path := workspace.tensors.store.find(object_id))
    }
    workspace.reporter.start("Checking objects", sum(sizes.values()))
    for object_id in sorted(needed):
        try:
            workspace.tensors.store.check(object_id, workspace.reporter.advance)
            if sizes[object_id] < needed[object_id]:
                yield object_id, ManifestError(f"a place beyond the end of object {object_id}", hint=_HINT)
        except StoreError as error:
            yield object_id, error


def _check_values(workspace: Workspace, blob: Blob, manifest: Manifest) -> Iterator[ThetaError]:
    decoder = Decoder(workspace.tensors)
    try:
        read_skeleton(decoder, manifest)
        tensors = [(stanza.spec, stanza.digest, stanza.recipe) for stanza in manifest.stanzas]
        for block in decoder.checked(tensors):
            workspace.reporter.advance(len(block))
    except ThetaError as error:
        yield error.located(path=blob.path)
