"""``sparse``: the few elements that changed. It overwrites them and never adds, so that errors cannot build up."""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import ClassVar, Literal

import numpy as np

from gittheta.api import Dtype, PayloadError, Tensor, TensorSpec
from gittheta.numerics.floats import as_words, from_ordered, to_ordered, unzigzag, word_width, zigzag
from gittheta.numerics.planes import Words, join, join_rotated, pack, split, split_rotated, unpack
from gittheta.numerics.positions import pack_positions, unpack_positions

_HEAD = struct.Struct("<BI")
#: How the new values are written: as they are, or as differences from the base's values.
_VALUES, _DIFFERENCES = 0, 1
#: Of at least twice this many values, a sample of evenly spread ones decides how all are written: compressing
#: everything in both ways would take twice the time.
_SAMPLE = 1 << 14


@dataclass(frozen=True)
class Sparse:
    """Small where few elements differ from the base; a block that equals the base takes no bytes.

    Does not apply where more than half of the elements changed, unless the base is mostly zero.
    """

    name: ClassVar[str] = "sparse"
    kind: ClassVar[Literal["blockwise"]] = "blockwise"
    needs_base: ClassVar[bool] = True

    def over(self, base: Tensor | None) -> SparseCoder:
        """A coder over this block of the base."""
        return SparseCoder(base)


@dataclass(frozen=True)
class SparseCoder:
    """Codes the elements that differ from one block of the base."""

    base: Tensor | None

    def encode(self, new: Tensor) -> bytes | None:
        """Positions of changed elements as gaps, then their values or differences as byte planes; None if too many."""
        base = self.base
        if base is None or len(base.data) != len(new.data) or len(new.data) % word_width(new.spec.dtype):
            return None
        width = word_width(new.spec.dtype)
        words, old = as_words(new.data, width), as_words(base.data, width)
        positions = np.flatnonzero(words != old)
        if not len(positions):
            return b""
        words, old = words[positions], old[positions]
        if 2 * len(positions) > len(new.data) // width and 2 * np.count_nonzero(old) > len(positions):
            # More than half changed: another encoding is smaller. But if the base is mostly zero, differences from it
            # are no smaller than the values.
            return None
        step = max(1, len(words) // _SAMPLE)
        kinds = (_VALUES, _DIFFERENCES)
        mode = min(kinds, key=lambda kind: len(_pack_values(kind, words[::step], old[::step], new.spec.dtype)))
        head = _HEAD.pack(mode, len(positions))
        return head + pack_positions(positions) + _pack_values(mode, words, old, new.spec.dtype)

    def decode(self, payload: memoryview, spec: TensorSpec) -> Tensor:
        """Undo :meth:`encode`. Raises PayloadError."""
        base = self.base
        width = word_width(spec.dtype)
        if base is None or len(base.data) != spec.nbytes or spec.nbytes % width:
            raise PayloadError("a sparse change needs a base of its own size")
        if not len(payload):
            return Tensor(spec, base.data)
        if len(payload) < _HEAD.size:
            raise PayloadError("a sparse payload without a head")
        mode, count = _HEAD.unpack_from(payload)
        if mode not in (_VALUES, _DIFFERENCES) or not 0 < count <= spec.nbytes // width:
            raise PayloadError(f"a sparse payload of unknown kind ({mode}), or of {count} elements")
        positions, rest = unpack_positions(payload[_HEAD.size :], count, spec.nbytes // width)
        words = as_words(base.data, width).copy()
        words[positions] = _unpack_values(rest, mode, words[positions], spec.dtype)
        return Tensor(spec, words.view(np.uint8).data)


def _pack_values(mode: int, words: Words, old: Words, dtype: Dtype) -> bytes:
    floats = dtype.kind in ("float", "complex")
    if mode == _VALUES:
        return pack(split_rotated(words) if floats else split(words), matches=not floats)
    differences = to_ordered(words) - to_ordered(old) if floats else words - old
    return pack(split(zigzag(differences)))


def _unpack_values(payload: memoryview, mode: int, old: Words, dtype: Dtype) -> Words:
    planes, rest = unpack(payload, [len(old)] * old.dtype.itemsize)
    if len(rest):
        raise PayloadError("a sparse payload of the wrong length")
    floats = dtype.kind in ("float", "complex")
    if mode == _VALUES and floats:
        words = np.empty_like(old)
        join_rotated(planes, words)
        return words
    if mode == _VALUES:
        return join(planes)
    differences = unzigzag(join(planes))
    if not floats:
        differences += old
        return differences
    differences += to_ordered(old)
    return from_ordered(differences)
