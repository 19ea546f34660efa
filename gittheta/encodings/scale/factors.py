"""The search for factors: each element bounds its factor; a factor lies in the intersection of its elements' bounds."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from gittheta.numerics.floats import Doubles, to_float64

if TYPE_CHECKING:
    from gittheta.api import Dtype
    from gittheta.numerics.planes import Words

Factors = npt.NDArray[np.float64]

#: Bits of mantissa to try for a factor, fewest first, because fewer compress better: a power of two, then the mantissas
#: of e4m3, bf16, f16, a width between, and f32.
_BITS = (0, 3, 7, 10, 15, 23)
_LARGEST = np.finfo(np.float64).max


class Fit:
    """Bounds of each factor's absolute value, and its sign; every part of the tensor narrows them. For one thread."""

    def __init__(self, count: int, dtype: Dtype, axis: int) -> None:
        self._dtype = dtype
        self._axis = axis
        self._low = np.zeros(count)
        self._high = np.full(count, _LARGEST)
        self._sign = np.zeros(count)

    def narrow(self, at: slice, new: Words, base: Words) -> None:
        """Narrow the bounds by a part of the matrix.

        ``new`` and ``base`` are its words, (rows, columns); ``at`` are the indices of its factors.
        """
        along = 1 - self._axis
        low, high = bounds(new, base, self._dtype)
        flipped = (new ^ base) >> new.dtype.type(8 * new.itemsize - 1)
        if flipped.any() or (self._sign[at] < 0).any():
            most = np.where(flipped.mean(axis=along) > 0.5, -1, 1)
            self._sign[at] = np.where(self._sign[at], self._sign[at], most)
            odd = flipped.astype(bool) != (np.expand_dims(self._sign[at], along) < 0)
            low[odd], high[odd] = 0, _LARGEST
        lowest, highest = low.max(axis=along), high.min(axis=along)
        empty = np.flatnonzero(lowest > highest)
        if len(empty):
            lows, highs = low.take(empty, self._axis), high.take(empty, self._axis)
            lowest[empty], highest[empty] = _deepest(lows, highs) if along else _deepest(lows.T, highs.T)
        np.maximum(lowest, self._low[at], out=lowest)
        np.minimum(highest, self._high[at], out=highest)
        agree = lowest <= highest  # else the bounds of earlier parts stay
        self._sign[at] = np.where(self._sign[at], self._sign[at], 1)
        self._low[at] = np.where(agree, lowest, self._low[at])
        self._high[at] = np.where(agree, highest, self._high[at])

    def factors(self) -> Factors:
        """The factors, one-dimensional: float32 values held as float64; 1 where nothing is known."""
        factors = _simplest(self._low, self._high)
        factors *= np.where(self._sign < 0, -1, 1)
        with np.errstate(over="ignore"):
            factors = factors.astype(np.float32).astype(np.float64)
        factors[~np.isfinite(factors)] = 1
        return factors


def bounds(new: Words, base: Words, dtype: Dtype) -> tuple[Doubles, Doubles]:
    """For each element, the least and the largest absolute value of a factor that turns ``base`` into ``new``.

    These are the ends of the interval that rounds to the new value, divided by the base's value. Both results are
    float64, in the shape of the words.
    """
    kind = new.dtype.type
    mask = kind((1 << (8 * new.itemsize - 1)) - 1)
    sizes = new & mask
    value, old = values_of(sizes, dtype), values_of(base & mask, dtype)
    low = values_of((sizes - (sizes > 0)).astype(new.dtype), dtype)
    high = values_of(sizes + kind(1), dtype)
    exact = new.itemsize < 8  # the middle of two neighbours is not a float64: the neighbours themselves are the ends
    with np.errstate(all="ignore"):
        for bound in (low, high):
            if exact:
                bound += value
                bound *= 0.5
            bound /= old
        if not np.isfinite(low.max() + high.max() + old.max()):  # zeros in the base, NaNs, the largest value
            known = np.isfinite(value) & np.isfinite(old) & (old > 0)
            low = np.where(known & np.isfinite(low), low, 0)
            high = np.where(known & np.isfinite(high), high, _LARGEST)
    if exact:  # a value in the middle rounds to the even neighbour, so the ends do not belong to an odd element
        odd = sizes & kind(1)
        low.view(np.uint64)[...] += odd
        high.view(np.uint64)[...] -= odd
    return low, high


def values_of(words: Words, dtype: Dtype) -> Doubles:
    """The values of words of a dtype: float64, in the shape of the words."""
    return to_float64(words.data.cast("B"), dtype).reshape(words.shape)


def _deepest(low: Doubles, high: Doubles) -> tuple[Doubles, Doubles]:
    """For each row, the interval that the most of its intervals contain; for rows whose intervals do not all meet.

    ``low`` and ``high`` have shape (rows, intervals); both results have one number for each row.
    """
    ends = np.concatenate([low, high], axis=1).view(np.uint64)
    # The last bit of a number, which hardly matters, marks the ends of intervals: so the marks are sorted along.
    ends &= ~np.uint64(1)
    ends[:, low.shape[1] :] |= np.uint64(1)
    ends = np.sort(ends.view(np.float64), axis=1).view(np.uint64)
    depth = np.cumsum(1 - 2 * (ends & np.uint64(1)).astype(np.int32), axis=1)
    at = depth.argmax(axis=1)
    rows = np.arange(len(low))
    return ends.view(np.float64)[rows, at], ends.view(np.float64)[rows, at + 1]


def _simplest(low: Doubles, high: Doubles) -> Factors:
    """A number between each pair of bounds, with as few bits of mantissa as possible."""
    with np.errstate(over="ignore"):
        middle = low / 2 + high / 2
    simplest = np.where((low <= 1) & (high >= 1), 1.0, np.where(low == 0, 0.0, np.nan))
    for bits in _BITS:
        number = middle.view(np.uint64) + np.uint64(1 << (51 - bits))
        rounded = (number & ~np.uint64((1 << (52 - bits)) - 1)).view(np.float64)
        fits = np.isnan(simplest) & (low <= rounded) & (rounded <= high)
        simplest[fits] = rounded[fits]
    missing = np.isnan(simplest)
    simplest[missing] = middle[missing]
    return simplest
