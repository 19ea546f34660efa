"""patch: two versions -> a file with just what turns the one into the other."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

from gittheta.codec.choose import BaseCandidate
from gittheta.codec.encode import Encoder, PendingTensor
from gittheta.codec.tensor_store import TensorStore
from gittheta.flows.patch.container import FROM, write_patch
from gittheta.model import EMPTY_DIGEST, Manifest, Skeleton, Stanza, digest_of
from gittheta.storage.objects import ObjectStore

if TYPE_CHECKING:
    from gittheta.api import TensorReader
    from gittheta.flows.patch.sides import Side, SideTensor
    from gittheta.model import Digest, Recipe, TensorSpec


@dataclass(frozen=True)
class Made:
    """A patch: its size in bytes, that of the new version, and how many of its tensors are not in the old one."""

    nbytes: int
    new_bytes: int
    changed: int
    tensors: int


def make_patch(tensors: TensorStore, old: Side, new: Side, target: Path) -> Made:
    """Write the patch from one version to another. ``tensors`` gives plugins, limits and threads, and takes nothing.

    Raises StoreError, and ThetaError for versions that cannot be read.
    """
    with TemporaryDirectory(prefix="gittheta-patch-") as folder:
        store = ObjectStore(Path(folder))
        with TensorStore(
            store, tensors.registry, tensors.reporter, tensors.limits, tensors.threads, tensors.encodings
        ) as scratch:
            writing = _Writing(scratch, old)
            manifest = writing.manifest(new)
            nbytes = write_patch(target, manifest, store)
    changed = sum(stanza.recipe not in ((), (FROM,)) for stanza in manifest.stanzas)
    return Made(nbytes, manifest.file_size, changed, len(manifest.stanzas))


class _Writing:
    """Stores the tensors of a new version over those of an old one. For one thread."""

    def __init__(self, tensors: TensorStore, old: Side) -> None:
        self._tensors = tensors
        self._old = old
        self._stored: dict[tuple[Digest, TensorSpec], PendingTensor] = {}

    def manifest(self, new: Side) -> Manifest:
        encoder = Encoder(self._tensors)
        self._tensors.reporter.start("Making the patch", sum(tensor.spec.nbytes for tensor in new.tensors))
        try:
            skeleton_digest = digest_of(new.skeleton)
            over = self._candidate(self._old.skeleton_reader, digest_of(self._old.skeleton))
            self._add(encoder, new.skeleton_reader, skeleton_digest, [over])
            for tensor in new.tensors:
                self._add(encoder, tensor.reader, tensor.digest, self._candidates(tensor))
                self._tensors.reporter.advance(tensor.spec.nbytes)
            encoder.finish()
        finally:
            encoder.abort()
        skeleton = Skeleton(
            len(new.skeleton), new.lead, skeleton_digest, self._recipe(new.skeleton_reader.spec, skeleton_digest)
        )
        stanzas = (
            Stanza(tensor.spec, tensor.digest, self._recipe(tensor.spec, tensor.digest), tensor.skip, tensor.aliases)
            for tensor in new.tensors
        )
        return Manifest(new.format, skeleton, tuple(stanzas))

    def _candidates(self, tensor: SideTensor) -> list[BaseCandidate]:
        base = self._old.by_name.get(tensor.spec.name)
        # Of tensors with the same bytes the reader of a patch takes this one, whatever its dtype and shape.
        return [self._candidate(self._old.by_digest[base.digest], base.digest)] if base and base.spec.nbytes else []

    def _candidate(self, reader: TensorReader, digest: Digest) -> BaseCandidate:
        return BaseCandidate(reader.spec, digest, (FROM,), {digest: reader})

    def _add(self, encoder: Encoder, reader: TensorReader, digest: Digest, candidates: list[BaseCandidate]) -> None:
        key = digest, reader.spec
        if digest != EMPTY_DIGEST and digest not in self._old.by_digest and key not in self._stored:
            self._stored[key] = encoder.add(reader, (), candidates)

    def _recipe(self, spec: TensorSpec, digest: Digest) -> Recipe:
        if digest == EMPTY_DIGEST:
            return ()
        pending = self._stored.get((digest, spec))
        return pending.recipe() if pending else (FROM,)
