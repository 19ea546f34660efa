"""Matrix products that have the same bits on every machine.

The factors are used as integers: the products of two of them, summed over the rank, stay below 2^53, where float64 is
exact. So it does not matter in what order, by what library and on how many threads a product is summed. What rounding
to integers cuts off may be used too, as integers of their own.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from gittheta.api import PayloadError
from gittheta.numerics.floats import Doubles

Floats = npt.NDArray[np.floating]
Integers = npt.NDArray[np.int32]

#: Below it, float64 holds every integer.
_EXACT = float(1 << 53)
#: A product's power of two lies within these bounds, so that neither it nor two of them multiplied leave float64.
MAX_EXPONENT = 384
#: The power of two of one component of a factor, so that no value of a float64 is shifted beyond float64.
MAX_SHIFT = 600
#: How many bits below the integers may be used.
MAX_EXTRA = 32


@dataclass(frozen=True)
class Scales:
    """How the floats of two factors become integers.

    Component k of the left one is multiplied by 2^``shifts[k]``, of the right one by 2^(``exponent`` - ``shifts[k]``),
    so that all of their products have one scale. ``extra`` bits below that make terms of their own; the rest is cut
    off.
    """

    exponent: int
    shifts: Integers
    extra: int


@dataclass(frozen=True)
class Term:
    """A product of integers, times 2^-``exponent``. The integers are held as float64."""

    left: Doubles
    right: Doubles
    exponent: int

    def tile(self, rows: slice, columns: slice) -> Doubles:
        """A part of the product, in a fresh array."""
        found: Doubles = self.left[rows] @ self.right[:, columns]
        # The sign of a zero would depend on how a sum is made: + 0.0 makes it positive.
        found += 0.0
        found *= 2.0**-self.exponent
        return found


@dataclass(frozen=True)
class Exact:
    """A matrix: values as they are, or else a sum of terms."""

    shape: tuple[int, int]
    #: As it stands in a manifest.
    rank: str
    terms: tuple[Term, ...] = ()
    values: Doubles | None = None

    def tile(self, rows: slice, columns: slice) -> Doubles:
        """A part of the matrix, in a fresh array."""
        if self.values is not None:
            return self.values[rows, columns] + 0.0
        found = self.terms[0].tile(rows, columns)
        for term in self.terms[1:]:
            found += term.tile(rows, columns)
        return found


def lone(values: Doubles) -> Exact:
    """A matrix that is no product."""
    return Exact((values.shape[0], values.shape[1]), "full", values=values)


def product(left: Doubles, right: Doubles, exponent: int, extra: int) -> Exact:
    """A product of two factors that are integers; both have the components as rows. Raises PayloadError.

    The lowest ``extra`` bits of each make terms of their own.
    """
    scales = Scales(exponent - 2 * extra, np.full(len(left), -extra, np.int32), extra)
    return product_of_floats(left, np.ldexp(right, -exponent), scales)


def product_of_floats(left: Doubles, right: Doubles, scales: Scales) -> Exact:
    """A product of two factors that are floats; both have the components as rows. Raises PayloadError."""
    high_left, low_left = _split(left, scales.shifts, scales.extra)
    high_right, low_right = _split(right, scales.exponent - scales.shifts, scales.extra)
    # What two low parts make is less than what rounding has cut off.
    pairs = [(high_left, high_right)]
    if scales.extra:
        pairs += [(high_left, low_right), (low_left, high_right)]
    for one, other in pairs:
        # A bound below 2^53 was summed without rounding, so it is no guess; infinity and NaN are not below it.
        if not _sums(tops(one), tops(other)) < _EXACT:
            raise PayloadError("factors whose products are too large to be exact")
    # Not turned, but read across: a product takes its left factor either way.
    terms = [Term(one.T, other, scales.exponent + (scales.extra if at else 0)) for at, (one, other) in enumerate(pairs)]
    return Exact((left.shape[1], right.shape[1]), str(len(left)), tuple(terms))


def extra_bits(left: Doubles, right: Doubles) -> int:
    """How many of the lowest bits of factors, given as in :func:`product`, must make terms of their own."""
    return max(0, int(np.ceil((np.log2(_sums(tops(left), tops(right)) + 1) - 52.5) / 2)))


def scales_of(left: Floats, right: Floats) -> Scales:
    """What keeps most of two factors, given as in :func:`product_of_floats`. Raises PayloadError if nothing does."""
    exponent, shifts = _balance(tops(left), tops(right))
    parts = [
        _split(factor.astype(np.float64), shift, MAX_EXTRA)
        for factor, shift in ((left, shifts), (right, exponent - shifts))
    ]
    if not any(low.any() for _, low in parts):
        return Scales(exponent, shifts, 0)
    # What is cut off is a half at most, so that many bits of it are 2^(bits - 1).
    highest = max(float(tops(high).sum()) for high, _ in parts)
    return Scales(exponent, shifts, max(0, min(MAX_EXTRA, 53 - int(np.frexp(highest)[1]))))


def tops(matrix: Floats) -> Doubles:
    """The largest absolute value of each row."""
    if not matrix.size:
        return np.zeros(len(matrix))
    found: Doubles = np.maximum(matrix.max(axis=1), -matrix.min(axis=1)).astype(np.float64)
    return found


def _split(factor: Doubles, shifts: Integers, extra: int) -> tuple[Doubles, Doubles]:
    """Each row times two to the power of its shift: in integers, and what is left in units of 2^-``extra``."""
    with np.errstate(over="ignore", under="ignore", invalid="ignore"):
        rest = np.ldexp(factor, shifts[:, None])
        high: Doubles = np.rint(rest)
        rest -= high
        np.ldexp(rest, extra, out=rest)
        return high, np.rint(rest, out=rest)


def _sums(left: Doubles, right: Doubles) -> float:
    """What the sums that make a product stay below, of the largest integers of each component."""
    with np.errstate(over="ignore", invalid="ignore"):
        return float((left * right).sum())


def _balance(left: Doubles, right: Doubles) -> tuple[int, Integers]:
    """The largest exponent that sums allow, and as many bits of each component for either factor."""
    both = (left > 0) & (right > 0)
    sizes = [np.where(both, np.frexp(top)[1], 0) for top in (left, right)]
    highest = int((sizes[0] + sizes[1]).max(initial=-MAX_EXPONENT, where=both))
    for exponent in range(min(MAX_EXPONENT, 55 - highest), -MAX_EXPONENT - 1, -1):
        shifts = np.clip((exponent + sizes[1] - sizes[0]) // 2, -MAX_SHIFT, MAX_SHIFT).astype(np.int32)
        high = [_split(top[:, None], shift, 0)[0][:, 0] for top, shift in ((left, shifts), (right, exponent - shifts))]
        if _sums(*high) < _EXACT:
            return exponent, shifts
    raise PayloadError("factors that are too large")
