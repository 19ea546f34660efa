"""apply-patch: a patch and the old version -> the new version, each end compared by its digests."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

from gittheta.codec.decode import Decoder
from gittheta.codec.readers import blocks_of
from gittheta.codec.tensor_store import TensorStore
from gittheta.errors import FormatError
from gittheta.flows.patch.container import FROM, PatchFile, origin
from gittheta.flows.patch.sides import Side, file_side
from gittheta.model import RunningDigest, Stanza, digest_of, skeleton_spec
from gittheta.storage.files import replacing, write_all
from gittheta.storage.objects import ObjectStore

if TYPE_CHECKING:
    from gittheta.api import Reporter, TensorReader
    from gittheta.model import Digest, Manifest, Recipe, TensorSpec

_HINT = "a patch fits exactly the version that it was made from; nothing was changed"


@dataclass(frozen=True)
class Patching:
    """A patch that fits a version, and what it takes to read the new version's tensors."""

    tensors: TensorStore
    manifest: Manifest
    old: Mapping[Digest, TensorReader]

    def skeleton(self) -> bytes:
        """The bytes of the new version outside its tensors."""
        skeleton = self.manifest.skeleton
        return b"".join(self.values(skeleton_spec(skeleton.length), skeleton.digest, skeleton.recipe))

    def values(self, spec: TensorSpec, digest: Digest, recipe: Recipe) -> Iterator[memoryview]:
        """The bytes of a tensor, block by block. Raises PayloadError at the end at the latest if they are not right."""
        if recipe != (FROM,):
            yield from Decoder(self.tensors, self.old).checked([(spec, digest, recipe)])
            return
        hashed = RunningDigest()
        for block in blocks_of(self.old[digest], self.tensors.limits.block_bytes(spec.dtype)):
            hashed.update(block)
            yield block
        if hashed.digest() != digest:
            raise FormatError("the old version has changed while it was read", tensor=spec.name, hint="run it again")

    def parts(self) -> Iterator[bytes | memoryview]:
        """The new version from its beginning to its end."""
        skeleton, at = self.skeleton(), self.manifest.skeleton.lead
        yield skeleton[:at]
        for stanza in self.manifest.stanzas:
            yield skeleton[at : at + stanza.skip]
            at += stanza.skip
            yield from self.tensor(stanza)
        yield skeleton[at:]

    def tensor(self, stanza: Stanza) -> Iterator[memoryview]:
        """The bytes of one tensor of the new version."""
        return self.values(stanza.spec, stanza.digest, stanza.recipe) if stanza.recipe else iter(())


@contextmanager
def unpacked(patch: Path, reporter: Reporter) -> Iterator[tuple[TensorStore, Manifest]]:
    """The objects of a patch in a temporary store that vanishes at the end, and its manifest."""
    with (
        PatchFile.opened(patch) as opened,
        TemporaryDirectory(prefix="gittheta-patch-") as scratch,
        TensorStore(ObjectStore(Path(scratch)), reporter=reporter) as tensors,
    ):
        opened.unpack(tensors.store)
        yield tensors, opened.manifest


def apply_patch(patch: Path, checkpoint: Path, target: Path, reporter: Reporter) -> bool:
    """Write the new version to ``target``, which may be the checkpoint itself; says whether there was anything to do.

    ``target`` is replaced once all is written and right. Raises FormatError if the patch is broken or was made for
    another version, PayloadError if what it holds does not decode, StoreError.
    """
    with unpacked(patch, reporter) as (tensors, manifest), file_side(tensors, checkpoint) as old:
        if is_version(old, manifest) and target == checkpoint:
            return False
        check_fits(old, manifest)
        reporter.start(f"Writing {target.name}", manifest.file_size)
        with replacing(target, checkpoint) as descriptor:
            for part in Patching(tensors, manifest, old.by_digest).parts():
                write_all(descriptor, part)
                reporter.advance(len(part))
    return True


def is_version(side: Side, manifest: Manifest) -> bool:
    """Whether a file is the version of a manifest already."""
    same = [(tensor.spec, tensor.digest, tensor.skip) for tensor in side.tensors]
    return digest_of(side.skeleton) == manifest.skeleton.digest and same == [
        (stanza.spec, stanza.digest, stanza.skip) for stanza in manifest.stanzas
    ]


def check_fits(old: Side, manifest: Manifest) -> None:
    """Raise FormatError unless the old version has every tensor that the patch goes on from."""
    ends: list[tuple[str | None, Digest | None]] = [(None, origin(manifest.skeleton.recipe, manifest.skeleton.digest))]
    ends += [(stanza.spec.name, origin(stanza.recipe, stanza.digest)) for stanza in manifest.stanzas]
    for name, digest in ends:
        if digest is not None and digest not in old.by_digest:
            raise FormatError("not the version that this patch was made from", tensor=name, hint=_HINT)
