"""docs/spec/encodings.md: words, planes, differences, positions, values."""

from __future__ import annotations

import math
import struct
from collections.abc import Sequence
from fractions import Fraction
from functools import cache
from itertools import accumulate

import zstandard

#: Exponent bits, mantissa bits, bias.
EIGHTS = {"f8_e4m3": (4, 3, 7), "f8_e5m2": (5, 2, 15), "f8_e4m3fnuz": (4, 3, 8), "f8_e5m2fnuz": (5, 2, 16)}
WIDTHS = {"f64": 8, "f32": 4, "f16": 2, "bf16": 2, **dict.fromkeys(EIGHTS, 1)}
QUIET = {"f64": 0x7FF8 << 48, "f32": 0x7FC00000, "f16": 0x7E00, "bf16": 0x7FC0, "f8_e4m3": 0x7F, "f8_e5m2": 0x7F}
BITS = {**{f"{kind}{bits}": bits for kind in "iu" for bits in (8, 16, 32, 64)}, "f4": 4, "f6_e2m3": 6, "f6_e3m2": 6}
BITS |= {"raw": 8, "bool": 8, "c64": 64, "f8_e8m0": 8, **{name: 8 * width for name, width in WIDTHS.items()}}


def word_width(dtype: str) -> int:
    return 4 if dtype == "c64" else max(1, BITS[dtype] // 8)


def is_float(dtype: str) -> bool:
    return dtype[0] in "fc" or dtype == "bf16"


def words_of(data: bytes, width: int) -> list[int]:
    return [int.from_bytes(data[at : at + width], "little") for at in range(0, len(data), width)]


def bytes_of(words: Sequence[int], width: int) -> bytes:
    return b"".join(word.to_bytes(width, "little") for word in words)


def unpack(data: bytes, counts: Sequence[int]) -> tuple[list[bytes], bytes]:
    lengths = struct.unpack_from(f"<{len(counts)}I", data)
    at, planes = 4 * len(counts), []
    for length, count in zip(lengths, counts, strict=True):
        stored = data[at : at + length]
        assert len(stored) == length <= count
        if length < count:
            assert zstandard.frame_content_size(stored) == count
            stored = zstandard.ZstdDecompressor().decompress(stored, allow_extra_data=False)
        planes.append(stored)
        at += length
    return planes, data[at:]


def joined(planes: Sequence[bytes], rotated: bool = False) -> list[int]:
    bits = 8 * len(planes)
    words = [int.from_bytes(column, "big") for column in zip(*planes, strict=True)]
    return [word >> 1 | (word & 1) << bits - 1 for word in words] if rotated and bits > 8 else words


def ordered(word: int, bits: int, floating: bool) -> int:
    if not floating:
        return word
    return word ^ ((1 << bits) - 1 if word >> bits - 1 else 1 << bits - 1)


def moved(word: int, folded: int, bits: int, floating: bool) -> int:
    difference = folded // 2 if folded % 2 == 0 else -(folded + 1) // 2
    number = (ordered(word, bits, floating) + difference) % (1 << bits)
    if not floating:
        return number
    return number ^ (1 << bits - 1 if number >> bits - 1 else (1 << bits) - 1)


def positions(data: bytes, count: int) -> tuple[list[int], bytes]:
    low_bits, length = struct.unpack_from("<BI", data)
    planes, rest = unpack(data[5:], [length, count] if low_bits else [length])
    gaps, so_far = [], 0
    for symbol in planes[0]:
        so_far += symbol
        if symbol != 255:
            gaps.append(so_far)
            so_far = 0
    assert len(gaps) == count
    if low_bits:
        gaps = [gap * 256 + low for gap, low in zip(gaps, planes[1], strict=True)]
    return [at - 1 for at in accumulate(gap + 1 for gap in gaps)], rest


def value(word: int, dtype: str) -> float:
    if dtype == "bf16":
        word, dtype = word << 16, "f32"
    if dtype not in EIGHTS:
        width = WIDTHS[dtype]
        (found,) = struct.unpack({2: "<e", 4: "<f", 8: "<d"}[width], word.to_bytes(width, "little"))
        return float(found)
    exponent_bits, mantissa_bits, bias = EIGHTS[dtype]
    sign, exponent = -1.0 if word >> 7 else 1.0, word >> mantissa_bits & (1 << exponent_bits) - 1
    fraction = word & (1 << mantissa_bits) - 1
    if word == 0x80 if dtype.endswith("fnuz") else word & 0x7F == 0x7F or (dtype == "f8_e5m2" and word & 0x7F > 0x7C):
        return math.nan
    if dtype == "f8_e5m2" and word & 0x7F == 0x7C:
        return sign * math.inf
    if exponent:
        return sign * math.ldexp(fraction + (1 << mantissa_bits), exponent - bias - mantissa_bits)
    return sign * math.ldexp(fraction, 1 - bias - mantissa_bits)


def rounded(number: float, dtype: str) -> int:
    if math.isnan(number):
        return QUIET.get(dtype, 0x80)
    if dtype == "f64":
        return int.from_bytes(struct.pack("<d", number), "little")
    single = _with_infinities(number, 8, 23, 127)
    if dtype == "f32":
        return single
    number = value(single, "f32")
    if dtype in ("f16", "bf16"):
        return _with_infinities(number, *((5, 10, 15) if dtype == "f16" else (8, 7, 127)))
    largest = _largest(dtype)
    if math.isinf(number):
        size = 0x7C if dtype == "f8_e5m2" else largest
    else:
        size = largest if abs(number) > value(largest, dtype) else _nearest(abs(number), *EIGHTS[dtype])
    sign = 0x80 if math.copysign(1, number) < 0 else 0
    return 0 if dtype.endswith("fnuz") and not size else sign | size


@cache
def _largest(dtype: str) -> int:
    return max(code for code in range(0x80) if math.isfinite(value(code, dtype)))


def _with_infinities(number: float, exponent_bits: int, mantissa_bits: int, bias: int) -> int:
    sign = (1 if math.copysign(1, number) < 0 else 0) << exponent_bits + mantissa_bits
    infinite = (1 << exponent_bits) - 1 << mantissa_bits
    size = infinite if math.isinf(number) else _nearest(abs(number), exponent_bits, mantissa_bits, bias)
    return sign | min(size, infinite)


def _nearest(number: float, exponent_bits: int, mantissa_bits: int, bias: int) -> int:
    """To nearest, ties to even; exponents have no end."""
    exponent = max(math.frexp(number)[1] - 1, 1 - bias) if number else 1 - bias
    units = round(Fraction(number) / Fraction(2) ** (exponent - mantissa_bits))
    # A carry out of the mantissa goes to the exponent by itself.
    return (exponent + bias - 1 << mantissa_bits) + units
