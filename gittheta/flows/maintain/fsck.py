"""fsck: every manifest that refs and the index reach is canonical; its objects are whole, here or on a remote."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from gittheta.codec.decode import Decoder
from gittheta.errors import GitError, ManifestError, ObjectCorrupt, StoreError, ThetaError
from gittheta.flows.checkout.smudge import read_skeleton
from gittheta.flows.transfer.absent import Filtered
from gittheta.flows.transfer.fetch import download
from gittheta.flows.transfer.needs import Need, Needs, needed_objects, tensor_needing
from gittheta.flows.transfer.remotes import on_remotes
from gittheta.git.entries import Blob
from gittheta.git.history import walk

if TYPE_CHECKING:
    from gittheta.flows.workspace import Workspace
    from gittheta.model import Manifest, ObjectId

_HINT = "the manifest and its objects do not belong together; take them from an intact clone"
_NO_FILTER = "no commit gives the filter to this path: if it is a text that you keep on purpose, nothing is to be done"


@dataclass
class Health:
    """What was looked at, and what is wrong."""

    manifests: int = 0
    objects: int = 0
    #: Objects that are not here but on a remote, as in any fresh clone: no problem.
    remote_only: int = 0
    #: Objects that lie in the stores of repositories that this one borrows from, and there only.
    borrowed: int = 0
    #: Objects that were mended.
    mended: int = 0
    problems: list[ThetaError] = field(default_factory=list)
    #: What is wrong with texts to whose path no commit gives the filter.
    warnings: list[ThetaError] = field(default_factory=list)


def check(workspace: Workspace, *, deep: bool = False, repair: bool = False) -> Health:
    """Look at everything that refs and the index reach.

    ``deep`` also decodes every tensor and checks its digest; ``repair`` gets whole copies from the remotes in place of
    objects that are missing or damaged here.
    """
    return _Check(workspace).run(deep=deep, repair=repair)


@dataclass
class _Check:
    """One run of fsck."""

    workspace: Workspace
    health: Health = field(default_factory=Health)

    def __post_init__(self) -> None:
        self._needs = Needs(self.workspace)
        self._blobs = list(blobs_to_check(self.workspace))
        #: Blobs that the index has under the filter; for others their commits are asked.
        self._staged = filtered_entries(self.workspace)

    def run(self, *, deep: bool, repair: bool) -> Health:
        store, health = self.workspace.tensors.store, self.health
        needed = needed_objects(self._counted(self._needs.of(self._blobs)))
        bad = dict(check_objects(self.workspace, {name: size for name, size in needed.items() if store.find(name)}))
        missing = store.missing(dict.fromkeys(needed, 0))
        if repair:
            download(self.workspace, bad.keys() | missing)
            checked = dict(check_objects(self.workspace, {name: needed[name] for name in bad}))
            now_missing = store.missing(dict.fromkeys(needed, 0))
            health.mended = len(bad) - len(checked) + len(missing) - len(now_missing)
            bad, missing = checked, now_missing
        elsewhere = on_remotes(self.workspace, missing)
        bad |= dict(check_objects(self.workspace, {name: needed[name] for name in missing - elsewhere}))
        health.objects, health.remote_only = len(needed), len(elsewhere)
        health.borrowed = sum(map(store.borrows, needed))
        self._blame(bad)
        if deep:
            self._look_at_values(bad.keys() | elsewhere)
        self._judge_odd()
        return health

    def _counted(self, needs: Iterator[Need]) -> Iterator[Need]:
        for need in needs:
            self.health.manifests += 1
            yield need

    def _blame(self, bad: dict[ObjectId, ThetaError]) -> None:
        """Tell each bad object with a file that needs it: one that has the filter, if there is one."""
        if not bad:
            return
        needing: dict[ObjectId, list[Blob]] = {}
        for need in Needs(self.workspace).of(self._blobs):
            for object_id in bad.keys() & need.objects.keys():
                needing.setdefault(object_id, []).append(need.blob)
        filtered = self._filtered({blob for blobs in needing.values() for blob in blobs})
        for object_id, blobs in needing.items():
            blob = next((blob for blob in blobs if blob.oid in filtered), blobs[0])
            tensor = tensor_needing(read_again(self.workspace, blob), object_id)
            error = bad[object_id].located(path=blob.path, tensor=tensor)
            self._tell(error, as_problem=blob.oid in filtered or isinstance(error, ObjectCorrupt))

    def _look_at_values(self, without: set[ObjectId]) -> None:
        """Decode all checkpoints that need none of these objects."""
        wrong = [
            (need.blob, error)
            for need in Needs(self.workspace).of(self._blobs)
            if without.isdisjoint(need.objects)
            for error in check_values(self.workspace, need.blob)
        ]
        filtered = self._filtered({blob for blob, _ in wrong})
        for blob, error in wrong:
            self._tell(error, as_problem=blob.oid in filtered)

    def _judge_odd(self) -> None:
        """What begins like a manifest and is none is a problem where it stands for a checkpoint."""
        filtered = self._filtered(self._needs.odd)
        for blob, error in self._needs.odd.items():
            self._tell(error.located(path=blob.path or blob.oid), as_problem=blob.oid in filtered)

    def _filtered(self, blobs: Collection[Blob]) -> set[str]:
        oids = {blob.oid for blob in blobs}
        return (oids & self._staged) | Filtered(self.workspace, heads(self.workspace)).of(oids - self._staged)

    def _tell(self, error: ThetaError, *, as_problem: bool) -> None:
        if as_problem:
            self.health.problems.append(error)
        else:
            self.health.warnings.append(error.but(hint=_NO_FILTER))


def heads(workspace: Workspace) -> list[str]:
    """All refs and HEAD, as words for `rev-list`."""
    # --all leaves out a HEAD that is not on a branch
    return ["--all", "HEAD"] if workspace.repository.commit("HEAD") else ["--all"]


def blobs_to_check(workspace: Workspace) -> Iterator[Blob]:
    """Every blob that refs and the index reach, each once."""
    repository = workspace.repository
    seen = set()
    for blob in walk(repository.git.as_stored(), heads(workspace)):
        seen.add(blob.oid)
        yield blob
    if repository.top is not None:
        for entry in repository.index():
            if entry.oid not in seen and entry.mode.startswith("100"):
                seen.add(entry.oid)
                yield Blob(entry.oid, entry.path)


def filtered_entries(workspace: Workspace) -> set[str]:
    """The blobs of the index whose path has the filter."""
    repository = workspace.repository
    if repository.top is None:
        return set()
    entries = list(repository.index())
    filters = repository.attributes(["filter"], (entry.path for entry in entries))
    return {entry.oid for entry in entries if filters[entry.path]["filter"] == "theta"}


def read_again(workspace: Workspace, blob: Blob) -> Manifest:
    """The manifest of a blob that is known to be one. Raises GitError if it has gone."""
    manifest = workspace.read_stored(blob.oid)
    if manifest is None:
        raise GitError(f"blob {blob.oid} has gone", path=blob.path, hint="run `git fsck`")
    return manifest


def check_objects(workspace: Workspace, needed: dict[ObjectId, int]) -> Iterator[tuple[ObjectId, ThetaError]]:
    """What is wrong with those objects of this store that are not whole, or shorter than they must be."""
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


def check_values(workspace: Workspace, blob: Blob) -> Iterator[ThetaError]:
    """What is wrong with the first tensor of a checkpoint that does not decode to its digest."""
    manifest = read_again(workspace, blob)
    decoder = Decoder(workspace.tensors)
    try:
        read_skeleton(decoder, manifest)
        tensors = [(stanza.spec, stanza.digest, stanza.recipe) for stanza in manifest.stanzas]
        for block in decoder.checked(tensors):
            workspace.reporter.advance(len(block))
    except ThetaError as error:
        yield error.located(path=blob.path)
