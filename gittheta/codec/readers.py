"""Readers of tensors whose bytes are in memory, in a file, or part of another tensor.

All are a :class:`gittheta.api.TensorReader`. Readers of the store are in :mod:`gittheta.codec.chain`; a reader of bytes
that are still arriving is :class:`gittheta.codec.spool.Spool`.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import TYPE_CHECKING

from gittheta.errors import StoreError
from gittheta.model import Digest, RunningDigest, TensorSpec
from gittheta.storage.files import read_at

if TYPE_CHECKING:
    from gittheta.api import TensorReader
    from gittheta.limits import Limits


@dataclass(frozen=True)
class HeldReader:
    """A tensor whose blocks are all in memory. Safe to use from several threads."""

    spec: TensorSpec
    blocks: Sequence[memoryview]

    def read(self, begin: int, end: int) -> memoryview:
        """The raw bytes from offset ``begin`` to ``end``; copied only where they cross blocks."""
        if len(self.blocks) == 1:
            return self.blocks[0][begin:end]
        ends = list(accumulate(map(len, self.blocks)))
        parts: list[memoryview] = []
        at = begin
        while at < end:
            index = bisect_right(ends, at)
            first = ends[index] - len(self.blocks[index])
            parts.append(self.blocks[index][at - first : end - first])
            at += len(parts[-1])
        return parts[0] if len(parts) == 1 else memoryview(b"".join(parts))


@dataclass(frozen=True)
class FileReader:
    """A tensor in an open file, from ``offset`` on. Safe to use from several threads."""

    spec: TensorSpec
    descriptor: int
    offset: int

    def read(self, begin: int, end: int) -> memoryview:
        """The raw bytes from offset ``begin`` to ``end``. Raises StoreError if the file has become shorter."""
        data = read_at(self.descriptor, self.offset + begin, end - begin)
        if len(data) < end - begin:
            raise StoreError("the file became shorter while it was read", hint="run the command again")
        return memoryview(data)


@dataclass(frozen=True)
class PartReader:
    """A run of another tensor's bytes, from ``offset`` on, as a tensor. Safe to use from several threads."""

    spec: TensorSpec
    whole: TensorReader
    offset: int = 0

    def read(self, begin: int, end: int) -> memoryview:
        """The raw bytes from offset ``begin`` to ``end``."""
        return self.whole.read(self.offset + begin, self.offset + end)


def blocks_of(reader: TensorReader, step: int) -> Iterator[memoryview]:
    """The bytes of a tensor in blocks of ``step`` bytes, the last one shorter."""
    size = reader.spec.nbytes
    return (reader.read(begin, min(begin + step, size)) for begin in range(0, size, step))


def digest_reader(reader: TensorReader, limits: Limits) -> Digest:
    """The digest of a tensor, read block by block and computed on all processors."""
    digest = RunningDigest(parallel=True)
    for block in blocks_of(reader, limits.block_bytes(reader.spec.dtype)):
        digest.update(block)
    return digest.digest()
