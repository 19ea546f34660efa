"""Floats in three forms: as raw words, as integers in the order of the floats, and as float64 values.

Everything here gives the same bits on every machine: each step is exact, or one IEEE 754 operation on each element.
"""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from gittheta.model import DTYPES, Dtype

if TYPE_CHECKING:
    from gittheta.numerics.planes import Bytes, Words

Doubles = npt.NDArray[np.float64]


def has_arithmetic(dtype: Dtype) -> bool:
    """Whether :func:`to_float64` can convert the dtype."""
    return dtype.arithmetic


def word_width(dtype: Dtype) -> int:
    """The width in bytes of the words into which tensors of this dtype are split.

    A word is an element, or one part of a complex number; for block dtypes it is a byte.
    """
    if dtype.kind == "block":
        return 1
    return dtype.itemsize // 2 if dtype.kind == "complex" else dtype.itemsize


def as_words(data: memoryview, width: int) -> Words:
    """Raw little-endian bytes as unsigned integers of ``width`` bytes: one-dimensional, without a copy."""
    return np.frombuffer(data, f"<u{width}")


def to_ordered(words: Words) -> Words:
    """The order-preserving integers of floats given as words: in the order of the floats, of the same width and shape.

    The words of negative floats are inverted, and those of positive floats get their upper bit set.
    """
    mask: Words
    signed = words.view(f"<i{words.dtype.itemsize}")
    mask = (signed >> signed.dtype.type(8 * words.dtype.itemsize - 1)).view(words.dtype)
    mask |= words.dtype.type(1 << (8 * words.dtype.itemsize - 1))
    mask ^= words
    return mask


def from_ordered(ordered: Words) -> Words:
    """Undo :func:`to_ordered`."""
    mask: Words
    signed = ordered.view(f"<i{ordered.dtype.itemsize}")
    mask = (signed >> signed.dtype.type(8 * ordered.dtype.itemsize - 1)).view(ordered.dtype)
    np.invert(mask, out=mask)
    mask |= ordered.dtype.type(1 << (8 * ordered.dtype.itemsize - 1))
    mask ^= ordered
    return mask


def zigzag(differences: Words) -> Words:
    """Map differences modulo 2^bits to unsigned integers, so that those near zero are small.

    0, -1, 1, -2, ... become 0, 1, 2, 3, ...; shape and width stay.
    """
    signed = differences.view(f"<i{differences.dtype.itemsize}")
    folded = signed >> signed.dtype.type(8 * differences.dtype.itemsize - 1)
    folded ^= signed << signed.dtype.type(1)
    unsigned: Words = folded.view(differences.dtype)
    return unsigned


def unzigzag(folded: Words) -> Words:
    """Undo :func:`zigzag`. Overwrites its argument."""
    kind = folded.dtype.type
    halves: Words = folded >> kind(1)
    folded &= kind(1)
    np.negative(folded, out=folded)
    halves ^= folded
    return halves


def to_float64(data: memoryview, dtype: Dtype) -> Doubles:
    """The exact values of raw bytes, in a new one-dimensional array. The dtype must satisfy :func:`has_arithmetic`."""
    with np.errstate(invalid="ignore"):  # signalling NaNs
        return _to_float64(data, dtype)


def _to_float64(data: memoryview, dtype: Dtype) -> Doubles:
    if dtype.name == "bf16":
        wide = as_words(data, 2).astype(np.uint32)
        wide <<= np.uint32(16)
        return wide.view(np.float32).astype(np.float64)
    if dtype.bits == 8:
        values: Doubles = _values(dtype.name).take(np.frombuffer(data, np.uint8))
        return values
    return np.frombuffer(data, f"<{dtype.name[0]}{dtype.itemsize}").astype(np.float64)


def from_float64(values: Doubles, dtype: Dtype) -> memoryview:
    """The raw bytes of one-dimensional values, rounded to a dtype, to nearest and ties to even.

    Values are rounded to ``f32`` first if the dtype is narrower. Every NaN becomes the positive quiet NaN, because the
    NaNs that arithmetic yields differ between machines. Values that are too large become infinite, or the largest
    number of dtypes of eight bits.
    """
    with np.errstate(over="ignore", invalid="ignore", under="ignore"):
        rounded = values.astype("<f8" if dtype.name == "f64" else "<f4")
        if dtype.bits == 8:
            # Rounded to odd at 16 bits first: the last bit says whether bits were lost, so that the second rounding
            # is exact.
            bits = rounded.view("<u4")
            narrow = (bits >> np.uint32(16)).astype("<u2")
            narrow |= (bits & np.uint32(0xFFFF)).astype(bool)
            return _codes(dtype.name).take(narrow).data
        if dtype.name == "f16":
            rounded = rounded.astype("<f2")
    words = rounded.view(f"<u{rounded.itemsize}")
    if dtype.name == "bf16":
        odd = words >> np.uint32(16)
        odd &= np.uint32(1)
        odd += np.uint32(0x7FFF)
        odd += words
        words = (odd >> np.uint32(16)).astype("<u2")
    nan = np.isnan(values)
    if nan.any():
        words[nan] = dtype.quiet_nan
    return words.view(np.uint8).data


@cache
def _values(name: str) -> Doubles:
    """The value of each of the 256 codes of a dtype of eight bits: float64, (256)."""
    dtype = DTYPES[name]
    exponent_bits, mantissa_bits, bias = dtype.exponent_bits, dtype.mantissa_bits, dtype.bias
    codes = np.arange(256)
    exponent = (codes >> mantissa_bits) & ((1 << exponent_bits) - 1)
    mantissa = codes & ((1 << mantissa_bits) - 1)
    fraction = np.where(exponent == 0, mantissa, mantissa + (1 << mantissa_bits)).astype(np.float64)
    values: Doubles = np.ldexp(fraction, np.maximum(exponent, 1) - bias - mantissa_bits)
    values[codes >= 128] *= -1
    if dtype.specials == "fnuz":
        values[128] = np.nan
    elif dtype.specials == "fn":
        values[[0x7F, 0xFF]] = np.nan
    else:
        values[[0x7C, 0xFC]] = [np.inf, -np.inf]
        values[[0x7D, 0x7E, 0x7F, 0xFD, 0xFE, 0xFF]] = np.nan
    return values


@cache
def _middles(name: str) -> Doubles:
    """The middle of each two neighbouring finite non-negative values of a dtype of eight bits: float64, ascending."""
    values = _values(name)[:128]
    finite = values[np.isfinite(values)]
    middles: Doubles = (finite[1:] + finite[:-1]) / 2
    return middles


@cache
def _codes(name: str) -> Bytes:
    """The code to which each of the 2^16 words of ``bf16`` is rounded: uint8, (65536)."""
    wide = np.arange(1 << 16, dtype=np.uint32)
    wide <<= np.uint32(16)
    with np.errstate(invalid="ignore"):
        return _round_to_eight_bits(wide.view(np.float32), name)


def _round_to_eight_bits(values: npt.NDArray[np.floating], name: str) -> Bytes:
    middles = _middles(name)
    sizes = np.abs(values)
    codes: Bytes = np.searchsorted(middles, sizes, side="left").astype(np.uint8)
    # A value exactly in the middle goes up if the code below is odd.
    tie = middles[np.minimum(codes, len(middles) - 1)] == sizes
    codes += (tie & (codes & np.uint8(1)).astype(bool)).astype(np.uint8)
    if name == "f8_e5m2":
        codes[np.isinf(values)] = 0x7C
    codes |= np.signbit(values).astype(np.uint8) << np.uint8(7)
    if name.endswith("fnuz"):
        codes[codes == 128] = 0
    codes[np.isnan(values)] = 128 if name.endswith("fnuz") else 0x7F
    return codes
