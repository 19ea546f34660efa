"""The search for factors: each element tells between which bounds its factor lies; what bounds have in common is it."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from gittheta.api import Dtype
from gittheta.numerics.floats import Doubles, to_float64
from gittheta.numerics.planes import Words

Factors = npt.NDArray[np.float64]

#: Mantissa bits that a factor is tried with; few of them cost few bytes.
_BITS = (0, 3, 7, 10, 15, 23)
_LARGEST = np.finfo(np.float64).max


class Fit:
    """Bounds of each factor's size, and its sign, made narrower by each part of the tensor that is looked at."""

    def __init__(self, count: int, dtype: Dtype, axis: int) -> None:
        self._dtype = dtype
        self._axis = axis
        self._low = np.zeros(count)
        self._high = np.full(count, _LARGEST)
        self._sign = np.zeros(count)

    def narrow(self, at: slice, new: Words, base: Words) -> None:
        """Take in a part of the matrix; ``at``: the rows or columns that it is a part of."""
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
        agree = lowest <= highest  # else what was seen first stands
        self._sign[at] = np.where(self._sign[at], self._sign[at], 1)
        self._low[at] = np.where(agree, lowest, self._low[at])
        self._high[at] = np.where(agree, highest, self._high[at])

    def factors(self) -> Factors:
        """A float32 for each; 1 where nothing is known."""
        factors = _simplest(self._low, self._high)
        factors *= np.where(self._sign < 0, -1, 1)
        with np.errstate(over="ignore"):
            factors = factors.astype(np.float32).astype(np.float64)
        factors[~np.isfinite(factors)] = 1
        return factors


def bounds(new: Words, base: Words, dtype: Dtype) -> tuple[Doubles, Doubles]:
    """Between which numbers the size of each element's factor lies: the ends of what is rounded to it, by the base."""
    kind = new.dtype.type
    mask = kind((1 << (8 * new.itemsize - 1)) - 1)
    sizes = new & mask
    value, old = values_of(sizes, dtype), values_of(base & mask, dtype)
    low = values_of((sizes - (sizes > 0)).astype(new.dtype), dtype)
    high = values_of(sizes + kind(1), dtype)
    exact = new.itemsize < 8  # the middle of two float64 is none: their neighbours have to do
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
    if exact:  # what lies in the middle is rounded to even: to an odd element, the ends themselves are not
        odd = sizes & kind(1)
        low.view(np.uint64)[...] += odd
        high.view(np.uint64)[...] -= odd
    return low, high


def values_of(words: Words, dtype: Dtype) -> Doubles:
    return to_float64(words.data.cast("B"), dtype).reshape(words.shape)


def _deepest(low: Doubles, high: Doubles) -> tuple[Doubles, Doubles]:
    """For each row, what most of its intervals have in common, because all of them have nothing."""
    ends = np.concatenate([low, high], axis=1).view(np.uint64)
    # The last bit of a number, which hardly matters, says where an interval ends, so that sorting needs no order.
    ends &= ~np.uint64(1)
    ends[:, low.shape[1] :] |= np.uint64(1)
    ends = np.sort(ends.view(np.float64), axis=1).view(np.uint64)
    depth = np.cumsum(1 - 2 * (ends & np.uint64(1)).astype(np.int32), axis=1)
    at = depth.argmax(axis=1)
    rows = np.arange(len(low))
    return ends.view(np.float64)[rows, at], ends.view(np.float64)[rows, at + 1]


def _simplest(low: Doubles, high: Doubles) -> Factors:
    """A number between the bounds, of few bits if there is one."""
    with np.errstate(over="ignore"):
        middle = low / 2 + high / 2
    found = np.where((low <= 1) & (high >= 1), 1.0, np.where(low == 0, 0.0, np.nan))
    for bits in _BITS:
        number = middle.view(np.uint64) + np.uint64(1 << (51 - bits))
        rounded = (number & ~np.uint64((1 << (52 - bits)) - 1)).view(np.float64)
        fits = np.isnan(found) & (low <= rounded) & (rounded <= high)
        found[fits] = rounded[fits]
    missing = np.isnan(found)
    found[missing] = middle[missing]
    return found
