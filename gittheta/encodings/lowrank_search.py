"""Find the product of small matrices by which a tensor differs from its base.

What is seen is the difference after rounding: each element lies anywhere within half a unit in the last place, and that
unit is larger the larger the element. So the fit is by least squares weighted with 1 / unit², which is several times
as exact as an unweighted one. It alternates: rows of the left factor against the right one, chunk by chunk, then all of
the right one; each by a step of gradient descent, scaled by the mean weight of its row or column, which converges
because the weights of a row are nearly independent of the factors.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from math import sqrt

import numpy as np
import numpy.typing as npt

from gittheta.api import DTYPES, Values
from gittheta.encodings.exact import extra_bits
from gittheta.encodings.factors import matrix_shape
from gittheta.encodings.lowrank_payload import MAX_BITS, Whole
from gittheta.floats import MANTISSA, as_words, to_float64

Reals = npt.NDArray[np.floating]

#: Ranks up to this one are looked for.
MAX_RANK = 128
#: Elements that are worked on at once, and that are read at once.
_CHUNK = 1 << 16
_READ = 1 << 20
#: What is kept between passes.
_KEEP = 64 << 20
#: Longer rows would take too much memory.
_MAX_COLUMNS = 1 << 22
#: Weights differ by at most 4 to this power: with a few very precise elements, descent would not converge.
_SPAN = 2
#: A sample has no more elements.
_MAX_SAMPLE = 1 << 23
#: How often all of the difference is gone through, and how many steps of descent are made for each chunk of rows.
_PASSES = 3
_STEPS = 1
#: Rounding the factors may add this much of the error that they have.
_COARSE = 0.5
_TINY = 1e-30
_EXPONENT = np.uint32(0x7F800000)


@dataclass(frozen=True)
class Fit:
    """``left @ right`` is the difference, with an error of about ``error`` in each element."""

    left: Reals
    right: Reals
    error: float


def search(new: Values, base: Values) -> Fit | None:
    """The factors, if there are any that pay."""
    rows, columns = matrix_shape(new.spec)
    if min(rows, columns) < 16 or columns > _MAX_COLUMNS:
        return None
    floor = _floor(new)
    if floor is None:
        return None
    difference = _Difference(new, base, floor)
    rank = _gate(difference)
    if not rank:
        return None
    right = _begin(difference, rank)
    return None if right is None else _refine(difference, right)


@dataclass
class _Difference:
    """The difference of two tensors, and how precise each of its elements is."""

    new: Values
    base: Values
    #: The least exponent whose precision counts, as the bits of an f32.
    floor: int
    _kept: list[tuple[slice, Reals, Reals]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.rows, self.columns = matrix_shape(self.new.spec)
        self.dtype = self.new.spec.dtype
        self.real = np.dtype(np.float64 if self.dtype.name in ("f32", "f64") else np.float32)
        self.half = 2.0 ** ((self.floor >> 23) - 127 - MANTISSA[self.dtype.name] - 1)
        self._keeps = 2 * self.real.itemsize * self.rows * self.columns <= _KEEP

    def of(self, new: memoryview, base: memoryview, step: int = 1) -> tuple[Reals, Reals]:
        """Difference and weights of some whole rows, of each ``step``-th column."""
        values = self._reals(new, step)
        exponents = values if values.dtype == np.float32 else values.astype(np.float32)
        bits = exponents.view(np.uint32) & _EXPONENT
        np.clip(bits, np.uint32(self.floor), np.uint32(min(self.floor + (40 << 23), 254 << 23)), out=bits)
        bits -= np.uint32(self.floor)
        bits <<= np.uint32(1)
        np.subtract(np.uint32(127 << 23), bits, out=bits)
        weights: Reals = bits.view(np.float32).astype(self.real, copy=False)
        values -= self._reals(base, step)
        if not np.isfinite(values.sum()):
            weights[~np.isfinite(values)] = 0
            values[~np.isfinite(values)] = 0
        return values, weights

    def _reals(self, data: memoryview, step: int) -> Reals:
        words = as_words(data, self.dtype.itemsize).reshape(-1, self.columns)[:, ::step]
        if self.dtype.name == "bf16":
            return (words.astype(np.uint32) << np.uint32(16)).view(np.float32)
        if self.dtype.itemsize == 1:
            return _values(self.dtype.name)[words]
        return words.view(f"<f{self.dtype.itemsize}").astype(self.real)

    def some(self, rows: int, step: int) -> tuple[Reals, Reals]:
        """So many rows, in a few runs that are evenly spread."""
        runs = 8 if rows < self.rows else 1
        parts = []
        for run in range(runs):
            count = rows * (run + 1) // runs - rows * run // runs
            first = (self.rows - count) * run // max(1, runs - 1)
            parts.append(self.of(*self._read(first, first + count), step))
        return np.concatenate([values for values, _ in parts]), np.concatenate([weights for _, weights in parts])

    def _read(self, first: int, last: int) -> tuple[memoryview, memoryview]:
        size = self.columns * self.dtype.itemsize
        return self.new.read(first * size, last * size), self.base.read(first * size, last * size)

    def chunks(self) -> Iterator[tuple[slice, Reals, Reals]]:
        """All of it, a few rows at a time."""
        if self._kept:
            yield from self._kept
            return
        at_once, chunk = max(1, _READ // self.columns), max(1, _CHUNK // self.columns)
        size = self.columns * self.dtype.itemsize
        for first in range(0, self.rows, at_once):
            last = min(self.rows, first + at_once)
            new, base = self._read(first, last)
            for at in range(0, last - first, chunk):
                stop = min(at + chunk, last - first)
                part = (
                    slice(first + at, first + stop),
                    *self.of(new[at * size : stop * size], base[at * size : stop * size]),
                )
                if self._keeps:
                    self._kept.append(part)
                yield part

    def noise(self, weights: Reals) -> float:
        """The mean square of what rounding adds to elements of these weights."""
        known = weights[weights > 0]
        return float((self.half**2 / 3) * (1 / known).mean(dtype=np.float64)) if known.size else 0.0


def _values(name: str) -> Reals:
    return to_float64(memoryview(bytes(range(256))), DTYPES[name]).astype(np.float32)


def _floor(new: Values) -> int | None:
    """The exponent, as the bits of an f32, a little below that of the median element."""
    size = new.spec.dtype.itemsize
    count = min(new.spec.elements, 1 << 13)
    first = (new.spec.elements - count) // 2
    sizes = np.abs(to_float64(new.read(first * size, (first + count) * size), new.spec.dtype))
    sizes = sizes[np.isfinite(sizes) & (sizes > 0)]
    if not len(sizes):
        return None
    exponent = int(np.frexp(np.median(sizes))[1]) - 1 - _SPAN
    return (
        max(
            1,
            min(
                254,
                exponent + 127,
            ),
        )
        << 23
    )


def _gate(difference: _Difference) -> int:
    """The rank, as far as it shows in a small part, or 0."""
    for size, most in ((128, 48), (256, 128)):
        values, weights = difference.some(min(size, difference.rows), max(1, difference.columns // size))
        energy = float(np.square(values, dtype=np.float64).mean())
        noise = max(difference.noise(weights), energy * 2.0**-96)
        if energy <= 2 * noise:
            return 0
        if size > 128 and not _has_room(values, noise, most):
            return 0
        rank = _cliff(values, noise)
        if 0 < rank <= most:
            return rank if _pays(difference, values, weights, rank) else 0
        if not _pays(difference, values, weights, most + 1):
            return 0
    return 0


def _has_room(values: Reals, noise: float, most: int) -> bool:
    """Whether few columns tell about the others; quicker than to look for the rank."""
    some = most + most // 8
    if values.shape[1] <= some:
        return False
    span = np.linalg.qr(values[:, :some])[0]
    others = values[:, some:]
    return float(np.square(others - span @ (span.T @ others)).mean()) < 16 * noise


def _cliff(values: Reals, noise: float) -> int:
    """The least rank that leaves hardly more than noise."""
    sizes = np.linalg.svd(values.astype(np.float64), compute_uv=False)
    left = np.cumsum(np.square(sizes)[::-1])[::-1]
    ranks = np.arange(len(sizes))
    allowed = 1.5 * noise * (values.shape[0] - ranks) * (values.shape[1] - ranks)
    found = np.flatnonzero(left <= allowed)
    return int(found[0]) if len(found) else len(sizes)


def _pays(difference: _Difference, values: Reals, weights: Reals, rank: int) -> bool:
    """Whether factors take clearly less than the plain difference does, by a rough estimate in bits per element."""
    units = np.abs(values) * (np.sqrt(weights) / (2 * difference.half))
    plain = float(np.log2(1 + 4 * units).mean())
    bits = 7 + np.log2(1 + sqrt(float(np.square(units).mean())))
    factors = rank * (1 / difference.rows + 1 / difference.columns) * bits
    return bool(factors + 0.3 < 0.75 * plain)


def _begin(difference: _Difference, rank: int) -> Reals | None:
    """Orthonormal rows that span about those of the difference, of some of its rows."""
    most = 2 * rank + 16
    if most * difference.columns > _MAX_SAMPLE:
        return None
    rows = min(difference.rows, max(most, min(max(256, 4 * rank), _MAX_SAMPLE // difference.columns)))
    values, weights = difference.some(rows, 1)
    noise = max(difference.noise(weights), float(np.square(values, dtype=np.float64).mean()) * 2.0**-96)
    wide = min(rank + 8, *values.shape)
    across = np.linalg.qr(values.T @ _random(rows, wide).astype(values.dtype))[0]
    along = np.linalg.qr(values @ across)[0]
    _, sizes, right = np.linalg.svd(along.T @ values, full_matrices=False)
    edge = sqrt(noise) * (sqrt(rows) + sqrt(difference.columns))
    found = int((sizes > 1.3 * edge).sum())
    return right[:found].astype(difference.real) if found else None


def _random(rows: int, columns: int) -> Reals:
    return np.random.default_rng(0).standard_normal((rows, columns))


def _refine(difference: _Difference, right: Reals) -> Fit:
    """Factors fitted to all of the difference."""
    rank = len(right)
    left = np.zeros((difference.rows, rank), difference.real)
    for turn in range(_PASSES):
        inverse = np.linalg.inv(right @ right.T)
        pull = np.zeros_like(right)
        column_weights = np.zeros(difference.columns, difference.real)
        for part, values, weights in difference.chunks():
            mine = left[part]
            if not turn:
                mine[:] = (values @ right.T) @ inverse
            row_weights = weights.mean(axis=1, keepdims=True) + _TINY
            for _ in range(_STEPS):
                rest = mine @ right
                np.subtract(values, rest, out=rest)
                rest *= weights
                mine += ((rest @ right.T) @ inverse) / row_weights
            rest = mine @ right
            np.subtract(values, rest, out=rest)
            rest *= weights
            pull += mine.T @ rest
            column_weights += weights.sum(axis=0)
        column_weights /= difference.rows
        right = right + np.linalg.solve(left.T @ left, pull) / (column_weights + _TINY)
    mean = float(column_weights.mean())
    spread = sqrt(rank * (1 / difference.rows + 1 / difference.columns))
    return Fit(left, right, difference.half / sqrt(3 * mean) * spread)


def integers(fit: Fit) -> Whole | None:
    """The factors as integers, as few bits of them as their error is worth; None if they would be too long."""
    left, right = fit.left.astype(np.float64), fit.right.astype(np.float64)
    a = np.sqrt(np.square(right).mean(axis=1))
    b = np.sqrt(np.square(left).mean(axis=0))
    exponent = int(np.ceil(np.log2((a * b).sum() / (6 * (_COARSE * fit.error) ** 2))))
    shifts = np.rint((exponent + np.log2(a / b)) / 2).astype(np.int32)
    tall = np.rint(np.ldexp(left, shifts))
    wide = np.rint(np.ldexp(right, (exponent - shifts)[:, None]))
    bits = [int(np.frexp(np.abs(matrix).max())[1]) + 1 for matrix in (tall, wide)]
    if max(bits) > MAX_BITS:
        return None
    extra = extra_bits(tall.T, wide)
    return Whole(tall.astype(np.int32), wide.astype(np.int32), exponent, (bits[0], bits[1]), extra)
