"""A checkpoint file that is opened for reading: the one way from a path to its tensors."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from tempfile import TemporaryFile

from gittheta.api import NullReporter, Reporter
from gittheta.codec.readers import FileReader
from gittheta.codec.stream import ByteStream
from gittheta.errors import FormatError
from gittheta.files.detect import SNIFF, detect, split
from gittheta.model import Layout, Segment, piece_spec
from gittheta.registry import Registry
from gittheta.storage.files import open_to_read

_PIECE = 1 << 20
_NOBODY = NullReporter()


@dataclass(frozen=True)
class CheckpointFile:
    """A file of known format. Safe to use from several threads."""

    path: Path
    descriptor: int
    format: str
    layout: Layout

    @classmethod
    @contextmanager
    def opened(cls, path: Path, registry: Registry, reporter: Reporter = _NOBODY) -> Iterator[CheckpointFile]:
        """Open a checkpoint.

        Raises OSError, and FormatError for a file of no known format, or a broken one.
        """
        descriptor = open_to_read(path)
        try:
            yield cls(path, descriptor, *_layout(descriptor, registry, reporter))
        finally:
            os.close(descriptor)

    @cached_property
    def segments(self) -> dict[str, Segment]:
        """Where the tensors lie, by name."""
        return {segment.spec.name: segment for segment in self.layout.segments}

    def reader(self, segment: Segment) -> FileReader:
        """One of its tensors."""
        return FileReader(segment.spec, self.descriptor, segment.offset)

    def read(self, offset: int, length: int) -> memoryview:
        """A run of its bytes. Raises StoreError if the file has become shorter."""
        return FileReader(piece_spec(0, self.layout.length), self.descriptor, 0).read(offset, offset + length)

    def copy(self, begin: int, end: int) -> Iterator[memoryview]:
        """Its bytes from one offset to another, in pieces."""
        for at in range(begin, end, _PIECE):
            yield self.read(at, min(_PIECE, end - at))


def _layout(descriptor: int, registry: Registry, reporter: Reporter) -> tuple[str, Layout]:
    """Name of the format, and where the tensors lie."""
    with open(descriptor, "rb", buffering=0, closefd=False) as file:
        stream = ByteStream(file)
        found = detect(registry, reporter, stream.peek(SNIFF))
        if found is None:
            raise FormatError("not a checkpoint of a known format", hint="`git theta plugins` lists the formats")
        layout = split(found, stream, TemporaryFile)
    size = os.fstat(descriptor).st_size
    if layout.length != size:
        raise FormatError(f"the header promises {layout.length} bytes, and there are {size}")
    return found.name, layout
