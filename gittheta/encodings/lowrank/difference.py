"""The difference of two tensors of floats as a matrix, and how exactly each of its elements is known.

Only the rounded difference can be seen: the true value lies within half a unit in the last place of the new tensor's
element, and the unit is larger for larger elements.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from math import floor, log2, sqrt
from sys import float_info
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from gittheta.encodings.lowrank.factors import matrix_shape
from gittheta.numerics.floats import as_words, to_float64

if TYPE_CHECKING:
    from gittheta.api import TensorReader
    from gittheta.numerics.planes import Words

Reals = npt.NDArray[np.floating]

#: Elements that are computed at a time (they should stay in the processor's cache), and that are read at a time.
_CHUNK = 1 << 17
_READ = 1 << 20
#: The least rows of a chunk: matrix products of fewer rows are slow.
_ROWS = 32
#: Bytes of values and weights that are kept in memory between passes, instead of being computed again.
_KEEP = 64 << 20
#: Weights differ by at most 4 to this power. With a few very exact elements among others, descent would not converge.
_SPAN = 2
#: An element this many times as large as the largest in a median row is an outlier: it was changed in another way, and
#: would dominate the least squares.
_OUTLYING = 24
#: A mean square below this share of the values' own counts as zero: float64 cannot resolve less.
_LEAST = 2.0**-96
#: Keeps the noise above zero.
_TINY = 1e-60
#: The exponent's bits of an f32, and the largest exponent of its finite numbers.
_EXPONENT = np.uint32(0x7F800000)
_MAX_EXPONENT = 254
#: Elements whose median exponent stands for the whole tensor's.
_TYPICAL = 1 << 13


@dataclass
class Difference:
    """``new - base`` as a matrix, with a weight for each element. For one thread.

    The weight is 1 / unit², where the unit is that in the element's last place, scaled so that the most exact elements
    have weight 1. Values and weights have the dtype ``real``.
    """

    new: TensorReader
    base: TensorReader
    _kept: list[tuple[slice, Reals, Reals]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.rows, self.columns = matrix_shape(self.new.spec)
        self._dtype = self.new.spec.dtype
        #: The dtype in which the difference is exact, or nearly so.
        self.real = np.dtype(np.float64 if self._dtype.name in ("f32", "f64") else np.float32)
        #: The exponent, with the bias of f32, below which all elements count as equally exact.
        self._floor = self._typical() - _SPAN
        #: Larger differences do not belong to the pattern: they get weight 0.
        self._limit = float_info.max
        self._keeps = 2 * self.real.itemsize * self.rows * self.columns <= _KEEP

    @property
    def half(self) -> float:
        """Half a unit in the last place of an element of weight 1."""
        return float(2.0 ** (self._floor - 128 - self._dtype.mantissa_bits))

    def blur(self, noise: float) -> None:
        """Count no element as known more exactly than up to an error of this mean square."""
        more = floor(log2(sqrt(3 * noise) / self.half)) if noise else 0
        self._floor = min(_MAX_EXPONENT, self._floor + max(0, more))

    def limit(self, values: Reals) -> bool:
        """Ignore elements that are much larger than in most of these rows. True if these rows have any.

        ``values`` has shape (rows, columns).
        """
        largest = np.abs(values).max(axis=1)
        largest = largest[largest > 0]
        if not len(largest):
            return False
        self._limit = _OUTLYING * float(np.median(largest))
        return bool(largest.max() > self._limit)

    def noise(self, values: Reals, weights: Reals) -> float:
        """The mean square of the errors that rounding adds to elements of these values and weights."""
        least = float(np.square(values, dtype=np.float64).mean()) * _LEAST + _TINY
        known = weights[weights > 0]
        return max(least, self.half**2 / 3 * float((1 / known).mean(dtype=np.float64))) if known.size else least

    def chunks(self) -> Iterator[tuple[slice, Reals, Reals]]:
        """The whole difference, a few rows at a time: the rows, their values and their weights, (rows, columns)."""
        if self._kept:
            yield from self._kept
            return
        at_once = max(1, _READ // self.columns)
        few = min(at_once, max(_ROWS, _CHUNK // self.columns))
        for first in range(0, self.rows, at_once):
            count = min(at_once, self.rows - first)
            new, base = self._read(first, count)
            for at in range(0, count, few):
                part = slice(at, min(at + few, count))
                chunk = slice(first + part.start, first + part.stop), *self._of(new[part], base[part])
                if self._keeps:
                    self._kept.append(chunk)
                yield chunk

    def sample(self, rows: int, step: int, runs: int = 8) -> tuple[Reals, Reals]:
        """Values and weights of some rows, in evenly spread runs, and of every ``step``-th column: (rows, columns)."""
        runs = runs if rows < self.rows else 1
        parts = []
        for run in range(runs):
            count = rows * (run + 1) // runs - rows * run // runs
            new, base = self._read((self.rows - count) * run // max(1, runs - 1), count)
            parts.append(self._of(new[:, ::step], base[:, ::step]))
        return np.concatenate([values for values, _ in parts]), np.concatenate([weights for _, weights in parts])

    def _typical(self) -> int:
        """The exponent of the median element of a run in the middle, with the bias of f32."""
        size = self._dtype.itemsize
        count = min(self.new.spec.elements, _TYPICAL)
        first = (self.new.spec.elements - count) // 2
        sizes = np.abs(to_float64(self.new.read(first * size, (first + count) * size), self._dtype))
        sizes = sizes[np.isfinite(sizes) & (sizes > 0)]
        exponent = int(np.frexp(np.median(sizes))[1]) - 1 if len(sizes) else 0
        exponent = max(exponent, max(1 - self._dtype.bias, -126) + _SPAN)
        return max(1 + _SPAN, min(_MAX_EXPONENT, exponent + 127))

    def _read(self, first: int, count: int) -> tuple[Words, Words]:
        size = self.columns * self._dtype.itemsize
        begin, end = first * size, (first + count) * size
        new, base = (as_words(tensor.read(begin, end), self._dtype.itemsize) for tensor in (self.new, self.base))
        return new.reshape(count, -1), base.reshape(count, -1)

    def _of(self, new: Words, base: Words) -> tuple[Reals, Reals]:
        values = self._reals(new)
        # For f64, these are the exponents of the values converted to f32.
        bits = values.astype(np.float32, copy=False).view(np.uint32) & _EXPONENT
        lowest = np.uint32(self._floor << 23)
        np.clip(bits, lowest, np.uint32(min(self._floor + 40, _MAX_EXPONENT) << 23), out=bits)
        bits -= lowest
        bits <<= np.uint32(1)
        np.subtract(np.uint32(127 << 23), bits, out=bits)
        weights = bits.view(np.float32).astype(self.real, copy=False)
        values -= self._reals(base)
        # A NaN is never within the limits.
        if not -self._limit <= values.min() <= values.max() <= self._limit:
            unknown = ~(np.abs(values) <= self._limit)
            values[unknown] = 0
            weights[unknown] = 0
        return values, weights

    def _reals(self, words: Words) -> Reals:
        if self._dtype.name == "bf16":
            return (words.astype(np.uint32) << np.uint32(16)).view(np.float32)
        if self._dtype.itemsize == 1:
            codes = memoryview(bytes(range(256)))
            return to_float64(codes, self._dtype).astype(np.float32)[words]
        return words.view(f"<f{self._dtype.itemsize}").astype(self.real)
