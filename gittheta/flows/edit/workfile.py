"""A checkpoint of the work tree that is replaced by a changed version of itself."""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from blake3 import blake3

from gittheta.api import Values
from gittheta.codec.stream import ByteStream
from gittheta.errors import FormatError, ManifestError, StoreError
from gittheta.files.detect import SNIFF, formats, matches, split
from gittheta.flows.add.intake import raw_spec
from gittheta.flows.checkout.materialise import manifest_text
from gittheta.flows.workspace import Workspace
from gittheta.model import Digest, Layout, Manifest, Segment, TensorSpec, block_bytes
from gittheta.storage.files import translated, write_all

_PIECE = 1 << 20


def digest_values(values: Values) -> Digest:
    """The digest of a tensor that is read in parts."""
    hashed = blake3(max_threads=blake3.AUTO)
    size, step = values.spec.nbytes, block_bytes(values.spec.dtype)
    for begin in range(0, size, step):
        hashed.update(values.read(begin, min(size, begin + step)))
    return Digest(hashed.digest())


@dataclass(frozen=True)
class FileValues:
    """A tensor that lies in an open file."""

    spec: TensorSpec
    descriptor: int
    offset: int

    def read(self, begin: int, end: int) -> memoryview:
        """A range of bytes. Raises StoreError if the file has become shorter."""
        data = os.pread(self.descriptor, end - begin, self.offset + begin)
        if len(data) < end - begin:
            raise StoreError("the file became shorter while it was read", mend="run it again")
        return memoryview(data)


@dataclass(frozen=True)
class WorkFile:
    """A checkpoint of known format, opened for reading."""

    workspace: Workspace
    target: Path
    descriptor: int
    layout: Layout
    before: os.stat_result

    @classmethod
    @contextmanager
    def opened(cls, workspace: Workspace, target: Path) -> Iterator[WorkFile]:
        """Open a checkpoint. Raises ThetaError for links, folders, manifests and files of no known format."""
        if manifest_text(target) is not None:
            raise ManifestError("only its manifest stands in the work tree", mend="run `git theta pull`")
        with translated(target):
            if not stat.S_ISREG(target.lstat().st_mode):
                raise StoreError("not a file of its own", mend="name the file itself, not a link or a folder")
            descriptor = os.open(target, os.O_RDONLY | getattr(os, "O_BINARY", 0))
        try:
            before = os.fstat(descriptor)
            yield cls(workspace, target, descriptor, _layout(workspace, descriptor, before.st_size), before)
        finally:
            os.close(descriptor)

    def values(self, segment: Segment) -> FileValues:
        """One of its tensors."""
        return FileValues(segment.spec, self.descriptor, segment.offset)

    def read(self, offset: int, length: int) -> memoryview:
        """A run of its bytes."""
        return FileValues(raw_spec(0, self.layout.length), self.descriptor, offset).read(0, length)

    def copy(self, begin: int, end: int) -> Iterator[memoryview]:
        """Its bytes from one offset to another, in pieces."""
        for at in range(begin, end, _PIECE):
            yield self.read(at, min(_PIECE, end - at))

    def is_of(self, manifest: Manifest) -> bool:
        """Whether the file is what a manifest describes. Reads all of it."""
        segments = self.layout.segments
        if [segment.spec for segment in segments] != [stanza.spec for stanza in manifest.stanzas]:
            return False
        hashed, at = blake3(), 0
        for segment, stanza in zip(segments, manifest.stanzas, strict=True):
            hashed.update(self.read(at, segment.offset - at))
            at = segment.offset + segment.spec.nbytes
            if digest_values(self.values(segment)) != stanza.digest:
                return False
        hashed.update(self.read(at, self.layout.length - at))
        return hashed.digest() == manifest.skeleton.digest

    def replace(
        self, parts: Iterable[bytes | memoryview], then: Callable[[int], None] = lambda descriptor: None
    ) -> None:
        """Put a file of these bytes in its place, with its permissions; on any error it stays as it was.

        ``then`` is called with the descriptor of the new file before that takes the name.
        """
        temporary = self.workspace.store.temporary()
        with translated(self.target):
            if temporary.parent.stat().st_dev != self.target.parent.stat().st_dev:
                temporary = self.target.with_name(f".{temporary.name}.gittheta")
            try:
                self._write(temporary, parts, then)
                os.chmod(temporary, stat.S_IMODE(self.before.st_mode))
                if _state(self.target.lstat()) != _state(self.before):
                    raise StoreError("the file was changed in the meantime, and is left like that", mend="run it again")
                os.replace(temporary, self.target)
            finally:
                temporary.unlink(missing_ok=True)

    def _write(self, temporary: Path, parts: Iterable[bytes | memoryview], then: Callable[[int], None]) -> None:
        descriptor = os.open(temporary, os.O_RDWR | os.O_CREAT | os.O_EXCL | getattr(os, "O_BINARY", 0), 0o600)
        try:
            for part in parts:
                write_all(descriptor, part)
                self.workspace.reporter.advance(len(part))
            os.fsync(descriptor)
            then(descriptor)
        finally:
            os.close(descriptor)


def _state(status: os.stat_result) -> tuple[int, ...]:
    return status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns


def _layout(workspace: Workspace, descriptor: int, size: int) -> Layout:
    with open(descriptor, "rb", buffering=0, closefd=False) as file:
        stream = ByteStream(file)
        head = stream.peek(SNIFF)
        found = next((known for known in formats(workspace) if matches(workspace, known, head)), None)
        if found is None:
            raise FormatError("not a checkpoint of a known format", mend="`git theta plugins` lists the formats")
        layout = split(found, stream)
    if layout.length != size:
        raise FormatError(f"the header promises {layout.length} bytes, but there are {size}")
    return layout
