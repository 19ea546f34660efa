"""Find the product of small matrices by which a tensor differs from its base.

A small part of the matrix shows the rank; a larger part gives a first right factor (a randomised range finder). Then
both factors are fitted to the whole matrix by least squares. Each element is weighted by how exactly it is known, which
makes the result several times as exact as without weights. The fit alternates between the left factor, a few rows at a
time, and the right one. Each is improved by one step of gradient descent, scaled by the mean weight of its row or
column; this converges because the weights hardly depend on the factors.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import ceil, log2, sqrt
from typing import TYPE_CHECKING

import numpy as np

from gittheta.encodings.lowrank.difference import Difference, Reals
from gittheta.encodings.lowrank.exact import MAX_EXPONENT, extra_bits
from gittheta.encodings.lowrank.payload import MAX_BITS, MIN_BITS, IntegerProduct

if TYPE_CHECKING:
    from gittheta.api import TensorReader
    from gittheta.numerics.floats import Doubles

#: Tensors with fewer rows or columns save too little; longer rows would take too much memory.
_MIN_SIDE = 16
_MAX_COLUMNS = 1 << 22

# Whether there is a pattern, and of what rank. Most changes are not of low rank, so "no" must be quick.
#: Rows and columns of the first part that is looked at. A QR or SVD of a larger one would cost every dense change.
_PATTERN = (32, 512)
#: Rows must resemble each other this many times as much as independent rows would.
_MORE_THAN_CHANCE = 2
#: Parts that show the rank: their rows and columns, and the highest rank that a part of this size shows clearly. The
#: larger part is only looked at if the smaller one shows no rank.
_PARTS = ((128, 48), (288, 144))
#: A change must have this many times the mean square of the noise of rounding, or it is nothing but rounding.
_ABOVE_NOISE = 2
#: For the large part: what a span of few columns may leave of all other columns, as a multiple of the noise, and as a
#: share of the change. More means that no rank in reach explains the change.
_LEFT_OF_NOISE, _LEFT_OF_CHANGE = 16, 1 / 64
#: The product must take at most this share of the bits of plain differences, or `delta` does as well in less time.
_WORTHWHILE = 0.75
#: Bits of one value of a factor, at least: factors that take more than plain differences even so are not looked for.
_LEAST_FACTOR_BITS = 8
#: Estimated bits: of a value of a factor before the precision that the fit has is added; of an element of the
#: correction where the product is right up to rounding (a few percent of elements are off by one unit).
_FACTOR_BITS, _CORRECTION_BITS = 7, 0.3

# The fit.
#: The most elements of the sample that gives the first right factor (64 MiB of float64).
_MAX_SAMPLE = 1 << 23
#: Rows of that sample for each component, and at least: more rows give a better start, but must be read.
_ROWS_PER_COMPONENT, _LEAST_ROWS = 4, 256
#: Gradient descent diverges from a step of 2 / stretch on; 1.6 keeps a margin, and 0.9 serves well-behaved weights.
_STEP, _MAX_STEP = 1.6, 0.9
#: How often both factors are fitted to the whole difference. Each pass costs about as much as the first.
_PASSES = 2
#: Components that are fitted beyond the rank that a part showed, because it may have missed weak ones; one for each 64
#: rows or columns, up to this number.
_MORE = 4
_SIDE_FOR_MORE = 64
#: A component is kept if it is this many times as large as the largest that noise alone would give.
_SIGNIFICANT = 1.25
#: Rounding the factors to integers may add this share of the error that the fit has anyway.
_COARSE = 0.5
#: Keeps divisors above zero.
_TINY = 1e-30


@dataclass(frozen=True)
class Fit:
    """Factors whose product is the difference: ``left`` is (rows, rank), ``right`` is (rank, columns).

    ``error`` is about the root mean square error of the product's elements.
    """

    left: Reals
    right: Reals
    error: float


def search(new: TensorReader, base: TensorReader) -> Fit | None:
    """The factors of the difference of two tensors, or None if it has none, or none that save bytes."""
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
    #: The mean square by which the residual of the product exceeds the noise of rounding.
    noise: float


def _guess(difference: Difference) -> _Guess | None:
    """The rank, judged by a small part of the matrix; None if it is not low."""
    if not _has_pattern(difference):
        return None
    for size, most in _PARTS:
        part = min(size, difference.rows), max(1, difference.columns // size)
        values, weights = difference.sample(*part)
        if difference.limit(values):
            values, weights = difference.sample(*part)
        noise = difference.noise(values, weights)
        energy = float(np.square(values, dtype=np.float64).mean())
        allowed = max(_LEFT_OF_NOISE * noise, _LEFT_OF_CHANGE * energy)
        if energy <= _ABOVE_NOISE * noise or (size > _PARTS[0][0] and not _has_span(values, allowed, most)):
            return None
        residuals = _residuals(values, noise)[: most + 1]
        units = np.abs(values) * (np.sqrt(weights) / (2 * difference.half))
        plain = float(np.log2(1 + 4 * units).mean())
        costs = _costs(difference, residuals, noise)
        rank = int(costs.argmin())
        if 0 < rank < most and costs[rank] < _WORTHWHILE * plain:
            return _Guess(rank, float(max(0.0, residuals[rank] - noise)))
        if most * (1 / difference.rows + 1 / difference.columns) * _LEAST_FACTOR_BITS > plain:
            return None
    return None


def _has_pattern(difference: Difference) -> bool:
    """Whether rows resemble each other more than by chance.

    The squared correlation of two rows is about 1 / r on average in a product of rank r, and 1 / columns if the rows
    are independent.
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
    resemblance = float((products.sum() - sizes.sum()) / (np.sqrt(sizes).sum() ** 2 - sizes.sum() + _TINY))
    return bool(resemblance > _MORE_THAN_CHANCE / values.shape[1])


def _has_span(values: Reals, allowed: float, most: int) -> bool:
    """Whether a few columns span all others up to a mean square of ``allowed``; quicker than finding the rank.

    ``values`` has shape (rows, columns).
    """
    some = most + most // 8
    if values.shape[1] <= some:
        return False
    span = np.linalg.qr(values[:, :some])[0]
    others = values[:, some:]
    return float(np.square(others - span @ (span.T @ others)).mean()) < allowed


def _residuals(values: Reals, noise: float) -> Doubles:
    """For each rank from 0: the squared residual of the best product of that rank, per remaining degree of freedom.

    ``values`` has shape (rows, columns). No result is below ``noise``.
    """
    if values.dtype == np.float32:
        wide = values.astype(np.float64)
        squares = np.linalg.eigvalsh(wide @ wide.T)[::-1]
    else:
        squares = np.square(np.linalg.svd(values, compute_uv=False))
    sums = np.cumsum(squares[::-1])[::-1]
    ranks = np.arange(len(sums))
    residuals: Doubles = np.maximum(sums / ((values.shape[0] - ranks) * (values.shape[1] - ranks)), noise)
    return residuals


def _costs(difference: Difference, residuals: Doubles, noise: float) -> Doubles:
    """For each rank from 0: the estimated bits of one element, for its share of the factors and for the correction."""
    rest = np.log2(1 + 4 * np.sqrt((residuals - noise) / (12 * noise))) + _CORRECTION_BITS
    bits = _FACTOR_BITS + np.log2(1 + np.sqrt(residuals[0] / (12 * residuals)))
    costs: Doubles = np.arange(len(residuals)) * (1 / difference.rows + 1 / difference.columns) * bits + rest
    return costs


def _begin(difference: Difference, guess: _Guess) -> tuple[Reals, float] | None:
    """A first right factor, with orthonormal rows (rank, columns), from a sample; and the step of gradient descent."""
    most = 2 * guess.rank + 16
    if most * difference.columns > _MAX_SAMPLE:
        return None
    rows = min(
        difference.rows,
        max(most, min(max(_LEAST_ROWS, _ROWS_PER_COMPONENT * guess.rank), _MAX_SAMPLE // difference.columns)),
    )
    values, weights = difference.sample(rows, 1)
    rank = min(guess.rank + min(_MORE, min(values.shape) // _SIDE_FOR_MORE), *values.shape)
    across = np.linalg.qr(values.T @ _random(rows, rank).astype(values.dtype))[0]
    along = np.linalg.qr(values @ across)[0]
    right = np.linalg.qr(values.T @ along)[0].T
    # The largest curvature relative to the mean one, by the Marchenko-Pastur law for random matrices.
    uneven = float(np.square(weights, dtype=np.float64).mean() / max(_TINY, weights.mean(dtype=np.float64) ** 2))
    stretch = (1 + sqrt(rank * uneven / min(difference.rows, difference.columns))) ** 2
    return right, min(_MAX_STEP, _STEP / stretch)


def _random(rows: int, columns: int) -> Reals:
    return np.random.default_rng(0).standard_normal((rows, columns))


def _refine(difference: Difference, right: Reals, step: float) -> Fit | None:
    """Fit the factors to the whole difference, from a first ``right`` factor with orthonormal rows."""
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
    """The weighted residual of a product: ``(values - left @ right) * weights``."""
    rest: Reals = left @ right
    np.subtract(values, rest, out=rest)
    rest *= weights
    return rest


def _significant(left: Reals, right: Reals, error: float) -> tuple[Doubles, Doubles]:
    """The factors without components that noise alone would give, balanced so that both have the same norms."""
    tall, upper = np.linalg.qr(left.astype(np.float64))
    wide, lower = np.linalg.qr(right.T.astype(np.float64))
    before, sizes, after = np.linalg.svd(upper @ lower.T)
    rank = int((sizes > _SIGNIFICANT * error * (sqrt(len(tall)) + sqrt(len(wide)))).sum())
    roots = np.sqrt(sizes[:rank])
    return (tall @ before[:, :rank]) * roots, (after[:rank] @ wide.T) * roots[:, None]


def integers(fit: Fit) -> IntegerProduct | None:
    """The factors rounded to integers of as few bits as their error justifies; None if these would be too wide."""
    rows, columns = len(fit.left), fit.right.shape[1]
    left, right = fit.left.astype(np.float64), fit.right.astype(np.float64)
    scale = float(np.linalg.norm(left, axis=0) @ np.linalg.norm(right, axis=1)) / sqrt(rows * columns)
    # Rounding both factors adds a mean square of scale / 6 · 2^-exponent (1/12 of a unit squared for each).
    exponent = ceil(log2(scale / (6 * (_COARSE * fit.error) ** 2)))
    # Both factors have the same norms: the one of fewer elements has the larger values, and needs fewer fraction bits.
    shift = round((exponent + log2(sqrt(rows / columns))) / 2)
    tall, wide = np.rint(np.ldexp(left, shift)), np.rint(np.ldexp(right, exponent - shift))
    bits = [int(np.frexp(np.abs(matrix).max())[1]) + 1 for matrix in (tall, wide)]
    if not MIN_BITS <= min(bits) <= max(bits) <= MAX_BITS or abs(exponent) > MAX_EXPONENT:
        return None
    extra = extra_bits(tall.T, wide)
    return IntegerProduct(tall.astype(np.int32), wide.astype(np.int32), exponent, (bits[0], bits[1]), extra)
