"""Hashes of rows and of columns: the sum of their words, each times a random odd number, modulo 2^64.

Each row and column has two such hashes. Because they are sums, hashes of rows can leave columns out, and hashes of
columns can follow rows that moved, without moving any data. A wrong match does no harm: the correction above each
prediction repairs it.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    from gittheta.api import Dtype, TensorReader, TensorSpec
    from gittheta.numerics.planes import Bytes

Flags = npt.NDArray[np.bool_]
Hashes = npt.NDArray[np.uint64]

#: Elements that are read at a time: one block of the base.
_BLOCK = 1 << 20


@dataclass(frozen=True)
class Grid:
    """A tensor as a grid of rows and columns; each cell has ``cell`` bytes."""

    rows: int
    columns: int
    cell: int
    dtype: Dtype

    @classmethod
    def of(cls, spec: TensorSpec) -> Grid:
        """Rows are the first dimension, columns the second, cells all others. The tensor must have elements."""
        rows = spec.shape[0] if spec.shape else 1
        columns = spec.shape[1] if len(spec.shape) > 1 else 1
        return cls(rows, columns, spec.nbytes // (rows * columns), spec.dtype)

    @property
    def row(self) -> int:
        """Bytes of a row."""
        return self.columns * self.cell

    @property
    def block(self) -> int:
        """Bytes to read at a time."""
        return _BLOCK * self.dtype.itemsize


@dataclass(frozen=True)
class Axis:
    """A tensor and the weights of its rows and columns in hashes; weights of zero leave a row or column out."""

    values: TensorReader
    grid: Grid
    #: For rows and for columns: two random numbers each, (rows, 2) and (columns, 2).
    weights: tuple[Hashes, Hashes] = field(repr=False)
    #: Whether all columns take part, each with its own numbers.
    whole: bool = True

    def count(self, axis: int) -> int:
        """The number of rows (axis 0) or columns (axis 1)."""
        return self.grid.columns if axis else self.grid.rows


def side_of(values: TensorReader) -> Axis:
    """A tensor of which all rows and columns take part."""
    grid = Grid.of(values.spec)
    return Axis(values, grid, (_random(grid.rows, 1), _random(grid.columns, 2)))


def weighted(side: Axis, axis: int, weights: Hashes) -> Axis:
    """A copy with other weights for its rows (axis 0) or columns (axis 1)."""
    both = (side.weights[0], weights) if axis else (weights, side.weights[1])
    return Axis(side.values, side.grid, both, whole=side.whole and axis == 0)


def _random(count: int, salt: int) -> Hashes:
    """Pairs of pseudo-random odd numbers (splitmix64), the same at each call: uint64, (count, 2)."""
    state = np.arange(1, 2 * count + 1, dtype=np.uint64)
    state += np.uint64(salt << 40)
    state *= np.uint64(0x9E3779B97F4A7C15)
    for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB)):
        state ^= state >> np.uint64(shift)
        state *= np.uint64(factor)
    state ^= state >> np.uint64(31)
    return (state | np.uint64(1)).reshape(count, 2)


def hashes(side: Axis, axis: int, *, loose: bool = False) -> Hashes:
    """The two hashes of each row (axis 0) or column (axis 1): uint64, (rows or columns, 2).

    Rows and columns of zeros hash to zero. ``loose`` hashes only signs and mantissas, so that multiples by a power of
    two are equal.
    """
    return _hash_columns(side, loose=loose) if axis else _hash_rows(side, loose=loose)


def _hash_rows(side: Axis, *, loose: bool) -> Hashes:
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
    hashed = np.empty((grid.rows, 2), np.uint64)
    for first, part in pieces(side):
        if active is not None:
            part = part.reshape(len(part), -1, grid.cell).take(active, axis=1).reshape(len(part), -1)
        words = _words(part, size, grid.dtype, loose=loose)
        for at in (0, 1):
            np.einsum("ij,j->i", words, factors[at], out=hashed[first : first + len(part), at])
    return hashed


def _hash_columns(side: Axis, *, loose: bool) -> Hashes:
    hashed = np.zeros((side.grid.columns, 2), np.uint64)
    weights = side.weights[0]
    for first, part in pieces(side, weights[:, 0] != 0):
        cells = hash_cells(part, side.grid, loose=loose)
        for at in (0, 1):
            hashed[:, at] += np.einsum("i,ij->j", weights[first : first + len(part), at], cells)
    return hashed


def hash_cells(part: Bytes, grid: Grid, *, loose: bool = False) -> Hashes:
    """One number for each cell of some rows: uint64, (rows, columns)."""
    size = _word_size(grid.cell)
    words = _words(part, size, grid.dtype, loose=loose).reshape(len(part), grid.columns, -1)
    if grid.cell == size:
        return words[:, :, 0]
    sums: Hashes = np.einsum("ijk,k->ij", words, np.ascontiguousarray(_random(grid.cell // size, 3)[:, 0]))
    return sums


def _words(part: Bytes, size: int, dtype: Dtype, *, loose: bool) -> Hashes:
    words = part.view(f"<u{size}")
    if loose:
        bits, mantissa = dtype.bits, dtype.mantissa_bits
        mask = 1 << (bits - 1) | (1 << mantissa) - 1
        words = words & words.dtype.type(sum(mask << at for at in range(0, 8 * size, bits)))
    if size < 8:
        return words.astype(np.uint64)
    mixed: Hashes = words >> np.uint64(32)  # in a product modulo 2^64 the top bits hardly count
    mixed ^= words
    return mixed


def _word_size(nbytes: int) -> int:
    return next(size for size in (8, 4, 2, 1) if nbytes % size == 0)


def pieces(side: Axis, flags: Flags | None = None) -> Iterator[tuple[int, Bytes]]:
    """Rows as bytes, (rows, bytes of a row), a few at a time, each after the index of its first row.

    With ``flags``, one for each row, only the rows from the first to the last flagged one of each block.
    """
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
