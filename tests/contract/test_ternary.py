"""``ternary`` keeps the contract of encodings."""

from __future__ import annotations

import struct

import numpy as np
import pytest
import zstandard

from gittheta.api import Tensor
from gittheta.encodings.ternary import Ternary
from gittheta.numerics.floats import as_words, from_float64, has_arithmetic, to_float64
from gittheta.testing import EncodingConformance

pytestmark = pytest.mark.once

_BOMB = zstandard.ZstdCompressor(level=3).compress(bytes(1 << 28))


def _head(step: float, count: int, low_bits: int = 0, length: int | None = None) -> bytes:
    return struct.pack("<fIBI", step, count, low_bits, count if length is None else length)


class TestTernary(EncodingConformance):
    encoding = Ternary()
    hostile = (
        _head(1, 25) + struct.pack("<I", len(_BOMB)) + _BOMB,
        _head(1, 0xFFFFFFFF) + bytes(100),
        _head(1, 25, 0, 0xFFFFFFFF) + bytes(100),
        _head(1, 1) + struct.pack("<I", 1) + b"\x19" + struct.pack("<I", 1) + b"\1",
        _head(1, 2) + struct.pack("<I", 2) + b"\x00\xff" + struct.pack("<I", 1) + b"\3",
        _head(1, 1, 8) + struct.pack("<2I", 1, 1) + b"\xfe\xff" + struct.pack("<I", 1) + b"\1",
        _head(1, 1) + struct.pack("<I", 1) + b"\x00" + struct.pack("<I", 2) + b"\1\1",
        _head(float("nan"), 1) + struct.pack("<I", 1) + b"\x00" + struct.pack("<I", 1) + b"\1",
        _head(3e38, 1) + struct.pack("<I", 1) + b"\x00" + struct.pack("<I", 1) + b"\0",
        _head(1, 0) + struct.pack("<2I", 0, 0),
    )

    def base_of(self, new: Tensor) -> Tensor:
        """Every seventh element moved by the same step, wherever a base for that can be found."""
        dtype = new.spec.dtype
        if not has_arithmetic(dtype):
            return new
        words = as_words(new.data, dtype.itemsize).copy()
        step = float(np.float32(0.3 if dtype.bits == 8 else 0.0021))
        some = words[::7]
        moves = np.where(np.arange(len(some)) % 3, step, -step)
        with np.errstate(invalid="ignore"):
            old = as_words(from_float64(to_float64(memoryview(some.tobytes()), dtype) - moves, dtype), dtype.itemsize)
            back = as_words(from_float64(to_float64(memoryview(old.tobytes()), dtype) + moves, dtype), dtype.itemsize)
        words[::7] = np.where(back == some, old, some)
        return Tensor(new.spec, memoryview(words.tobytes()))
