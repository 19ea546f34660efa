"""usage: what each version of a checkpoint added to the store, told from manifests alone."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import TYPE_CHECKING

from gittheta.errors import ManifestError
from gittheta.git.history import file_changes, walk

if TYPE_CHECKING:
    from gittheta.flows.workspace import Workspace
    from gittheta.git.entries import FileChange
    from gittheta.model import Digest, Manifest, Place

#: Versions before a version are few, and mostly the last one that was looked at.
_REMEMBERED = 16


@dataclass(frozen=True)
class Version:
    """A checkpoint as a commit wrote it."""

    commit: str
    #: When it was committed, as ISO 8601.
    date: str
    path: str
    #: Bytes of the checkpoint itself.
    file_size: int
    tensors: int
    #: Tensors that none of the commit's parents has like that under their name, and their raw bytes.
    changed: int
    changed_size: int
    #: Bytes of payloads that no earlier version has, by encoding.
    added: dict[str, int]

    @property
    def added_size(self) -> int:
        """Bytes that this version added to the store."""
        return sum(self.added.values())


@dataclass
class Usage:
    """Follows history and remembers which payloads it has met."""

    workspace: Workspace
    _met: set[Place] = field(default_factory=set)

    def __post_init__(self) -> None:
        self._read = lru_cache(_REMEMBERED)(self._read_manifest)

    def versions(self, revisions: Sequence[str]) -> Iterator[Version]:
        """Every version that the commits wrote, oldest first, each after its parents.

        What the excluded ones (``^``) reach is there already.
        """
        git = self.workspace.repository.git
        excluded = [oid[1:] for oid in revisions if oid.startswith("^")]
        if excluded:
            for blob in walk(git, excluded):
                if manifest := self._read(blob.oid, blob.path):
                    self._take(manifest)
        for change in file_changes(git, revisions):
            if manifest := self._read(change.oid, change.path):
                yield self._version(change, manifest)

    def _version(self, change: FileChange, manifest: Manifest) -> Version:
        before = [_digests(self._read(oid, change.path)) for oid in change.before]
        changed = [
            stanza.spec.nbytes
            for stanza in manifest.stanzas
            if all(digests.get(stanza.spec.name) != stanza.digest for digests in before)
        ]
        size, tensors = manifest.file_size, len(manifest.stanzas)
        added = dict(sorted(self._take(manifest).items()))
        return Version(change.commit, change.date, change.path, size, tensors, len(changed), sum(changed), added)

    def _take(self, manifest: Manifest) -> Counter[str]:
        """Bytes of the places that were not met before, by encoding."""
        added: Counter[str] = Counter()
        for recipe in manifest.recipes():
            for link in recipe:
                fresh = [place for place in link.places if place not in self._met]
                self._met.update(fresh)
                if fresh:
                    added[link.encoding] += sum(place.length for place in fresh)
        return added

    def _read_manifest(self, oid: str, path: str) -> Manifest | None:
        try:
            return self.workspace.read_manifest(oid)
        except ManifestError as error:
            self.workspace.reporter.warn(f"{error.located(path=path)}\n  this version is left out")
            return None


def _digests(manifest: Manifest | None) -> dict[str, Digest]:
    return {stanza.spec.name: stanza.digest for stanza in manifest.stanzas} if manifest else {}


def lies_in(path: str, wanted: Iterable[str]) -> bool:
    """Whether a path is one of those, or in a folder that is; every path is if none is named."""
    return not wanted or any(place in (".", path) or path.startswith(f"{place}/") for place in wanted)
