"""docs/spec/encodings: dense, delta, sparse, ternary."""

from __future__ import annotations

import struct
from collections.abc import Callable

from tests.golden.book.words import (
    bytes_of,
    is_float,
    joined,
    moved,
    positions,
    rounded,
    unpack,
    value,
    word_width,
    words_of,
)


def dense(body: bytes, dtype: str, nbytes: int, base: bytes) -> bytes:
    width, transform = body[0], body[1]
    planes, tail = unpack(body[2:], [nbytes // width] * width)
    return bytes_of(joined(planes, rotated=transform == 1), width) + tail


def delta(body: bytes, dtype: str, nbytes: int, base: bytes) -> bytes:
    width, floating = word_width(dtype), is_float(dtype)
    bounds = struct.unpack_from(f"<{body[0]}H", body, 1)
    planes, rest = unpack(body[1 + 2 * len(bounds) :], [nbytes // width] * width)
    assert not rest
    old, bits = words_of(base, width), 8 * width

    def rank(at: int) -> int:
        magnitude = (old[at] << 17 >> bits) & 0xFFFF
        return sum(magnitude < bound for bound in bounds)

    order = sorted(range(len(old)), key=rank)
    for at, folded in zip(order, joined(planes), strict=True):
        old[at] = moved(old[at], folded, bits, floating)
    return bytes_of(old, width)


def sparse(body: bytes, dtype: str, nbytes: int, base: bytes) -> bytes:
    if not body:
        return base
    width, floating = word_width(dtype), is_float(dtype)
    mode, count = struct.unpack_from("<BI", body)
    where, rest = positions(body[5:], count)
    planes, rest = unpack(rest, [count] * width)
    assert not rest
    words = words_of(base, width)
    for at, word in zip(where, joined(planes, rotated=mode == 0 and floating), strict=True):
        words[at] = word if mode == 0 else moved(words[at], word, 8 * width, floating)
    return bytes_of(words, width)


def ternary(body: bytes, dtype: str, nbytes: int, base: bytes) -> bytes:
    if not body:
        return base
    width = word_width(dtype)
    step, count = struct.unpack_from("<fI", body)
    where, rest = positions(body[8:], count)
    (directions,), rest = unpack(rest, [(count + 7) // 8])
    assert not rest
    words = words_of(base, width)
    for index, at in enumerate(where):
        up = directions[index // 8] >> index % 8 & 1
        words[at] = rounded(value(words[at], dtype) + (step if up else -step), dtype)
    return bytes_of(words, width)


BLOCKWISE: dict[str, Callable[[bytes, str, int, bytes], bytes]] = {
    "dense": dense,
    "delta": delta,
    "sparse": sparse,
    "ternary": ternary,
}
