"""The bytes that Git hands to ``clean``: read once, forwards, in blocks, after a look at the head."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator
from typing import BinaryIO, Protocol

from gittheta.errors import FormatError
from gittheta.storage.files import read_at

#: The most bytes that a format may read before it says where the tensors lie.
MAX_HEAD = 128 << 20
#: Bytes that are read at a time.
_STEP = 1 << 20


class Source(Protocol):
    """Anything that fills a buffer: a raw file, or the content of packets."""

    def readinto(self, buffer: memoryview, /) -> int | None:
        """Put some bytes into the buffer and return their number; 0 at the end."""
        ...


class ByteStream:
    """Bytes from a source that can be looked at before they are taken. For one thread."""

    def __init__(self, source: Source) -> None:
        self._source = source
        self._seen = bytearray()
        self._at = 0
        #: Bytes handed out so far.
        self.position = 0

    def peek(self, size: int, offset: int = 0) -> bytes:
        """The ``size`` bytes from ``offset`` bytes ahead on, without taking them; fewer at the end."""
        begin = self._at + offset
        self._look_ahead(begin + size)
        return bytes(memoryview(self._seen)[begin : begin + size])

    def head(self) -> BinaryIO:
        """A file that reads ahead from here; the position of the stream stays.

        Reading more than ``MAX_HEAD`` bytes raises FormatError.
        """
        return io.BufferedReader(_Head(self))

    def whole(self, temporary: Callable[[], BinaryIO]) -> BinaryIO:
        """Everything from here to the end, in a new temporary file that can be read from any position.

        The position of the stream stays; it continues from that file. Raises OSError.
        """
        file = temporary()
        file.write(memoryview(self._seen)[self._at :])
        buffer = memoryview(bytearray(_STEP))
        while filled := self._fill(buffer):
            file.write(buffer[:filled])
        file.flush()
        self._seen, self._at = bytearray(), 0
        self._source = _FromFile(file)
        file.seek(0)
        return file

    def _look_ahead(self, until: int) -> None:
        while (missing := min(until - len(self._seen), _STEP)) > 0:
            fresh = memoryview(bytearray(missing))
            filled = self._fill(fresh)
            self._seen += fresh[:filled]
            if filled < missing:
                break

    def take(self, size: int) -> memoryview:
        """The next bytes; fewer only at the end."""
        buffer = memoryview(bytearray(size))
        return buffer[: self.fill(buffer)]

    def fill(self, buffer: memoryview) -> int:
        """Put the next bytes into a buffer and return their number, which is less than its size only at the end."""
        size = len(buffer)
        seen = min(size, len(self._seen) - self._at)
        if seen:
            buffer[:seen] = memoryview(self._seen)[self._at : self._at + seen]
            self._at += seen
            if self._at == len(self._seen):
                self._seen, self._at = bytearray(), 0
        filled = seen + (self._fill(buffer[seen:]) if seen < size else 0)
        self.position += filled
        return filled

    def blocks(self, size: int, block: int) -> Iterator[memoryview]:
        """The next ``size`` bytes in blocks of ``block`` bytes; fewer only at the end."""
        while size > 0:
            taken = self.take(min(size, block))
            if not taken:
                return
            size -= len(taken)
            yield taken

    def _fill(self, buffer: memoryview) -> int:
        filled = 0
        while filled < len(buffer):
            got = self._source.readinto(buffer[filled:])
            if not got:
                break
            filled += got
        return filled


class _FromFile:
    """Reads a file from its beginning, whatever position others read it at in the meantime."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self._offset = 0

    def readinto(self, buffer: memoryview, /) -> int:
        data = read_at(self._file.fileno(), self._offset, len(buffer))
        buffer[: len(data)] = data
        self._offset += len(data)
        return len(data)


class _Head(io.RawIOBase):
    def __init__(self, stream: ByteStream) -> None:
        self._stream = stream
        self._offset = 0

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]
        size = min(len(buffer), _STEP)
        if self._offset + size > MAX_HEAD:
            raise FormatError(f"the header is longer than {MAX_HEAD} bytes")
        ahead = self._stream.peek(size, self._offset)
        buffer[: len(ahead)] = ahead
        self._offset += len(ahead)
        return len(ahead)


def rechunked(blocks: Iterator[memoryview], size: int) -> Iterator[memoryview]:
    """The bytes of some blocks in blocks of ``size`` bytes, the last one shorter."""
    rest = bytearray()
    for block in blocks:
        if not rest and len(block) == size:
            yield block
            continue
        rest += block
        while len(rest) >= size:
            yield memoryview(rest[:size])
            rest = rest[size:]
    if rest:
        yield memoryview(rest)


def exactly(blocks: Iterator[memoryview], size: int) -> Iterator[memoryview]:
    """The next blocks, up to the one that completes ``size`` bytes."""
    while size > 0:
        block = next(blocks)
        size -= len(block)
        yield block
