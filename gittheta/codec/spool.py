"""A tensor that arrives block by block, held in memory or, if it is too large, in a temporary file."""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import TYPE_CHECKING

from gittheta.codec.readers import HeldReader
from gittheta.storage.files import open_unnamed, read_at, translated, write_all

if TYPE_CHECKING:
    from gittheta.codec.tensor_store import TensorStore
    from gittheta.model import TensorSpec


class Spool:
    """Takes the bytes of a tensor in order; a tensor of more than ``held`` bytes moves to a temporary file.

    Safe to use from several threads: one appends, all may read what was appended before. The file loses its name at
    once where the system allows that, so that it vanishes whatever happens.
    """

    def __init__(self, tensors: TensorStore, spec: TensorSpec, held: int) -> None:
        self.spec = spec
        self._held = held
        self._tensors = tensors
        self._blocks: list[memoryview] = []
        #: Bytes taken so far.
        self.size = 0
        self._file: int | None = None

    def append(self, block: memoryview) -> None:
        """Add the next bytes; their buffer must not change afterwards. Raises StoreError if writing fails."""
        if self._file is None and self.size + len(block) > self._held:
            self._move_to_file()
        if self._file is None:
            self._blocks.append(block)
        else:
            self._write(self._file, block)
        self.size += len(block)

    def _move_to_file(self) -> None:
        """Others may read meanwhile: the file is not seen before all is in it, nor are blocks taken from a list."""
        descriptor = open_unnamed(self._tensors.scratch())
        try:
            for held in self._blocks:
                self._write(descriptor, held)
        except BaseException:
            os.close(descriptor)
            raise
        self._file = descriptor
        self._blocks = []

    def _write(self, descriptor: int, block: memoryview) -> None:
        with translated(self._tensors.store.root):
            write_all(descriptor, block)

    @property
    def in_memory(self) -> int:
        """The bytes of the tensor that are in memory."""
        return self.size if self._file is None else 0

    def read(self, begin: int, end: int) -> memoryview:
        """The raw bytes from offset ``begin`` to ``end``, which must have been appended before. Raises StoreError."""
        blocks = self._blocks  # first: they are there until there is a file
        if self._file is None:
            return HeldReader(self.spec, blocks).read(begin, end)
        with translated(self._tensors.store.root):
            return memoryview(read_at(self._file, begin, end - begin))

    def blocks(self, step: int) -> Iterator[memoryview]:
        """All bytes appended so far, in blocks of ``step`` bytes, the last one shorter."""
        return (self.read(at, min(at + step, self.size)) for at in range(0, self.size, step))

    def __del__(self) -> None:
        self.close()

    def close(self) -> None:
        """Remove the temporary file. Bytes in memory can still be read."""
        if self._file is not None:
            os.close(self._file)
            self._file = None
