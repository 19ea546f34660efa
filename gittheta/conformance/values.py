"""Tensors as predictors read them, and ways to damage, shape and cut them."""

# ruff: noqa: S101 - assertions are what these modules are for
from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from math import lcm, prod
from random import Random

from gittheta.conformance.common import block_values, random_of, special_values, tensor, whole
from gittheta.model import BLOCK_ELEMENTS, Dtype, Tensor, TensorSpec

#: The most bytes that may be read at once from a base, when the tensor is small.
_MAX_READ = 1 << 27
#: No dimensions, no elements, one, one row, one column, odd sizes.
SHAPES = ((), (0,), (1,), (7,), (0, 4), (4, 0), (1, 1), (1, 40), (40, 1), (3, 7), (2, 3, 5), (17, 33), (40, 24, 1))


@dataclass(frozen=True)
class InMemory:
    """A whole tensor as a predictor reads it. Reading an invalid range fails the test.

    Safe to use from several threads.
    """

    tensor: Tensor

    @property
    def spec(self) -> TensorSpec:
        """Name, dtype and shape."""
        return self.tensor.spec

    def read(self, begin: int, end: int) -> memoryview:
        """The bytes from ``begin`` to ``end``."""
        check_range(self.spec, begin, end)
        return self.tensor.data[begin:end]


@dataclass(frozen=True)
class Endless:
    """A base of any size that takes no memory until it is read. Safe to use from several threads."""

    spec: TensorSpec

    def read(self, begin: int, end: int) -> memoryview:
        """The bytes from ``begin`` to ``end``."""
        check_range(self.spec, begin, end)
        assert end - begin <= _MAX_READ, f"{end - begin} bytes of a base of {self.spec.shape} read at once"
        return memoryview((b"\x3f\x80\x01\x42\x00" * ((end - begin) // 5 + 1))[: end - begin])


def check_range(spec: TensorSpec, begin: int, end: int) -> None:
    """Fail unless the bytes from ``begin`` to ``end`` are whole elements of a tensor."""
    assert 0 <= begin <= end <= spec.nbytes, f"bytes {begin} to {end} of {spec} were read"
    assert begin % unit_of(spec) == end % unit_of(spec) == 0, f"{begin} to {end} are not whole elements of {spec}"


def unit_of(spec: TensorSpec) -> int:
    """The least number of bytes that consists of whole elements."""
    return lcm(spec.dtype.bits, 8) // 8


def at_once(base: TensorSpec | None) -> int:
    """The most bytes of a base that may be in memory: a row or a block, whichever is larger."""
    if base is None or not base.nbytes:
        return 0
    row = base.nbytes // base.shape[0] if base.shape else base.nbytes
    return max(row, min(base.nbytes, BLOCK_ELEMENTS * base.dtype.itemsize))


def equal_elements(new: Tensor, data: bytes) -> int:
    """The number of elements that are the same; each must have whole bytes."""
    size = new.spec.dtype.itemsize
    pieces = range(0, new.spec.nbytes, size)
    return sum(new.data[at : at + size] == data[at : at + size] for at in pieces)


def sprinkled(one: Tensor, every: int, seed: int) -> Tensor:
    """A copy with special values in one of ``every`` elements; unchanged if that is 0."""
    if not every:
        return one
    size = one.spec.dtype.itemsize
    special, random = special_values(one.spec.dtype), random_of(seed)
    data = bytearray(one.data)
    for at in range(random.randrange(every) * size, len(data), every * size):
        start = random.randrange(len(special) // size) * size
        data[at : at + size] = special[start : start + size]
    return Tensor(one.spec, memoryview(bytes(data)))


def bases_of(new: Tensor) -> Iterator[Tensor]:
    """Bases of the tensor's dtype and shape: equal, similar, and unrelated ones."""
    yield new
    changed = bytearray(new.data)
    for at in range(0, len(changed), 97):
        changed[at] ^= 1
    yield Tensor(new.spec, memoryview(bytes(changed)))
    yield Tensor(new.spec, memoryview(bytes(new.data)[::-1]))
    yield Tensor(new.spec, memoryview(bytes(new.spec.nbytes)))


def shaped(dtype: Dtype, shape: tuple[int, ...]) -> Tensor:
    """A tensor of this shape, whose last dimension grows if that is needed for whole bytes."""
    count = prod(shape)
    if count * dtype.bits % 8:
        shape = (*shape[:-1], whole(dtype, 8))
    return tensor(dtype, block_values(dtype, prod(shape), count), shape)


def ranges_of(spec: TensorSpec, random: Random) -> Iterator[tuple[int, int]]:
    """Ranges (begin, end) in bytes, of whole elements.

    Empty ones, single elements, rows, ranges across rows, and partitions of the whole tensor in random order.
    """
    unit = unit_of(spec)
    count = spec.nbytes // unit
    row = max(1, count // spec.shape[0]) if spec.shape and spec.shape[0] else count
    marks = sorted(
        {0, 1, row - 1, row, row + 1, 2 * row, count // 2, count - row, count - 1, count} & {*range(count + 1)}
    )
    yield from ((begin * unit, end * unit) for begin in marks for end in marks if begin <= end)
    for pieces in (3, 10, 30):
        cuts = sorted({0, count, *(random.randrange(count + 1) for _ in range(pieces))})
        partition = [(begin * unit, end * unit) for begin, end in pairwise(cuts)]
        random.shuffle(partition)
        yield from partition
