"""Byte planes: the first byte of each number, then the second of each, ...; entropy-coded where that saves bytes."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from functools import lru_cache
from threading import local

import numpy as np
import numpy.typing as npt
import zstandard

from gittheta.errors import PayloadError

Bytes = npt.NDArray[np.uint8]
#: Unsigned integers of any width, little-endian.
Words = npt.NDArray[np.unsignedinteger]


def split(words: Words) -> list[Bytes]:
    """The byte planes of one-dimensional words, from the most significant byte to the least."""
    width = words.dtype.itemsize
    if width == 1:
        return [np.ascontiguousarray(words).view(np.uint8)]
    return [(words >> words.dtype.type(8 * at)).astype(np.uint8) for at in reversed(range(width))]


def join(planes: Sequence[Bytes]) -> Words:
    """The words with these byte planes, most significant first. There must be 1, 2, 4 or 8 planes."""
    words = planes[0].astype(f"<u{len(planes)}")
    kind = words.dtype.type
    for plane in planes[1:]:
        words <<= kind(8)
        words |= plane
    return words


def split_rotated(words: Words) -> list[Bytes]:
    """The byte planes of floats whose bits are rotated left by one, which moves the sign behind the mantissa.

    So the first plane holds exponents alone. In weights that are roughly normally distributed, eight bits of exponent
    carry about 2.6 bits of information, while mantissa and sign do not compress.
    """
    width = words.dtype.itemsize
    if width == 1:
        return [np.ascontiguousarray(words).view(np.uint8)]
    planes = [(words >> words.dtype.type(shift)).astype(np.uint8) for shift in range(8 * width - 9, -1, -8)]
    lowest = (words << words.dtype.type(1)).astype(np.uint8)
    lowest |= (words >> words.dtype.type(8 * width - 1)).astype(np.uint8)
    return [*planes, lowest]


def join_rotated(planes: Sequence[Bytes], out: Words) -> None:
    """Undo :func:`split_rotated`, into ``out``."""
    width = len(planes)
    if width == 1:
        out[:] = planes[0]
        return
    kind = out.dtype.type
    np.copyto(out, planes[0])
    for plane in planes[1:-1]:
        out <<= kind(8)
        out |= plane
    out <<= kind(7)
    out |= planes[-1] >> np.uint8(1)
    sign = planes[-1].astype(out.dtype)
    sign <<= kind(8 * width - 1)
    out |= sign


def pack(planes: Sequence[Bytes], *, matches: bool = False) -> bytes:
    """The stored lengths of the planes, then the planes, each compressed by :func:`shrink`."""
    stored = [shrink(plane, matches=matches) for plane in planes]
    return b"".join([struct.pack(f"<{len(stored)}I", *map(len, stored)), *stored])


def unpack(payload: memoryview, counts: Sequence[int]) -> tuple[list[Bytes], memoryview]:
    """Planes of these numbers of bytes, which :func:`pack` wrote, and the rest of the payload. Raises PayloadError."""
    at = 4 * len(counts)
    if len(payload) < at:
        raise PayloadError("the lengths of a payload's planes are cut short")
    planes = []
    for length, count in zip(struct.unpack_from(f"<{len(counts)}I", payload), counts, strict=True):
        if length > len(payload) - at:
            raise PayloadError("a plane reaches beyond its payload")
        planes.append(grow(payload[at : at + length], count))
        at += length
    return planes, payload[at:]


@lru_cache(maxsize=2)
def _parameters(*, matches: bool) -> zstandard.ZstdCompressionParameters:
    if matches:
        return zstandard.ZstdCompressionParameters.from_level(1, write_checksum=0, write_content_size=1)
    # Planes of floats hardly repeat themselves: looking for long matches only is faster and gives fewer bytes.
    return zstandard.ZstdCompressionParameters(
        strategy=zstandard.STRATEGY_FAST,
        min_match=7,
        hash_log=6,
        chain_log=6,
        window_log=17,
        write_checksum=0,
        write_content_size=1,
    )


_threads = local()


def _compressor(*, matches: bool) -> zstandard.ZstdCompressor:
    """This thread's compressor; zstandard's contexts cannot be shared between threads."""
    name = "general" if matches else "entropy"
    if not hasattr(_threads, name):
        setattr(_threads, name, zstandard.ZstdCompressor(compression_params=_parameters(matches=matches)))
    compressor: zstandard.ZstdCompressor = getattr(_threads, name)
    return compressor


def shrink(plane: Bytes, *, matches: bool) -> bytes | memoryview:
    """A plane, compressed if that makes it smaller. ``matches`` is set for planes that may repeat themselves."""
    if not len(plane):
        return b""
    small = _compressor(matches=matches).compress(plane.data)
    return small if len(small) < len(plane) else plane.data


def grow(plane: memoryview, count: int) -> Bytes:
    """The ``count`` bytes of a plane that :func:`shrink` wrote. Raises PayloadError if it does not hold as many."""
    if len(plane) == count:
        return np.frombuffer(plane, np.uint8)
    if not hasattr(_threads, "decompressor"):
        _threads.decompressor = zstandard.ZstdDecompressor()
    try:
        if len(plane) > count or zstandard.frame_content_size(plane) != count:
            raise PayloadError(f"a plane that does not hold {count} bytes")
        raw = _threads.decompressor.decompress(plane, max_output_size=count, allow_extra_data=False)
    except zstandard.ZstdError as error:
        raise PayloadError(f"a plane that does not decompress: {error}") from None
    if len(raw) != count:
        raise PayloadError(f"a plane that does not hold {count} bytes")
    return np.frombuffer(raw, np.uint8)
