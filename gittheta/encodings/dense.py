"""``dense``: the values themselves, as byte planes, each entropy-coded where that pays.

The sign of a float is rotated to its low end first, so that the top plane holds exponents alone: of weights that are
roughly normal, those eight bits carry about 2.6 bits of information, while mantissa and sign do not compress.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from functools import lru_cache
from threading import local
from typing import ClassVar

import numpy as np
import numpy.typing as npt
import zstandard

from gittheta.api import Dtype, PayloadError, Tensor, TensorSpec

Bytes = npt.NDArray[np.uint8]

_PLAIN, _ROTATED = 0, 1
_WIDTHS = (1, 2, 4, 8)


@dataclass(frozen=True)
class Dense:
    """Needs no base; applies to everything."""

    name: ClassVar[str] = "dense"
    needs_base: ClassVar[bool] = False

    def encode(self, new: Tensor, base: Tensor | None) -> bytes | None:
        """Planes from the most significant byte to the least, then the bytes that fill no element."""
        dtype = new.spec.dtype
        width, transform = _shape_of(dtype)
        data = np.frombuffer(new.data, np.uint8)
        whole = len(data) // width * width
        planes = [_shrink(plane, dtype) for plane in _to_planes(data[:whole], width, transform)]
        head = struct.pack(f"<BB{width}I", width, transform, *map(len, planes))
        return b"".join([head, *planes, data[whole:].data])

    def decode(self, payload: memoryview, spec: TensorSpec, base: Tensor | None) -> Tensor:
        """Undo :meth:`encode`."""
        width, transform, planes, rest = _parse(payload, spec.nbytes)
        count = spec.nbytes // width
        out = np.empty(spec.nbytes, np.uint8)
        _from_planes([_grow(plane, count) for plane in planes], transform, out[: count * width])
        out[count * width :] = np.frombuffer(rest, np.uint8)
        return Tensor(spec, out.data)


def _shape_of(dtype: Dtype) -> tuple[int, int]:
    """Bytes of one element as coded, and whether its sign is rotated."""
    if dtype.kind == "complex":
        return dtype.itemsize // 2, _ROTATED
    return dtype.itemsize, _ROTATED if dtype.kind == "float" and dtype.itemsize > 1 else _PLAIN


def _to_planes(data: Bytes, width: int, transform: int) -> list[Bytes]:
    if width == 1:
        return [data]
    if transform == _PLAIN:
        columns = data.reshape(-1, width)
        return [np.ascontiguousarray(columns[:, at]) for at in reversed(range(width))]
    words = data.view(f"<u{width}")
    top = 8 * width - 9
    planes = [(words >> shift).astype(np.uint8) for shift in range(top, -1, -8)]
    lowest = (words << 1).astype(np.uint8)
    lowest |= (words >> (8 * width - 1)).astype(np.uint8)
    return [*planes, lowest]


def _from_planes(planes: list[Bytes], transform: int, out: Bytes) -> None:
    width = len(planes)
    if transform == _PLAIN:
        columns = out.reshape(-1, width)
        for at, plane in enumerate(reversed(planes)):
            columns[:, at] = plane
        return
    words = out.view(f"<u{width}")
    kind = words.dtype.type
    np.copyto(words, planes[0])
    for plane in planes[1:-1]:
        words <<= kind(8)
        words |= plane
    words <<= kind(7)
    words |= planes[-1] >> np.uint8(1)
    sign = planes[-1].astype(kind)
    sign <<= kind(8 * width - 1)
    words |= sign


def _parse(payload: memoryview, nbytes: int) -> tuple[int, int, list[memoryview], memoryview]:
    if len(payload) < 2:
        raise PayloadError("a dense payload without a head")
    width, transform = payload[0], payload[1]
    if width not in _WIDTHS or transform not in (_PLAIN, _ROTATED) or (transform == _ROTATED and width == 1):
        raise PayloadError(f"a dense payload of unknown kind ({width}, {transform})")
    at = 2 + 4 * width
    if len(payload) < at:
        raise PayloadError("a dense payload whose head is cut short")
    planes = []
    for length in struct.unpack_from(f"<{width}I", payload, 2):
        planes.append(payload[at : at + length])
        at += length
    if at > len(payload) or len(payload) - at != nbytes % width:
        raise PayloadError("a dense payload of the wrong length")
    return width, transform, planes, payload[at:]


@lru_cache(maxsize=2)
def _parameters(entropy_only: bool) -> zstandard.ZstdCompressionParameters:
    if not entropy_only:
        return zstandard.ZstdCompressionParameters.from_level(1, write_checksum=0, write_content_size=1)
    # Planes of floats hold hardly a match: looking for long ones only is both faster and smaller.
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


def _compressor(entropy_only: bool) -> zstandard.ZstdCompressor:
    """One for each thread: zstandard's contexts cannot be shared."""
    name = "entropy" if entropy_only else "general"
    if not hasattr(_threads, name):
        setattr(_threads, name, zstandard.ZstdCompressor(compression_params=_parameters(entropy_only)))
    found: zstandard.ZstdCompressor = getattr(_threads, name)
    return found


def _shrink(plane: Bytes, dtype: Dtype) -> bytes | memoryview:
    small = _compressor(dtype.kind in ("float", "complex")).compress(plane.data) if len(plane) else b""
    return small if len(small) < len(plane) else plane.data


def _grow(plane: memoryview, count: int) -> Bytes:
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
