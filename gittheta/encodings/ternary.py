"""``ternary``: each element stayed, or moved up or down by the same number, as in a task vector of signs (ComPEFT)."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from math import isfinite
from typing import ClassVar, Literal

import numpy as np
import numpy.typing as npt

from gittheta.api import Dtype, PayloadError, Tensor, TensorSpec
from gittheta.numerics.floats import (
    Doubles,
    as_words,
    from_float64,
    from_ordered,
    has_arithmetic,
    to_float64,
    to_ordered,
)
from gittheta.numerics.planes import Words, pack, unpack
from gittheta.numerics.positions import pack_positions, unpack_positions

_HEAD = struct.Struct("<fI")
#: The encoding is tried on the first elements, then on the first changed ones, before the whole block is: most changes
#: are not ternary, and a few thousand elements show that at a fraction of the time.
_FIRST = 1 << 12


@dataclass(frozen=True)
class Ternary:
    """Applies to floats that stayed, or moved up or down by the same float32 and were rounded to the dtype."""

    name: ClassVar[str] = "ternary"
    kind: ClassVar[Literal["blockwise"]] = "blockwise"
    needs_base: ClassVar[bool] = True

    def over(self, base: Tensor | None) -> TernaryCoder:
        """A coder over this block of the base."""
        return TernaryCoder(base)


@dataclass(frozen=True)
class TernaryCoder:
    """Codes the signs of the changes from one block of the base."""

    base: Tensor | None

    def encode(self, new: Tensor) -> bytes | None:
        """The number, the positions of changed elements as gaps, and their directions as bits.

        No bytes for a block that equals the base; None if no single number explains the changes.
        """
        base = self.base
        dtype = new.spec.dtype
        if base is None or not has_arithmetic(dtype) or len(base.data) != len(new.data):
            return None
        words, old = as_words(new.data, dtype.itemsize), as_words(base.data, dtype.itemsize)
        if not _may_apply(words[:_FIRST], old[:_FIRST], dtype):
            return None
        positions = np.flatnonzero(words != old)
        if not len(positions):
            return b""
        words, old = words[positions], old[positions]
        if not _may_apply(words[:_FIRST], old[:_FIRST], dtype):
            return None
        ups = to_ordered(words) > to_ordered(old)
        for step in _steps(*_bounds(words, old, dtype)):
            if np.array_equal(_moved(old, ups, step, dtype), words):
                signs = np.packbits(ups, bitorder="little")
                return _HEAD.pack(step, len(positions)) + pack_positions(positions) + pack([signs])
        return None

    def decode(self, payload: memoryview, spec: TensorSpec) -> Tensor:
        """Undo :meth:`encode`. Raises PayloadError."""
        base = self.base
        if base is None or len(base.data) != spec.nbytes:
            raise PayloadError("a ternary change needs a base of its own size")
        if not len(payload):
            return Tensor(spec, base.data)
        if len(payload) < _HEAD.size or not has_arithmetic(spec.dtype):
            raise PayloadError(f"a ternary payload without a head, or for {spec.dtype.name}")
        step, count = _HEAD.unpack_from(payload)
        if not isfinite(step) or step <= 0 or not 0 < count <= spec.elements:
            raise PayloadError(f"a ternary payload of {count} elements that move by {step:g}")
        positions, rest = unpack_positions(payload[_HEAD.size :], count, spec.elements)
        (signs,), rest = unpack(rest, [(count + 7) // 8])
        if len(rest):
            raise PayloadError("a ternary payload of the wrong length")
        ups = np.unpackbits(signs, count=count, bitorder="little").astype(bool)
        words = as_words(base.data, spec.dtype.itemsize).copy()
        words[positions] = _moved(words[positions], ups, step, spec.dtype)
        return Tensor(spec, words.view(np.uint8).data)


def _moved(old: Words, ups: npt.NDArray[np.bool_], step: float, dtype: Dtype) -> Words:
    """The words ``old`` moved by ``step`` up or down: one addition in float64, rounded once to the dtype."""
    values = to_float64(old.view(np.uint8).data, dtype)
    values += np.where(ups, step, -step)
    return as_words(from_float64(values, dtype), dtype.itemsize)


def _may_apply(words: Words, old: Words, dtype: Dtype) -> bool:
    """Whether one number could explain all elements that differ."""
    differ = words != old
    low, high = _bounds(words[differ], old[differ], dtype)
    return not low > high * (1 + 2**-40)


def _bounds(words: Words, old: Words, dtype: Dtype) -> tuple[float, float]:
    """The least and the largest number by which all elements can have moved; NaN where there is no bound."""
    if not len(words):
        return np.nan, np.nan
    ordered, values = to_ordered(words), to_float64(old.view(np.uint8).data, dtype)
    ups = ordered > to_ordered(old)
    with np.errstate(over="ignore", invalid="ignore"):
        below = _edge(words, from_ordered(ordered - ordered.dtype.type(1)), dtype, -1) - values
        above = _edge(words, from_ordered(ordered + ordered.dtype.type(1)), dtype, 1) - values
    for edges in (below, above):
        edges[~np.isfinite(edges)] = np.nan
    return float(np.fmax.reduce(np.where(ups, below, -above))), float(np.fmin.reduce(np.where(ups, above, -below)))


def _edge(words: Words, beside: Words, dtype: Dtype, side: int) -> Doubles:
    """For each word, the bound of the values that round to it, on one side (-1: below, 1: above).

    ``beside`` are the neighbouring floats on that side. Returns float64, in the shape of the words.
    """
    here, there = (to_float64(some.view(np.uint8).data, dtype) for some in (words, beside))
    if dtype.name == "f64":
        return there  # the middle of two neighbours is not a float64
    middle: Doubles = (here + there) / 2
    if dtype.name == "f32":
        return middle
    # Values are rounded to float32 first, so that those close to the middle become the middle, and then the even word.
    blur = np.spacing(np.abs(middle).astype(np.float32)).astype(np.float64) / 2
    even = (words & words.dtype.type(1)) == 0
    middle += np.where(even, side * blur, -side * blur)
    return middle


def _steps(low: float, high: float) -> Iterator[float]:
    """Numbers to try: the float32 in the middle of the bounds and its two neighbours.

    The middle fits unless the bounds are about as close to each other as neighbouring floats.
    """
    with np.errstate(over="ignore", under="ignore"):
        middle = np.float32(low + (high - low) / 2)
    for step in (middle, np.nextafter(middle, np.float32(np.inf)), np.nextafter(middle, np.float32(0))):
        if np.isfinite(step) and step > 0:
            yield float(step)
