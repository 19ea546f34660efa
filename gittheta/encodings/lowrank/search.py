"""Find the product of small matrices by which a tensor differs from its base.

A part of the matrix tells the rank, more of it about the rows of the right factor. Then all of it is fitted by least
squares, each element weighted by how exactly it is known, which is several times as exact as without weights. That
alternates between the left factor, a few rows at a time, and the right one; each by a step of gradient descent, scaled
by the mean weight of its row or column, which converges because the weights hardly depend on the factors.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import ceil, log2, sqrt

import numpy as np

from gittheta.api import TensorReader
from gittheta.encodings.lowrank.difference import Difference, Reals
from gittheta.encodings.lowrank.exact import MAX_EXPONENT, extra_bits
from gittheta.encodings.lowrank.payload import MAX_BITS, MIN_BITS, Whole
from gittheta.numerics.floats import Doubles

#: Narrower tensors are not worth the search, and longer rows would take too much memory.
_MIN_SIDE = 16
_MAX_COLUMNS = 1 << 22
#: Parts of the matrix that tell the rank: rows and columns, and the highest rank that shows.
_PARTS = ((128, 48), (288, 144))
#: Rows and columns of the part that tells whether there is a pattern at all.
_PATTERN = (32, 512)
#: A sample has no more elements.
_MAX_SAMPLE = 1 << 23
#: How often all of the difference is gone through.
_PASSES = 2
#: Rounding the factors may add this much of the error that they have.
_COARSE = 0.5
#: Components that are carried along until it shows whether they tell something.
_MORE = 4
_SIDE_FOR_MORE = 64
#: A component counts if it is so many times as large as the largest that noise gives.
_SIGNIFICANT = 1.25
_TINY = 1e-30


@dataclass(frozen=True)
class Fit:
    """``left @ right`` is the difference, each element with about this ``error`` (a root mean square)."""

    left: Reals
    right: Reals
    error: float


def search(new: TensorReader, base: TensorReader) -> Fit | None:
    """The factors, if there are any that pay."""
    difference = Difference(new, base)
    if min(difference.rows, difference.columns) < _MIN_SIDE or difference.columns > _MAX_COLUMNS:
        return None
    try:
        with np.errstate(over="ignore", under="ignore", invalid="ignore", divide="ignore"):
            guess = _guess(difference)
            if guess is None:
                return None
            difference.blur(guess.noise)
            begun = _begin(difference, guess)
            return None if begun is None else _refine(difference, *begun)
    except np.linalg.LinAlgError:
        return None


@dataclass(frozen=True)
class _Guess:
    rank: int
    #: The mean square of what the product leaves, if it is more than what rounding does.
    noise: float


def _guess(difference: Difference) -> _Guess | None:
    """The rank, as far as it shows in a small part of the matrix."""
    if not _has_pattern(difference):
        return None
    for size, most in _PARTS:
        part = min(size, difference.rows), max(1, difference.columns // size)
        values, weights = difference.sample(*part)
        if difference.limit(values):
            values, weights = difference.sample(*part)
        noise = difference.noise(values, weights)
        energy = float(np.square(values, dtype=np.float64).mean())
        if energy <= 2 * noise or (size > _PARTS[0][0] and not _has_room(values, max(16 * noise, energy / 64), most)):
            return None
        left = _left(values, noise)[: most + 1]
        units = np.abs(values) * (np.sqrt(weights) / (2 * difference.half))
        plain = float(np.log2(1 + 4 * units).mean())
        costs = _costs(difference, left, noise)
        rank = int(costs.argmin())
        if 0 < rank < most and costs[rank] < 0.75 * plain:
            return _Guess(rank, float(max(0.0, left[rank] - noise)))
        if most * (1 / difference.rows + 1 / difference.columns) * 8 > plain:
            return None
    return None


def _has_pattern(difference: Difference) -> bool:
    """Whether rows resemble each other more than by chance: those of a product of rank r do, by about 1 / r.

    Of rows of independent numbers, as many as they have columns, the squared correlation is 1 / columns on average.
    """
    part = min(_PATTERN[0], difference.rows), max(1, difference.columns // _PATTERN[1])
    values, _ = difference.sample(*part, runs=2)
    if difference.limit(values):
        values, _ = difference.sample(*part, runs=2)
    sizes = np.square(values).sum(axis=1)
    values = values[sizes > 0]
    if len(values) < 2:
        return False
    products = np.square(values @ values.T)
    sizes = np.diagonal(products).copy()
    alike = float((products.sum() - sizes.sum()) / (np.sqrt(sizes).sum() ** 2 - sizes.sum() + _TINY))
    return bool(alike > 2 / values.shape[1])


def _has_room(values: Reals, allowed: float, most: int) -> bool:
    """Whether few columns tell about the others; quicker than to look for the rank."""
    some = most + most // 8
    if values.shape[1] <= some:
        return False
    span = np.linalg.qr(values[:, :some])[0]
    others = values[:, some:]
    return float(np.square(others - span @ (span.T @ others)).mean()) < allowed


def _left(values: Reals, noise: float) -> Doubles:
    """The mean square of what the best product of each rank leaves, for each of its degrees of freedom."""
    if values.dtype == np.float32:
        wide = values.astype(np.float64)
        squares = np.linalg.eigvalsh(wide @ wide.T)[::-1]
    else:
        squares = np.square(np.linalg.svd(values, compute_uv=False))
    sums = np.cumsum(squares[::-1])[::-1]
    ranks = np.arange(len(sums))
    left: Doubles = np.maximum(sums / ((values.shape[0] - ranks) * (values.shape[1] - ranks)), noise)
    return left


def _costs(difference: Difference, left: Doubles, noise: float) -> Doubles:
    """About how many bits an element costs, by rank: for the factors, and for what they leave."""
    rest = np.log2(1 + 4 * np.sqrt((left - noise) / (12 * noise))) + 0.3
    bits = 7 + np.log2(1 + np.sqrt(left[0] / (12 * left)))
    costs: Doubles = np.arange(len(left)) * (1 / difference.rows + 1 / difference.columns) * bits + rest
    return costs


def _begin(difference: Difference, guess: _Guess) -> tuple[Reals, float] | None:
    """Orthonormal rows that span about those of the difference, told by some of them, and how far to step."""
    most = 2 * guess.rank + 16
    if most * difference.columns > _MAX_SAMPLE:
        return None
    rows = min(difference.rows, max(most, min(max(256, 4 * guess.rank), _MAX_SAMPLE // difference.columns)))
    values, weights = difference.sample(rows, 1)
    rank = min(guess.rank + min(_MORE, min(values.shape) // _SIDE_FOR_MORE), *values.shape)
    across = np.linalg.qr(values.T @ _random(rows, rank).astype(values.dtype))[0]
    along = np.linalg.qr(values @ across)[0]
    right = np.linalg.qr(values.T @ along)[0].T
    # How much the weighted rows of a factor may differ from a mean one, by the law of large random matrices.
    uneven = float(np.square(weights, dtype=np.float64).mean() / max(_TINY, weights.mean(dtype=np.float64) ** 2))
    stretch = (1 + sqrt(rank * uneven / min(difference.rows, difference.columns))) ** 2
    return right, min(0.9, 1.6 / stretch)


def _random(rows: int, columns: int) -> Reals:
    return np.random.default_rng(0).standard_normal((rows, columns))


def _refine(difference: Difference, right: Reals, step: float) -> Fit | None:
    """Factors fitted to all of the difference; ``right`` is orthonormal and tells where to begin."""
    left = np.empty((difference.rows, len(right)), difference.real)
    row_weights = np.empty((difference.rows, 1), difference.real)
    column_weights = np.zeros(difference.columns, difference.real)
    for turn in range(_PASSES):
        inverse = np.linalg.inv(right @ right.T)
        pull = np.zeros_like(right)
        for rows, values, weights in difference.chunks():
            if not turn:
                left[rows] = values @ right.T
                row_weights[rows, 0] = weights.mean(axis=1)
                column_weights += weights.sum(axis=0)
            rest = _rest(values, weights, left[rows], right)
            left[rows] += step * ((rest @ right.T) @ inverse) / (row_weights[rows] + _TINY)
            pull += left[rows].T @ _rest(values, weights, left[rows], right)
        right = right + step * np.linalg.solve(left.T @ left, pull) / (column_weights / difference.rows + _TINY)
        error = difference.half / sqrt(3 * float(row_weights.mean()) + _TINY)
        left, right = (factor.astype(difference.real) for factor in _significant(left, right, error))
        if not len(right):
            return None
    return Fit(left, right, error * sqrt(len(right) * (1 / difference.rows + 1 / difference.columns)))


def _rest(values: Reals, weights: Reals, left: Reals, right: Reals) -> Reals:
    """What a product leaves, weighted."""
    rest: Reals = left @ right
    np.subtract(values, rest, out=rest)
    rest *= weights
    return rest


def _significant(left: Reals, right: Reals, error: float) -> tuple[Doubles, Doubles]:
    """A product without components that noise alone would give, and with columns and rows of equal length."""
    tall, upper = np.linalg.qr(left.astype(np.float64))
    wide, lower = np.linalg.qr(right.T.astype(np.float64))
    before, sizes, after = np.linalg.svd(upper @ lower.T)
    rank = int((sizes > _SIGNIFICANT * error * (sqrt(len(tall)) + sqrt(len(wide)))).sum())
    roots = np.sqrt(sizes[:rank])
    return (tall @ before[:, :rank]) * roots, (after[:rank] @ wide.T) * roots[:, None]


def integers(fit: Fit) -> Whole | None:
    """The factors as integers, as few bits of them as their error is worth; None if they would be too long."""
    rows, columns = len(fit.left), fit.right.shape[1]
    left, right = fit.left.astype(np.float64), fit.right.astype(np.float64)
    scale = float(np.linalg.norm(left, axis=0) @ np.linalg.norm(right, axis=1)) / sqrt(rows * columns)
    exponent = ceil(log2(scale / (6 * (_COARSE * fit.error) ** 2)))
    # The factors are alike in length: shorter rows have the larger values, and get fewer bits after the point.
    shift = round((exponent + log2(sqrt(rows / columns))) / 2)
    tall, wide = np.rint(np.ldexp(left, shift)), np.rint(np.ldexp(right, exponent - shift))
    bits = [int(np.frexp(np.abs(matrix).max())[1]) + 1 for matrix in (tall, wide)]
    if not MIN_BITS <= min(bits) <= max(bits) <= MAX_BITS or abs(exponent) > MAX_EXPONENT:
        return None
    extra = extra_bits(tall.T, wide)
    return Whole(tall.astype(np.int32), wide.astype(np.int32), exponent, (bits[0], bits[1]), extra)
