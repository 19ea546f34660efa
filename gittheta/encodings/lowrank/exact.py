"""Matrix products that have the same bits on every machine.

The factors are rounded to integers whose products, summed over the rank, stay below 2^53, where float64 is exact. So
the order of summation, the library and the number of threads do not matter. The bits that rounding cuts off can be kept
as integers of their own.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from gittheta.api import PayloadError

if TYPE_CHECKING:
    from gittheta.numerics.floats import Doubles

Floats = npt.NDArray[np.floating]
Integers = npt.NDArray[np.int32]

#: Float64 holds every integer up to this one.
_EXACT = float(1 << 53)
#: The largest absolute exponent of a product's power of two: two of them multiplied still fit float64.
MAX_EXPONENT = 384
#: The largest absolute exponent by which one component of a factor is scaled: the result stays within float64.
MAX_SHIFT = 600
#: The most bits below the integers that can be kept.
MAX_EXTRA = 32


@dataclass(frozen=True)
class Scales:
    """How the floats of two factors become integers.

    Component k of the left factor is multiplied by 2^``shifts[k]``, that of the right factor by
    2^(``exponent`` - ``shifts[k]``), so that all products have the same scale. The next ``extra`` bits below the
    integers are kept in terms of their own; all lower bits are cut off.
    """

    exponent: int
    shifts: Integers
    extra: int


@dataclass(frozen=True)
class Term:
    """A product of integers, times 2^-``exponent``. The integers are held as float64."""

    #: (rows, rank)
    left: Doubles
    #: (rank, columns)
    right: Doubles
    exponent: int

    def tile(self, rows: slice, columns: slice) -> Doubles:
        """These rows and columns of the product, in a new array of float64."""
        part: Doubles = self.left[rows] @ self.right[:, columns]
        # The sign of a zero would depend on the order of summation: + 0.0 makes it positive.
        part += 0.0
        part *= 2.0**-self.exponent
        return part


@dataclass(frozen=True)
class Exact:
    """A matrix: its ``values``, or else the sum of its ``terms``."""

    shape: tuple[int, int]
    #: The rank as the manifest says it: a number, or ``full`` for a matrix that is not a product.
    rank: str
    terms: tuple[Term, ...] = ()
    values: Doubles | None = None

    def tile(self, rows: slice, columns: slice) -> Doubles:
        """These rows and columns of the matrix, in a new array of float64."""
        if self.values is not None:
            return self.values[rows, columns] + 0.0
        total = self.terms[0].tile(rows, columns)
        for term in self.terms[1:]:
            total += term.tile(rows, columns)
        return total


def plain_matrix(values: Doubles) -> Exact:
    """A matrix that is not a product; ``values`` has shape (rows, columns)."""
    return Exact((values.shape[0], values.shape[1]), "full", values=values)


def product(left: Doubles, right: Doubles, exponent: int, extra: int) -> Exact:
    """The product of two factors of integers, (rank, rows) and (rank, columns), times 2^-``exponent``.

    The lowest ``extra`` bits of each factor go to terms of their own. Raises PayloadError if sums could be inexact.
    """
    scales = Scales(exponent - 2 * extra, np.full(len(left), -extra, np.int32), extra)
    return product_of_floats(left, np.ldexp(right, -exponent), scales)


def product_of_floats(left: Doubles, right: Doubles, scales: Scales) -> Exact:
    """The product of two factors of floats, (rank, rows) and (rank, columns).

    Raises PayloadError if sums could be inexact.
    """
    high_left, low_left = _split(left, scales.shifts, scales.extra)
    high_right, low_right = _split(right, scales.exponent - scales.shifts, scales.extra)
    # The product of the two low parts is smaller than what rounding has cut off, so it is left out.
    pairs = [(high_left, high_right)]
    if scales.extra:
        pairs += [(high_left, low_right), (low_left, high_right)]
    for one, other in pairs:
        # The bound is exact if it is below 2^53, because it was then summed without rounding; infinity and NaN fail.
        if not _sums(tops(one), tops(other)) < _EXACT:
            raise PayloadError("factors whose products are too large to be exact")
    # The transposed view is not copied: a matrix product reads its left factor in either order.
    terms = [Term(one.T, other, scales.exponent + (scales.extra if at else 0)) for at, (one, other) in enumerate(pairs)]
    return Exact((left.shape[1], right.shape[1]), str(len(left)), tuple(terms))


def extra_bits(left: Doubles, right: Doubles) -> int:
    """How many of the lowest bits of two factors, as :func:`product` takes them, must go to terms of their own."""
    return max(0, int(np.ceil((np.log2(_sums(tops(left), tops(right)) + 1) - 52.5) / 2)))


def scales_of(left: Floats, right: Floats) -> Scales:
    """The scales that keep the most bits of two factors, as :func:`product_of_floats` takes them.

    Raises PayloadError if the factors are too large.
    """
    exponent, shifts = _balance(tops(left), tops(right))
    parts = [
        _split(factor.astype(np.float64), shift, MAX_EXTRA)
        for factor, shift in ((left, shifts), (right, exponent - shifts))
    ]
    if not any(low.any() for _, low in parts):
        return Scales(exponent, shifts, 0)
    # A part that is cut off is at most one half, so ``bits`` bits of it are an integer of at most 2^(bits - 1).
    highest = max(float(tops(high).sum()) for high, _ in parts)
    return Scales(exponent, shifts, max(0, min(MAX_EXTRA, 53 - int(np.frexp(highest)[1]))))


def tops(matrix: Floats) -> Doubles:
    """The largest absolute value in each row: float64, one-dimensional."""
    if not matrix.size:
        return np.zeros(len(matrix))
    largest: Doubles = np.maximum(matrix.max(axis=1), -matrix.min(axis=1)).astype(np.float64)
    return largest


def _split(factor: Doubles, shifts: Integers, extra: int) -> tuple[Doubles, Doubles]:
    """Each row times 2^shift, rounded to integers; and the remainders, rounded to integers in units of 2^-``extra``."""
    with np.errstate(over="ignore", under="ignore", invalid="ignore"):
        rest = np.ldexp(factor, shifts[:, None])
        high: Doubles = np.rint(rest)
        rest -= high
        np.ldexp(rest, extra, out=rest)
        return high, np.rint(rest, out=rest)


def _sums(left: Doubles, right: Doubles) -> float:
    """A bound of the sums in a product, given the largest integer of each component of both factors."""
    with np.errstate(over="ignore", invalid="ignore"):
        return float((left * right).sum())


def _balance(left: Doubles, right: Doubles) -> tuple[int, Integers]:
    """The largest exponent with exact sums, and shifts that give both factors of a component equally many bits.

    ``left`` and ``right`` are the largest absolute values of each component. Raises PayloadError if they are too large.
    """
    both = (left > 0) & (right > 0)
    sizes = [np.where(both, np.frexp(top)[1], 0) for top in (left, right)]
    highest = int((sizes[0] + sizes[1]).max(initial=-MAX_EXPONENT, where=both))
    for exponent in range(min(MAX_EXPONENT, 55 - highest), -MAX_EXPONENT - 1, -1):
        shifts = np.clip((exponent + sizes[1] - sizes[0]) // 2, -MAX_SHIFT, MAX_SHIFT).astype(np.int32)
        high = [_split(top[:, None], shift, 0)[0][:, 0] for top, shift in ((left, shifts), (right, exponent - shifts))]
        if _sums(*high) < _EXACT:
            return exponent, shifts
    raise PayloadError("factors that are too large")
