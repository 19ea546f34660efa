"""Tensors as predictors see them, and ways to spoil, shape and cut them."""

# ruff: noqa: S101 - assertions are what these modules are for
from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from math import lcm, prod
from random import Random

from gittheta.conformance.common import block_values, random_of, special_values, tensor, whole
from gittheta.model import BLOCK_ELEMENTS, Dtype, Tensor, TensorSpec

#: Nobody needs more of a base at once, where all of it is small.
_MAX_READ = 1 << 27
#: No dimensions, no elements, one, one row, one column, odd sizes.
SHAPES = ((), (0,), (1,), (7,), (0, 4), (4, 0), (1, 1), (1, 40), (40, 1), (3, 7), (2, 3, 5), (17, 33), (40, 24, 1))


@dataclass(frozen=True)
class InMemory:
    """A whole tensor as a predictor sees it. Safe to use from several threads. Impossible ranges fail the test."""

    tensor: Tensor

    @property
    def spec(self) -> TensorSpec:
        return self.tensor.spec

    def read(self, begin: int, end: int) -> memoryview:
        check_range(self.spec, begin, end)
        return self.tensor.data[begin:end]


@dataclass(frozen=True)
class Endless:
    """A base of any size that takes no memory until it is read. Safe to use from several threads."""

    spec: TensorSpec

    def read(self, begin: int, end: int) -> memoryview:
        check_range(self.spec, begin, end)
        assert end - begin <= _MAX_READ, f"{end - begin} bytes of a base of {self.spec.shape} read at once"
        return memoryview((b"\x3f\x80\x01\x42\x00" * ((end - begin) // 5 + 1))[: end - begin])


def check_range(spec: TensorSpec, begin: int, end: int) -> None:
    assert 0 <= begin <= end <= spec.nbytes, f"bytes {begin} to {end} of {spec} were asked for"
    assert begin % unit_of(spec) == end % unit_of(spec) == 0, f"{begin} to {end} are no whole elements of {spec}"


def unit_of(spec: TensorSpec) -> int:
    """The least bytes that are whole elements."""
    return lcm(spec.dtype.bits, 8) // 8


def at_once(base: TensorSpec | None) -> int:
    """How much of a base may be held: a row, or a block."""
    if base is None or not base.nbytes:
        return 0
    row = base.nbytes // base.shape[0] if base.shape else base.nbytes
    return max(row, min(base.nbytes, BLOCK_ELEMENTS * base.dtype.itemsize))


def equal_elements(new: Tensor, data: bytes) -> int:
    """How many elements, of whole bytes, are right."""
    size = new.spec.dtype.itemsize
    pieces = range(0, new.spec.nbytes, size)
    return sum(new.data[at : at + size] == data[at : at + size] for at in pieces)


def sprinkled(one: Tensor, every: int, seed: int) -> Tensor:
    """Special values in one of so many elements; 0 for none."""
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
    """What a tensor may be compared with."""
    yield new
    changed = bytearray(new.data)
    for at in range(0, len(changed), 97):
        changed[at] ^= 1
    yield Tensor(new.spec, memoryview(bytes(changed)))
    yield Tensor(new.spec, memoryview(bytes(new.data)[::-1]))
    yield Tensor(new.spec, memoryview(bytes(new.spec.nbytes)))


def shaped(dtype: Dtype, shape: tuple[int, ...]) -> Tensor:
    """Values in a shape, the last dimension of which grows until they are whole bytes."""
    count = prod(shape)
    if count * dtype.bits % 8:
        shape = (*shape[:-1], whole(dtype, 8))
    return tensor(dtype, block_values(dtype, prod(shape), count), shape)


def ranges_of(spec: TensorSpec, random: Random) -> Iterator[tuple[int, int]]:
    """Ranges of whole elements: none, one, rows and what crosses them, and parts of any size that make the whole."""
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
