"""A tensor on its way in, which can be read again: held in memory, or in a file if it is too large for that."""

from __future__ import annotations

import os
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from itertools import accumulate

from gittheta.codec.decode import HOLD
from gittheta.model import TensorSpec, block_bytes
from gittheta.storage.files import translated, write_all
from gittheta.storage.objects import Store


class Held:
    """A tensor whose blocks are all in memory."""

    def __init__(self, spec: TensorSpec, blocks: Sequence[memoryview]) -> None:
        self.spec = spec
        self._blocks = blocks
        self._ends = list(accumulate(map(len, blocks)))

    def read(self, begin: int, end: int) -> memoryview:
        """A range of bytes; copied only where it crosses blocks."""
        parts = []
        at = begin
        while at < end:
            index = bisect_right(self._ends, at)
            first = self._ends[index] - len(self._blocks[index])
            parts.append(self._blocks[index][at - first : end - first])
            at += len(parts[-1])
        return parts[0] if len(parts) == 1 else memoryview(b"".join(parts))


class Spool:
    """Takes the bytes of a tensor one after the other; what does not fit into memory goes to a temporary file.

    The file has no name for longer than a moment (where the system allows that), so that nothing is left of it.
    """

    def __init__(self, store: Store, spec: TensorSpec, hold: int | None = None) -> None:
        self.spec = spec
        self._hold = HOLD if hold is None else hold
        self._store = store
        self._blocks: list[memoryview] = []
        #: Bytes taken so far.
        self.size = 0
        self._file: int | None = None

    def append(self, block: memoryview) -> None:
        """The next bytes. Raises StoreError if the file cannot be written."""
        if self._file is None and self.size + len(block) > self._hold:
            self._file = self._open()
            for held in self._blocks:
                self._write(self._file, held)
            self._blocks.clear()
        if self._file is None:
            self._blocks.append(block)
        else:
            self._write(self._file, block)
        self.size += len(block)

    def _write(self, descriptor: int, block: memoryview) -> None:
        with translated(self._store.root):
            write_all(descriptor, block)

    def _open(self) -> int:
        path = self._store.temporary()
        with translated(path):
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | getattr(os, "O_BINARY", 0), 0o600)
            if os.name == "posix":
                os.unlink(path)
        return descriptor

    def read(self, begin: int, end: int) -> memoryview:
        """A range of the bytes that were taken so far. Safe to call from several threads."""
        if self._file is None:
            return Held(self.spec, self._blocks).read(begin, end)
        with translated(self._store.root):
            return memoryview(os.pread(self._file, end - begin, begin))

    def blocks(self, begin: int, end: int) -> Iterator[memoryview]:
        """A range of the bytes in blocks."""
        step = block_bytes(self.spec.dtype)
        return (self.read(at, min(at + step, end)) for at in range(begin, end, step))

    def __del__(self) -> None:
        self.close()

    def close(self) -> None:
        """Remove the file. What is in memory can still be read."""
        if self._file is not None:
            os.close(self._file)
            self._file = None
