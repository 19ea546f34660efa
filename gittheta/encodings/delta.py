"""``delta``: how far each element moved from the base, counted in floats, in classes by the size of the base's element.

The distance of two floats of the same dtype is the number of steps between neighbouring floats that lead from one to
the other: the difference of their *order-preserving integers*. When fine-tuning moves all weights by about the same
amount, small weights move by more steps than large ones. So elements are put in classes by the base's exponent, and
each class is compressed by itself. The classes cost no bytes, because the decoder has the base.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import ClassVar, Literal

import numpy as np
import numpy.typing as npt

from gittheta.api import Dtype, PayloadError, Tensor, TensorSpec
from gittheta.numerics.floats import as_words, from_ordered, to_ordered, unzigzag, word_width, zigzag
from gittheta.numerics.planes import Words, join, pack, split, unpack

Positions = npt.NDArray[np.intp]

#: Classes begin at the largest common exponent and two below it: three classes. Five classes save 0.002 of the raw
#: bytes more, and take twice the time to find (docs/design/0003-changes.md).
_STEPS = (0, 2)
#: An exponent is common if at least one in this many elements has it or a larger one. Where fewer elements lie above,
#: their class would be too small to matter.
_SHARE = 4
#: Exponents are counted over every 16th element: 65536 of a full block, which is enough to rank them.
_STRIDE = 16


@dataclass(frozen=True)
class Delta:
    """Applies to every tensor with a base; small where elements moved by little compared with their size."""

    name: ClassVar[str] = "delta"
    kind: ClassVar[Literal["blockwise"]] = "blockwise"
    needs_base: ClassVar[bool] = True

    def over(self, base: Tensor | None) -> DeltaCoder:
        """A coder over this block, which analyses it once."""
        return DeltaCoder(base)


class DeltaCoder:
    """Codes differences from one block of the base, and keeps its analysis of that block. For one thread."""

    def __init__(self, base: Tensor | None) -> None:
        self._base = base
        self._kept: _Analysis | None = None

    def encode(self, new: Tensor) -> bytes | None:
        """The bounds of the classes, then the differences as byte planes, class by class; None without a base."""
        dtype, base = new.spec.dtype, self._base
        width = word_width(dtype)
        if base is None or len(base.data) != len(new.data) or len(new.data) % width:
            return None
        analysis = self._analysis(base, dtype, _bounds(as_words(base.data, width), dtype))
        moved = _sorted(zigzag(_ordered(as_words(new.data, width), dtype) - analysis.ordered), analysis.classes)
        head = bytes((len(analysis.bounds),)) + np.array(analysis.bounds, "<u2").tobytes()
        return head + pack(split(moved))

    def decode(self, payload: memoryview, spec: TensorSpec) -> Tensor:
        """Undo :meth:`encode`. Raises PayloadError."""
        width, base = word_width(spec.dtype), self._base
        if base is None or len(base.data) != spec.nbytes or spec.nbytes % width:
            raise PayloadError("a delta needs a base of its own size")
        bounds, rest = _read_bounds(payload)
        if bounds and not _has_classes(spec.dtype):
            raise PayloadError(f"a delta with classes, which {spec.dtype.name} does not have")
        planes, rest = unpack(rest, [spec.nbytes // width] * width)
        if len(rest):
            raise PayloadError("a delta's payload of the wrong length")
        analysis = self._analysis(base, spec.dtype, bounds)
        steps = unzigzag(_in_place(join(planes), analysis.classes))
        steps += analysis.ordered
        words = from_ordered(steps) if _is_float(spec.dtype) else steps
        return Tensor(spec, words.view(np.uint8).data)

    def _analysis(self, base: Tensor, dtype: Dtype, bounds: tuple[int, ...]) -> _Analysis:
        analysis = self._kept
        if analysis is None or (analysis.dtype, analysis.bounds) != (dtype, bounds):
            old = as_words(base.data, word_width(dtype))
            analysis = self._kept = _Analysis(dtype, bounds, _classes(old, bounds), _ordered(old, dtype))
        return analysis


@dataclass(frozen=True)
class _Analysis:
    """What follows from the base alone, for a dtype and bounds of classes."""

    dtype: Dtype
    bounds: tuple[int, ...]
    classes: list[Positions]
    #: The base as order-preserving integers.
    ordered: Words


def _has_classes(dtype: Dtype) -> bool:
    """Whether elements are put in classes: floats, and parts of complex numbers, of at least 16 bits."""
    return _is_float(dtype) and dtype.bits >= 16


def _is_float(dtype: Dtype) -> bool:
    return dtype.kind in ("float", "complex")


def _ordered(words: Words, dtype: Dtype) -> Words:
    return to_ordered(words) if _is_float(dtype) else words


def _magnitude(words: Words) -> npt.NDArray[np.uint16]:
    """The sixteen bits after each word's sign, exponent first: uint16, in the shape of the words."""
    bits = 8 * words.dtype.itemsize
    if bits == 16:
        return (words << np.uint16(1)).astype(np.uint16, copy=False)
    return (words >> words.dtype.type(bits - 17)).astype(np.uint16)


def _bounds(old: Words, dtype: Dtype) -> tuple[int, ...]:
    """The least magnitude in each class except the last, descending; empty for dtypes without classes."""
    if not _has_classes(dtype) or not len(old):
        return ()
    shift = 16 - dtype.exponent_bits
    exponents = _magnitude(old[::_STRIDE]) >> np.uint16(shift)
    common = np.bincount(exponents)[::-1].cumsum() >= (len(exponents) + _SHARE - 1) // _SHARE
    largest = len(common) - 1 - int(common.argmax())
    return tuple((largest - step) << shift for step in _STEPS if largest > step)


def _classes(old: Words, bounds: tuple[int, ...]) -> list[Positions]:
    """For each class the positions of its elements, ascending; an empty list if there is only one class."""
    if not bounds:
        return []
    magnitude = _magnitude(old)
    above = magnitude >= np.uint16(bounds[0])
    classes = [np.flatnonzero(above)]
    for bound in bounds[1:]:
        here = magnitude >= np.uint16(bound)
        above ^= here  # the elements above this bound but not above the one before
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
