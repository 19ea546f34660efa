"""Hashes of rows and of columns: the sums of their words, each times a random odd number, modulo 2^64; two of each.

Being sums, hashes of rows can leave columns out, and those of columns can follow rows to where they went, without
anything being moved. What they get wrong is mended by the correction that stands above each prediction.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from gittheta.api import Dtype, TensorReader, TensorSpec
from gittheta.numerics.planes import Bytes

Flags = npt.NDArray[np.bool_]
Hashes = npt.NDArray[np.uint64]

_BLOCK = 1 << 20


@dataclass(frozen=True)
class Grid:
    """A tensor seen as rows of columns of cells of so many bytes."""

    rows: int
    columns: int
    cell: int
    dtype: Dtype

    @classmethod
    def of(cls, spec: TensorSpec) -> Grid:
        """The first dimension, the second, and the others. The tensor must have elements."""
        rows = spec.shape[0] if spec.shape else 1
        columns = spec.shape[1] if len(spec.shape) > 1 else 1
        return cls(rows, columns, spec.nbytes // (rows * columns), spec.dtype)

    @property
    def row(self) -> int:
        """Bytes of a row."""
        return self.columns * self.cell

    @property
    def block(self) -> int:
        """Bytes that are best read at once."""
        return _BLOCK * self.dtype.itemsize


@dataclass(frozen=True)
class Axis:
    """A tensor and what of it takes part: two random numbers for each row and each column, zeros for those left out."""

    values: TensorReader
    grid: Grid
    weights: tuple[Hashes, Hashes] = field(repr=False)
    #: Whether all columns take part, each with its own number.
    whole: bool = True

    def count(self, axis: int) -> int:
        return self.grid.columns if axis else self.grid.rows


def side_of(values: TensorReader) -> Axis:
    grid = Grid.of(values.spec)
    return Axis(values, grid, (_random(grid.rows, 1), _random(grid.columns, 2)))


def weighted(side: Axis, axis: int, weights: Hashes) -> Axis:
    both = (side.weights[0], weights) if axis else (weights, side.weights[1])
    return Axis(side.values, side.grid, both, whole=side.whole and axis == 0)


def _random(count: int, salt: int) -> Hashes:
    """Pairs of odd numbers, the same each time (splitmix64)."""
    state = np.arange(1, 2 * count + 1, dtype=np.uint64)
    state += np.uint64(salt << 40)
    state *= np.uint64(0x9E3779B97F4A7C15)
    for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB)):
        state ^= state >> np.uint64(shift)
        state *= np.uint64(factor)
    state ^= state >> np.uint64(31)
    return (state | np.uint64(1)).reshape(count, 2)


def hashes(side: Axis, axis: int, loose: bool = False) -> Hashes:
    """Of each row or column; zero for those that are. Loose: of signs and mantissas alone."""
    return _hash_columns(side, loose) if axis else _hash_rows(side, loose)


def _hash_rows(side: Axis, loose: bool) -> Hashes:
    grid = side.grid
    size = _word_size(grid.row if side.whole else grid.cell)
    active = None
    if side.whole:
        weights = _random(grid.row // size, 3)
    else:
        weights = side.weights[1]
        active = np.flatnonzero(weights[:, 0])
        weights = (weights[active][:, None] * _random(grid.cell // size, 3)).reshape(-1, 2)
        active = None if len(active) == grid.columns else active
    factors = [np.ascontiguousarray(weights[:, at]) for at in (0, 1)]
    found = np.empty((grid.rows, 2), np.uint64)
    for first, part in pieces(side):
        if active is not None:
            part = part.reshape(len(part), -1, grid.cell).take(active, axis=1).reshape(len(part), -1)
        words = _words(part, size, grid.dtype, loose)
        for at in (0, 1):
            np.einsum("ij,j->i", words, factors[at], out=found[first : first + len(part), at])
    return found


def _hash_columns(side: Axis, loose: bool) -> Hashes:
    found = np.zeros((side.grid.columns, 2), np.uint64)
    weights = side.weights[0]
    for first, part in pieces(side, weights[:, 0] != 0):
        cells = hash_cells(part, side.grid, loose)
        for at in (0, 1):
            found[:, at] += np.einsum("i,ij->j", weights[first : first + len(part), at], cells)
    return found


def hash_cells(part: Bytes, grid: Grid, loose: bool = False) -> Hashes:
    """One number for each cell of some rows."""
    size = _word_size(grid.cell)
    words = _words(part, size, grid.dtype, loose).reshape(len(part), grid.columns, -1)
    if grid.cell == size:
        return words[:, :, 0]
    sums: Hashes = np.einsum("ijk,k->ij", words, np.ascontiguousarray(_random(grid.cell // size, 3)[:, 0]))
    return sums


def _words(part: Bytes, size: int, dtype: Dtype, loose: bool) -> Hashes:
    words = part.view(f"<u{size}")
    if loose:
        bits, mantissa = dtype.bits, dtype.mantissa_bits
        mask = 1 << (bits - 1) | (1 << mantissa) - 1
        words = words & words.dtype.type(sum(mask << at for at in range(0, 8 * size, bits)))
    if size < 8:
        return words.astype(np.uint64)
    mixed: Hashes = words >> np.uint64(32)  # the top bits alone would vanish in a product
    mixed ^= words
    return mixed


def _word_size(nbytes: int) -> int:
    return next(size for size in (8, 4, 2, 1) if nbytes % size == 0)


def pieces(side: Axis, flags: Flags | None = None) -> Iterator[tuple[int, Bytes]]:
    """Rows as bytes, after the index of the first of them; only those from the first to the last flag of each block."""
    row, rows = side.grid.row, side.grid.rows
    step, small = max(1, side.grid.block // row), max(1, side.grid.block // row // 8)
    for first in range(0, rows, step):
        last = min(first + step, rows)
        if flags is not None:
            flagged = np.flatnonzero(flags[first:last])
            if not len(flagged):
                continue
            first, last = first + int(flagged[0]), first + int(flagged[-1]) + 1
        block = np.frombuffer(side.values.read(first * row, last * row), np.uint8).reshape(-1, row)
        for at in range(0, len(block), small):
            yield first + at, block[at : at + small]
