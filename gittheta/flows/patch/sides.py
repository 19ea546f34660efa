"""One end of a patch: the tensors of a version in file order, and the bytes around them, wherever they come from."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from gittheta.codec.chain import CheckedReader
from gittheta.codec.decode import Decoder
from gittheta.codec.readers import HeldReader, digest_reader
from gittheta.errors import FormatError
from gittheta.files.checkpoint import CheckpointFile
from gittheta.flows.checkout.smudge import read_skeleton
from gittheta.flows.transfer.fetch import fetch_missing
from gittheta.model import Digest, TensorSpec, digest_of, skeleton_spec
from gittheta.storage.files import translated
from gittheta.storage.manifest import MAX_SKELETON

if TYPE_CHECKING:
    from gittheta.api import TensorReader
    from gittheta.codec.tensor_store import TensorStore
    from gittheta.flows.workspace import Workspace
    from gittheta.model import Manifest


@dataclass(frozen=True)
class SideTensor:
    """A tensor of a version. ``skip`` skeleton bytes lie between the tensor before it and this one."""

    reader: TensorReader
    digest: Digest
    skip: int
    aliases: tuple[str, ...] = ()

    @property
    def spec(self) -> TensorSpec:
        """Its name, dtype and shape."""
        return self.reader.spec


@dataclass(frozen=True)
class Side:
    """A version of a checkpoint; ``lead`` skeleton bytes lie before the first tensor."""

    format: str
    skeleton: bytes
    lead: int
    tensors: tuple[SideTensor, ...]

    @cached_property
    def by_digest(self) -> Mapping[Digest, TensorReader]:
        """A reader for each digest: of a tensor, or of the skeleton."""
        skeleton = {digest_of(self.skeleton): self.skeleton_reader}
        return {**{tensor.digest: tensor.reader for tensor in self.tensors}, **skeleton}

    @cached_property
    def by_name(self) -> Mapping[str, SideTensor]:
        """The tensors by their names."""
        return {tensor.spec.name: tensor for tensor in self.tensors}

    @property
    def skeleton_reader(self) -> TensorReader:
        """The skeleton as a tensor of bytes."""
        return HeldReader(skeleton_spec(len(self.skeleton)), [memoryview(self.skeleton)])


@contextmanager
def file_side(tensors: TensorStore, path: Path) -> Iterator[Side]:
    """The version that a file is. Raises FormatError for one of unknown format, StoreError if it cannot be read."""
    with translated(path), CheckpointFile.opened(path, tensors.registry, tensors.reporter) as file:
        yield side_of(tensors, file)


def side_of(tensors: TensorStore, file: CheckpointFile) -> Side:
    """The version that an open file is; every tensor is read for its digest."""
    aliases: dict[str, list[str]] = {}
    for alias, name in file.layout.aliases:
        aliases.setdefault(name, []).append(alias)
    skeleton, found, at = bytearray(), list[SideTensor](), 0
    tensors.reporter.start(f"Reading {file.path.name}", file.layout.length)
    for segment in file.layout.segments:
        skeleton += _between(file, at, segment.offset, len(skeleton))
        reader = file.reader(segment)
        names = tuple(aliases.get(segment.spec.name, ()))
        skip = segment.offset - at if found else 0
        found.append(SideTensor(reader, digest_reader(reader, tensors.limits), skip, names))
        at = segment.offset + segment.spec.nbytes
        tensors.reporter.advance(segment.spec.nbytes)
    lead = file.layout.segments[0].offset if found else file.layout.length
    skeleton += _between(file, at, file.layout.length, len(skeleton))
    return Side(file.format, bytes(skeleton), lead, tuple(found))


def _between(file: CheckpointFile, begin: int, end: int, before: int) -> bytes:
    if before + end - begin > MAX_SKELETON:
        raise FormatError(f"more than {MAX_SKELETON >> 20} MiB outside the tensors", path=str(file.path))
    return bytes(file.read(begin, end - begin))


def revision_side(workspace: Workspace, manifest: Manifest) -> Side:
    """The version that a manifest describes; its objects are fetched first. What is read of it is checked."""
    tensors = workspace.tensors
    fetch_missing(workspace, manifest)
    decoder = Decoder(tensors)
    found = []
    for stanza in manifest.stanzas:
        reader: TensorReader = HeldReader(stanza.spec, [memoryview(b"")])
        if stanza.recipe:
            reader = CheckedReader(decoder.open(stanza.spec, stanza.recipe), tensors.limits.kept_blocks)
        found.append(SideTensor(reader, stanza.digest, stanza.skip, stanza.aliases))
    return Side(manifest.format, read_skeleton(decoder, manifest), manifest.skeleton.lead, tuple(found))
