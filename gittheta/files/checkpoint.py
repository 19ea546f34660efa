"""A checkpoint file opened for reading: the only way from a path to its tensors."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from tempfile import TemporaryFile
from typing import TYPE_CHECKING

from gittheta.api import NullReporter, Reporter
from gittheta.codec.readers import FileReader
from gittheta.codec.stream import ByteStream
from gittheta.errors import FormatError
from gittheta.files.detect import SNIFF, detect, split
from gittheta.model import Layout, Segment, piece_spec
from gittheta.storage.files import open_to_read

if TYPE_CHECKING:
    from gittheta.registry import Registry

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
        """Open a checkpoint. Raises OSError, and FormatError for a file of unknown format, or a broken one."""
        descriptor = open_to_read(path)
        try:
            yield cls(path, descriptor, *_layout(descriptor, registry, reporter))
        finally:
            os.close(descriptor)

    @cached_property
    def segments(self) -> dict[str, Segment]:
        """The places of the tensors, by name."""
        return {segment.spec.name: segment for segment in self.layout.segments}

    def reader(self, segment: Segment) -> FileReader:
        """A reader of one of the file's tensors."""
        return FileReader(segment.spec, self.descriptor, segment.offset)

    def read(self, offset: int, length: int) -> memoryview:
        """``length`` bytes of the file, from ``offset`` on. Raises StoreError if the file has become shorter."""
        return FileReader(piece_spec(0, self.layout.length), self.descriptor, 0).read(offset, offset + length)

    def copy(self, begin: int, end: int) -> Iterator[memoryview]:
        """The file's bytes from offset ``begin`` to ``end``, in pieces. Raises StoreError."""
        for at in range(begin, end, _PIECE):
            yield self.read(at, min(_PIECE, end - at))


def _layout(descriptor: int, registry: Registry, reporter: Reporter) -> tuple[str, Layout]:
    """The name of a file's format, and where its tensors lie. Raises FormatError."""
    with open(descriptor, "rb", buffering=0, closefd=False) as file:
        stream = ByteStream(file)
        file_format = detect(registry, reporter, stream.peek(SNIFF))
        if file_format is None:
            raise FormatError("not a checkpoint of a known format", hint="`git theta plugins` lists the formats")
        layout = split(file_format, stream, TemporaryFile)
    size = os.fstat(descriptor).st_size
    if layout.length != size:
        raise FormatError(f"the header promises {layout.length} bytes, and there are {size}")
    return file_format.name, layout
