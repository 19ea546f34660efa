"""Sums of sides or task vectors, each times a number that depends on lengths and angles.

A first pass over the elements measures the dot products, in float64. The numbers are then computed in plain Python, so
that they do not depend on the device. A second pass computes the sum.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import combinations_with_replacement
from typing import Any

import torch

from gittheta.api import Blocks, Group, MergeError
from gittheta.merges.arithmetic.reductions import leaf_dots, row_dots, totals
from gittheta.merges.linear import divided, sum_of, weighted_sum

#: Two vectors are mixed along a line if the absolute cosine of their angle is above this.
NEARLY_PARALLEL = 0.9995
#: A mean of unit vectors that is shorter than this has no direction: it would be one of rounding errors.
OPPOSED = 1e-6
#: Squared lengths outside these bounds may have overflowed or lost precision; only those of float64 tensors can.
SAFE = (1e-200, 1e200)
#: What :func:`mixture` returns if all sides are equal: the result is that side, to the bit.
EQUAL = "equal"

#: The dot products of all pairs of vectors, in the order of ``combinations_with_replacement``.
Products = list[float]


@dataclass(frozen=True)
class Vectors:
    """Lengths of some vectors, up to a common factor, and the cosines of their angles.

    The cosines are the dot products of the unit vectors. A vector of zeros has length 0, and all its cosines are 0.
    """

    tensor: str
    weights: tuple[float, ...]
    lengths: tuple[float, ...]
    cosines: tuple[tuple[float, ...], ...]

    def dots(self, shares: Sequence[float]) -> list[float]:
        """The dot product of each unit vector with the sum of all unit vectors, each times its share."""
        return [dot(row, shares) for row in self.cosines]

    def length(self, shares: Sequence[float]) -> float:
        """The length of the sum of all unit vectors, each times its share."""
        return math.sqrt(max(0.0, dot(shares, self.dots(shares))))

    def at_mean_length(self, shares: Sequence[float], u: Sequence[float]) -> list[float]:
        """Coefficients of the vectors, so that their sum has the direction ``u`` and the mean length.

        ``u`` has the coefficients of a unit vector in terms of the unit vectors; the mean is weighted with ``shares``.
        """
        mean = dot(shares, self.lengths)
        return [mean * number / length if length else 0.0 for number, length in zip(u, self.lengths, strict=True)]

    def opposed(self, method: str) -> MergeError:
        """The error for vectors that point away from each other, so that no direction lies between them."""
        return MergeError(
            f"{method} finds no direction between sides that point away from one another",
            tensor=self.tensor,
            hint="choose other weights, or a method that needs no directions, such as linear",
        )


def dot(a: Sequence[float], b: Sequence[float]) -> float:
    """The dot product of two short sequences of numbers, rounded once."""
    return math.fsum(x * y for x, y in zip(a, b, strict=True))


def shares_of(weights: Sequence[float], tensor: str, *, negative: bool = True) -> list[float]:
    """The weights, scaled so that they sum to one.

    Raises MergeError if they sum to zero, or if one is below zero and ``negative`` is not set.
    """
    total = sum_of(weights, tensor)
    if not negative and min(weights) < 0:
        raise MergeError("a weight is below zero, which has no meaning for directions", tensor=tensor)
    return [weight / total for weight in weights]


def on_arc(cosine: float, shares: Sequence[float]) -> list[float]:
    """The coefficients of two vectors for a point on the arc between them, or on a line if they are nearly parallel."""
    if abs(cosine) > NEARLY_PARALLEL:
        return list(shares)
    angle = math.acos(cosine)
    return [math.sin(share * angle) / math.sin(angle) for share in shares]


def mixture(blocks: Blocks, solve: Callable[[Vectors], Sequence[float]], *, on_deltas: bool) -> object:
    """The coefficients of the vectors for :func:`mixed`, as ``solve`` computes them from lengths and angles.

    The vectors are the sides, or with ``on_deltas`` the task vectors if there is a base. Raises MergeError.
    """
    looks = list(blocks.map(partial(_look, on_deltas=on_deltas)))
    first = looks[0]
    count = len(first.weights)
    products, peaks = totals(look.products for look in looks), [1.0] * count
    if not all(SAFE[0] < product < SAFE[1] for product in _squares(products, count)):
        products, peaks = _scaled(blocks, count, on_deltas=on_deltas)
    if not all(map(math.isfinite, (*products, *peaks))):
        # NaN or infinite values were let through: a vector without a length has no direction either.
        return (math.nan,) * count
    numbers = tuple(solve(_vectors(first, products, peaks)))
    return EQUAL if all(look.equal for look in looks) else numbers


def mixed(group: Group, measured: Any, *, on_deltas: bool) -> torch.Tensor:
    """The sum of the vectors, each times its coefficient, plus the base if they are task vectors.

    Has the shape and dtype of the group's sides.
    """
    if measured == EQUAL:
        return group.sides[0]
    vectors = group.deltas if on_deltas and group.base is not None else group.sides
    terms = [(vector, number) for vector, number in zip(vectors, measured, strict=True) if number]
    if terms:
        total = weighted_sum(tuple(vector for vector, _ in terms), tuple(number for _, number in terms))
    else:
        total = torch.zeros_like(vectors[0])
    return group.base + total if on_deltas and group.base is not None else total


def mixed_rows(group: Group, shares: Sequence[float]) -> torch.Tensor:
    """For each row, the point on the arc between that row of the two task vectors (or sides, without a base).

    Has the shape and dtype of the group's sides, (rows, columns).
    """
    a, b = group.sides if group.base is None else group.deltas
    numbers = [on_arc(cosine, shares) for cosine in _row_cosines(*_wide(group, on_deltas=True))]
    by_row = torch.tensor(numbers, dtype=torch.float64).reshape(-1, 2).to(a.device, a.dtype)
    total = a * by_row[:, :1] + b * by_row[:, 1:]
    total = total if group.base is None else group.base + total
    equal = (group.sides[0] == group.sides[1]).all(dim=1, keepdim=True)
    return torch.where(equal, group.sides[0], total)


@dataclass(frozen=True)
class _Look:
    """The measurements of one block."""

    tensor: str
    weights: tuple[float, ...]
    #: Whether all sides are equal in this block.
    equal: bool
    #: Leaf sums of the products of all pairs of vectors: float64, (pairs, leaves).
    products: torch.Tensor


def _look(group: Group, *, on_deltas: bool, peaks: Sequence[float] | None = None) -> _Look:
    vectors = _wide(group, on_deltas=on_deltas)
    if peaks is not None:
        vectors = [divided(vector, peak or 1.0) for vector, peak in zip(vectors, peaks, strict=True)]
    equal = all(torch.equal(group.sides[0], side) for side in group.sides[1:])
    products = torch.stack([leaf_dots(a, b) for a, b in combinations_with_replacement(vectors, 2)])
    return _Look(group.name, group.weights, equal, products)


def _wide(group: Group, *, on_deltas: bool) -> list[torch.Tensor]:
    """The vectors as float64, in which differences of values of narrower dtypes are mostly exact."""
    sides = [side.to(torch.float64) for side in group.sides]
    if not on_deltas or group.base is None:
        return sides
    base = group.base.to(torch.float64)
    return [side - base for side in sides]


def _scaled(blocks: Blocks, count: int, *, on_deltas: bool) -> tuple[Products, list[float]]:
    """The products of the vectors, each divided by its largest absolute value; and these values (0 for zeros)."""

    def highest(group: Group) -> list[float]:
        return [vector.abs().amax().item() if vector.numel() else 0.0 for vector in _wide(group, on_deltas=on_deltas)]

    by_block = list(blocks.map(highest))
    peaks = [max(block[side] for block in by_block) for side in range(count)]
    looks = blocks.map(partial(_look, on_deltas=on_deltas, peaks=peaks))
    return totals(look.products for look in looks), peaks


def _vectors(first: _Look, products: Products, peaks: Sequence[float]) -> Vectors:
    count = len(peaks)
    scaled = [math.sqrt(square) for square in _squares(products, count)]
    lengths = [length * (peak / (max(peaks) or 1.0)) for length, peak in zip(scaled, peaks, strict=True)]

    def cosine(a: int, b: int) -> float:
        if not lengths[a] or not lengths[b]:
            return 0.0
        return 1.0 if a == b else clamped(products[_place(a, b, count)] / (scaled[a] * scaled[b]))

    cosines = tuple(tuple(cosine(a, b) for b in range(count)) for a in range(count))
    return Vectors(first.tensor, first.weights, tuple(lengths), cosines)


def clamped(cosine: float) -> float:
    """A cosine, limited to -1 to 1, which rounding may have exceeded."""
    return max(-1.0, min(1.0, cosine))


def _squares(products: Products, count: int) -> list[float]:
    return [products[_place(side, side, count)] for side in range(count)]


def _place(a: int, b: int, count: int) -> int:
    """The index of the product of two vectors among the products of all pairs."""
    low, high = min(a, b), max(a, b)
    return low * count - low * (low - 1) // 2 + high - low


def _row_cosines(a: torch.Tensor, b: torch.Tensor) -> list[float]:
    """For each row, the cosine between that row of ``a`` and of ``b``.

    It is 1 if one of them is zero, so that they are mixed along a line.
    """
    if not a.numel():
        return [1.0] * len(a)
    # Scaled, because squares of float64 values may overflow.
    a, b = (rows / _or_one(rows.abs().amax(dim=1, keepdim=True)) for rows in (a, b))
    lengths = (row_dots(a, a) * row_dots(b, b)).sqrt()
    cosines = torch.where(lengths == 0, 1.0, row_dots(a, b) / _or_one(lengths)).clamp(-1, 1)
    return [float(cosine) for cosine in cosines.tolist()]


def _or_one(values: torch.Tensor) -> torch.Tensor:
    return torch.where(values == 0, 1.0, values)
