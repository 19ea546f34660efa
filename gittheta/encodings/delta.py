"""``delta``: how far each element moved, counted in floats, and sorted by the size of the element it moved from.

Two floats of the same dtype are as far apart as there are floats between them: the difference of their
*order-preserving integers*. After a fine-tuning that moves all weights by about as much, small weights move by more
such steps than large ones. The decoder knows the base, so the elements are put in classes by the base's exponent
for free, and each class has statistics of its own.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from threading import local
from typing import ClassVar

import numpy as np
import numpy.typing as npt

from gittheta.api import Dtype, PayloadError, Tensor, TensorSpec
from gittheta.numerics.floats import as_words, from_ordered, to_ordered, unzigzag, word_width, zigzag
from gittheta.numerics.planes import Words, join, pack, split, unpack

Positions = npt.NDArray[np.intp]

#: The classes begin so many exponents below the first. More of them gain little, and cost much time.
_STEPS = (0, 2)
#: The first class begins at the largest exponent that, with those above it, has at least one in so many elements.
_SHARE = 4
#: One in so many elements is looked at to find the classes.
_STRIDE = 16
#: Exponent bits of the floats that are put in classes.
_EXPONENT = {"f64": 11, "f32": 8, "f16": 5, "bf16": 8, "c64": 8}

_threads = local()


@dataclass(frozen=True)
class Delta:
    """Applies to everything; small where elements moved by less than they are."""

    name: ClassVar[str] = "delta"
    needs_base: ClassVar[bool] = True

    def encode(self, new: Tensor, base: Tensor | None) -> bytes | None:
        """Differences as byte planes, class by class."""
        dtype = new.spec.dtype
        width = word_width(dtype)
        if base is None or len(base.data) != len(new.data) or len(new.data) % width:
            return None
        old = as_words(base.data, width)
        bounds = _bounds(old, dtype)
        start = _Start(base.data, dtype, bounds, _classes(old, bounds), _ordered(old, dtype))
        # The check that follows on this thread decodes against the same base.
        _threads.last = start
        steps = as_words(new.data, width)
        moved = _sorted(zigzag(_ordered(steps, dtype) - start.ordered), start.classes)
        head = bytes((len(bounds),)) + np.array(bounds, "<u2").tobytes()
        return head + pack(split(moved))

    def decode(self, payload: memoryview, spec: TensorSpec, base: Tensor | None) -> Tensor:
        """Undo :meth:`encode`."""
        width = word_width(spec.dtype)
        if base is None or len(base.data) != spec.nbytes or spec.nbytes % width:
            raise PayloadError("a delta needs a base of its own size")
        bounds, rest = _read_bounds(payload)
        if bounds and spec.dtype.name not in _EXPONENT:
            raise PayloadError(f"a delta with classes, which {spec.dtype.name} has not")
        planes, rest = unpack(rest, [spec.nbytes // width] * width)
        if len(rest):
            raise PayloadError("a delta's payload of the wrong length")
        start, _threads.last = getattr(_threads, "last", None), None
        if start is None or start.data is not base.data or (start.dtype, start.bounds) != (spec.dtype, bounds):
            old = as_words(base.data, width)
            start = _Start(base.data, spec.dtype, bounds, _classes(old, bounds), _ordered(old, spec.dtype))
        steps = unzigzag(_in_place(join(planes), start.classes))
        steps += start.ordered
        words = from_ordered(steps) if _is_float(spec.dtype) else steps
        return Tensor(spec, words.view(np.uint8).data)


@dataclass(frozen=True)
class _Start:
    """What the base alone tells."""

    data: memoryview
    dtype: Dtype
    bounds: tuple[int, ...]
    classes: list[Positions]
    #: The base as integers in the order of its values.
    ordered: Words


def _is_float(dtype: Dtype) -> bool:
    return dtype.kind in ("float", "complex")


def _ordered(words: Words, dtype: Dtype) -> Words:
    return to_ordered(words) if _is_float(dtype) else words


def _magnitude(words: Words) -> npt.NDArray[np.uint16]:
    """The sixteen bits after the sign: exponent first."""
    bits = 8 * words.dtype.itemsize
    if bits == 16:
        return (words << np.uint16(1)).astype(np.uint16, copy=False)
    return (words >> words.dtype.type(bits - 17)).astype(np.uint16)


def _bounds(old: Words, dtype: Dtype) -> tuple[int, ...]:
    """Where the classes begin, as magnitudes, descending: exponents, from the largest that is common."""
    if dtype.name not in _EXPONENT or not len(old):
        return ()
    shift = 16 - _EXPONENT[dtype.name]
    exponents = _magnitude(old[::_STRIDE]) >> np.uint16(shift)
    common = np.bincount(exponents)[::-1].cumsum() >= (len(exponents) + _SHARE - 1) // _SHARE
    largest = len(common) - 1 - int(common.argmax())
    return tuple((largest - step) << shift for step in _STEPS if largest > step)


def _classes(old: Words, bounds: tuple[int, ...]) -> list[Positions]:
    """The positions of the elements of each class, ascending; none if there is but one class."""
    if not bounds:
        return []
    magnitude = _magnitude(old)
    above = magnitude >= np.uint16(bounds[0])
    classes = [np.flatnonzero(above)]
    for bound in bounds[1:]:
        here = magnitude >= np.uint16(bound)
        above ^= here  # every element above this bound that is not above the last one
        classes.append(np.flatnonzero(above))
        above = here
    classes.append(np.flatnonzero(~above))
    return classes


def _sorted(words: Words, classes: list[Positions]) -> Words:
    """The words of the first class, then those of the second, and so on."""
    if not classes:
        return words
    out, at = np.empty_like(words), 0
    for positions in classes:
        words.take(positions, out=out[at : at + len(positions)], mode="clip")
        at += len(positions)
    return out


def _in_place(words: Words, classes: list[Positions]) -> Words:
    """Undo :func:`_sorted`."""
    if not classes:
        return words
    out, at = np.empty_like(words), 0
    for positions in classes:
        out[positions] = words[at : at + len(positions)]
        at += len(positions)
    return out


def _read_bounds(payload: memoryview) -> tuple[tuple[int, ...], memoryview]:
    if not len(payload) or payload[0] > 16 or len(payload) < 1 + 2 * payload[0]:
        raise PayloadError("a delta's payload whose head is cut short")
    end = 1 + 2 * payload[0]
    bounds = tuple(np.frombuffer(payload[1:end], "<u2").tolist())
    if any(first <= second for first, second in pairwise(bounds)):
        raise PayloadError("a delta's classes are not in order")
    return bounds, payload[end:]
