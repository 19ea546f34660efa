"""usage: what each version of a checkpoint added to the store, told from manifests alone."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import TYPE_CHECKING

from gittheta.errors import ManifestError
from gittheta.flows.transfer.needs import warn_of_odd
from gittheta.git.history import bring, file_changes, walk
from gittheta.storage.manifest import MAX_TEXT, claims_to_be_manifest, parse_manifest
from gittheta.storage.stanzas import KnownStanzas

if TYPE_CHECKING:
    from gittheta.flows.workspace import Workspace
    from gittheta.git.entries import FileChange
    from gittheta.model import Digest, Manifest, Place, Stanza

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
    #: Versions that are left out, and why.
    _odd: dict[str, ManifestError] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._stanzas = KnownStanzas()
        self._read = lru_cache(_REMEMBERED)(self._read_manifest)

    def versions(self, revisions: Sequence[str]) -> Iterator[Version]:
        """Every version that the commits wrote, oldest first, each after its parents.

        What the excluded ones (``^``) reach is there already.
        """
        git = self.workspace.repository.git
        bring(git, [oid.removeprefix("^") for oid in revisions])
        excluded = [oid[1:] for oid in revisions if oid.startswith("^")]
        if excluded:
            for blob in walk(git, excluded):
                if manifest := self._read(blob.oid, blob.path):
                    self._take(manifest, manifest.stanzas)
        for change in file_changes(git, revisions):
            if manifest := self._read(change.oid, change.path):
                yield self._version(change, manifest)
        warn_of_odd(self.workspace, self._odd)

    def _version(self, change: FileChange, manifest: Manifest) -> Version:
        before = [_by_name(self._read(oid, change.path)) for oid in change.before]
        # Versions share the stanzas that are alike, so that most need no look.
        fresh = [
            stanza
            for stanza in manifest.stanzas
            if not before or any(stanzas.get(stanza.spec.name) is not stanza for stanzas in before)
        ]
        changed = [
            stanza.spec.nbytes
            for stanza in fresh
            if all(_digest(stanzas.get(stanza.spec.name)) != stanza.digest for stanzas in before)
        ]
        size, tensors = manifest.file_size, len(manifest.stanzas)
        added = dict(sorted(self._take(manifest, fresh).items()))
        return Version(change.commit, change.date, change.path, size, tensors, len(changed), sum(changed), added)

    def _take(self, manifest: Manifest, stanzas: Iterable[Stanza]) -> Counter[str]:
        """Bytes of the places that were not met before, by encoding, of a skeleton and of some tensors."""
        added: Counter[str] = Counter()
        for recipe in (manifest.skeleton.recipe, *(stanza.recipe for stanza in stanzas)):
            for link in recipe:
                fresh = [place for place in link.places if place not in self._met]
                self._met.update(fresh)
                if fresh:
                    added[link.encoding] += sum(place.length for place in fresh)
        return added

    def _read_manifest(self, oid: str, path: str) -> Manifest | None:
        text = self.workspace.blobs.read(oid, MAX_TEXT)
        if not text or not claims_to_be_manifest(text):
            return None
        try:
            return parse_manifest(text, self._stanzas)
        except ManifestError as error:
            self._odd.setdefault(path, error)
            return None


def _by_name(manifest: Manifest | None) -> dict[str, Stanza]:
    return {stanza.spec.name: stanza for stanza in manifest.stanzas} if manifest else {}


def _digest(stanza: Stanza | None) -> Digest | None:
    return stanza.digest if stanza else None


def lies_in(path: str, wanted: Iterable[str]) -> bool:
    """Whether a path is one of those, or in a folder that is; every path is if none is named."""
    return not wanted or any(place in (".", path) or path.startswith(f"{place}/") for place in wanted)
