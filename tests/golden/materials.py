"""What the frozen payloads are made from: bit patterns made of noise and whole numbers alone, the same for ever."""

from __future__ import annotations

import hashlib
import math

from tests.golden.book.words import BITS

#: Bits of the mantissa, and the exponent field of values from about 1/16 to 1/8.
_FIELDS = {
    "f64": (52, 1019),
    "f32": (23, 123),
    "c64": (23, 123),
    "f16": (10, 11),
    "bf16": (7, 123),
    "f8_e4m3": (3, 7),
    "f8_e5m2": (2, 15),
    "f8_e4m3fnuz": (3, 8),
    "f8_e5m2fnuz": (2, 16),
}


def noise(label: str, size: int) -> bytes:
    return hashlib.shake_128(label.encode()).digest(size)


def weights(label: str, dtype: str, shape: tuple[int, ...]) -> bytes:
    """Roughly as in a trained layer: either sign, small values more often; here and there something odd."""
    bits, count = BITS[dtype], math.prod(shape)
    if dtype not in _FIELDS:
        return noise(label, count * bits // 8)
    mantissa, exponent = _FIELDS[dtype]
    if dtype == "c64":
        bits, count = 32, 2 * count
    source, words = noise(label, 12 * count), []
    for at in range(count):
        one = int.from_bytes(source[12 * at : 12 * at + 12], "little")
        smaller = min(4, _zeros(one >> 1 & 0xFF))
        words.append((one & 1) << bits - 1 | exponent - smaller << mantissa | one >> 16 & (1 << mantissa) - 1)
    sign, infinite = 1 << bits - 1, (1 << bits - 1) - (1 << mantissa)
    odd = (
        infinite | 1,
        sign | infinite | 1 << mantissa - 1,
        infinite,
        sign | infinite,
        sign,
        0,
        1,
        sign | 3,
        infinite - 1,
    )
    for at in range(17, count, 61):
        words[at] = odd[at // 61 % len(odd)]
    return b"".join(word.to_bytes(bits // 8, "little") for word in words)


def _zeros(byte: int) -> int:
    """How many of the lowest bits are zero."""
    return (byte & -byte).bit_length() - 1 if byte else 8
