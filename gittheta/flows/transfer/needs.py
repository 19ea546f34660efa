"""Which objects some checkpoints need, told by their manifests alone."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from gittheta.errors import ManifestError
from gittheta.flows.transfer.selection import EVERYTHING, Selection
from gittheta.git.history import walk
from gittheta.model import ObjectId
from gittheta.storage.facts import FactCache
from gittheta.storage.manifest import MAX_TEXT, claims_to_be_manifest, parse_manifest
from gittheta.storage.stanzas import KnownStanzas
from gittheta.wording import shown

if TYPE_CHECKING:
    from gittheta.flows.workspace import Workspace
    from gittheta.git.entries import Blob
    from gittheta.model import Manifest

#: Walks over fewer blobs than this read them all: the cache is read as a whole.
_FEW = 200
#: What the cache says of a blob: that it is not a manifest, or one, and then its objects follow.
_OTHER, _MANIFEST = b"\0", b"\1"
_ID, _SIZE = 32, 8


@dataclass(frozen=True, slots=True)
class Need:
    """A manifest that a walk met, and every object that it needs with the least size that the object must have."""

    blob: Blob
    objects: Mapping[ObjectId, int]


@dataclass
class Needs:
    """Reads the needs of blobs, and keeps what begins like a manifest and is none. For one thread."""

    workspace: Workspace
    #: Files of other paths are not read, and of some only the objects of chosen tensors are needed.
    selection: Selection = EVERYTHING
    #: Such blobs, and what is wrong with each.
    odd: dict[Blob, ManifestError] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._stanzas = KnownStanzas()

    def of(self, blobs: Iterable[Blob]) -> Iterator[Need]:
        """What the manifests among some blobs need, one after the other: all at once would not fit into memory."""
        listed = [blob for blob in blobs if blob.size <= MAX_TEXT and self.selection.takes(blob.path)]
        cache = self._cache() if len(listed) >= _FEW and not self.selection.tensors else None
        for blob in listed:
            objects = self._known(cache, blob) if cache else self._read(blob)
            if objects is not None:
                yield Need(blob, objects)
        if cache:
            cache.flush()

    def within(self, revisions: Iterable[str], *, only_here: bool = False) -> Iterator[Need]:
        """What the manifests need that the revisions reach, as Git sends them: `git replace` does not count.

        What a partial clone lacks is fetched first, all at once; with ``only_here`` it is left out.
        """
        yield from self.of(walk(self.workspace.repository.git.as_stored(), revisions, only_here=only_here))

    def tip(self, revision: str, *, only_here: bool = False) -> Iterator[Need]:
        """The same for the tree of one commit, tag or tree; nothing for a tag that names a blob."""
        tree = self.workspace.repository.tree_of(revision)
        if tree:
            yield from self.within([tree], only_here=only_here)

    def warn(self) -> None:
        """One warning for all that begins like a manifest and is none."""
        warn_of_odd(self.workspace, {blob.path or blob.oid: error for blob, error in self.odd.items()})

    def _cache(self) -> FactCache:
        store = self.workspace.tensors.store
        return FactCache(store.root / "needs.cache", self.workspace.reporter.trace, store.permissions)

    def _known(self, cache: FactCache, blob: Blob) -> Mapping[ObjectId, int] | None:
        question = b"needs " + blob.oid.encode()
        answer = cache.get(question)
        if answer is not None:
            return _unpacked(answer)
        objects = self._read(blob)
        if blob not in self.odd:  # another version of this program may be able to read it
            cache.put(question, _packed(objects))
        return objects

    def _read(self, blob: Blob) -> Mapping[ObjectId, int] | None:
        text = self.workspace.stored_blobs.read(blob.oid, MAX_TEXT)
        if not text or not claims_to_be_manifest(text):
            return None
        try:
            return self.selection.objects(parse_manifest(text, self._stanzas))
        except ManifestError as error:
            self.odd[blob] = error
            return None


def warn_of_odd(workspace: Workspace, odd: Mapping[str, ManifestError]) -> None:
    """One warning for all paths of a history whose text begins like a manifest and is none, if there are any."""
    if not odd:
        return
    names = sorted(map(shown, odd))
    more = f" and {len(names) - 3} more" if len(names) > 3 else ""
    reason = next(iter(odd.values())).what
    hint = next((error.hint for error in odd.values() if error.hint), "if it is not a model, nothing is to be done")
    listed = f"{', '.join(names[:3])}{more}"
    workspace.reporter.warn(
        f"left out, since the text begins like a manifest and is not one: {listed} ({reason})\n  {hint}"
    )


def _packed(objects: Mapping[ObjectId, int] | None) -> bytes:
    if objects is None:
        return _OTHER
    return _MANIFEST + b"".join(bytes.fromhex(name) + size.to_bytes(_SIZE, "little") for name, size in objects.items())


def _unpacked(answer: bytes) -> Mapping[ObjectId, int] | None:
    if answer[:1] != _MANIFEST:
        return None
    return {
        ObjectId(answer[at : at + _ID].hex()): int.from_bytes(answer[at + _ID : at + _ID + _SIZE], "little")
        for at in range(1, len(answer), _ID + _SIZE)
    }


def needed_objects(needs: Iterable[Need]) -> dict[ObjectId, int]:
    """Every object that some checkpoints need, and the least size it must have."""
    needed: dict[ObjectId, int] = {}
    for need in needs:
        for object_id, size in need.objects.items():
            if size > needed.get(object_id, -1):
                needed[object_id] = size
    return needed


def tensor_needing(manifest: Manifest, object_id: ObjectId) -> str | None:
    """The first tensor that needs an object; None if only the skeleton does."""
    for stanza in manifest.stanzas:
        if any(place.object == object_id for link in stanza.recipe for place in link.places):
            return stanza.spec.name
    return None
