"""Ascending positions as the gaps between them, which ``sparse`` and ``ternary`` share. See ``docs/spec``."""

from __future__ import annotations

import struct

import numpy as np
import numpy.typing as npt

from gittheta.errors import PayloadError
from gittheta.numerics.planes import pack, unpack

Positions = npt.NDArray[np.int64]

_HEAD = struct.Struct("<BI")
#: This symbol stands for 255, to which the next symbol is added.
_MORE = 255
#: If the mean gap is larger, the eight low bits of the gaps, which are noise, get a plane of their own.
_WIDE = 400


def pack_positions(positions: Positions) -> bytes:
    """Strictly ascending positions (one-dimensional, int64) as gaps. Random ones take about their entropy in bytes."""
    gaps = np.diff(positions, prepend=-1) - 1
    low_bits = 8 if len(gaps) and gaps.mean() > _WIDE else 0
    high = gaps >> low_bits
    symbols = _to_symbols(high)
    planes = [symbols, (gaps & 255).astype(np.uint8)] if low_bits else [symbols]
    return _HEAD.pack(low_bits, len(symbols)) + pack(planes)


def unpack_positions(payload: memoryview, count: int, limit: int) -> tuple[Positions, memoryview]:
    """``count`` ascending positions below ``limit``, and the rest of the payload. Raises PayloadError."""
    if len(payload) < _HEAD.size:
        raise PayloadError("a list of positions without a head")
    low_bits, length = _HEAD.unpack_from(payload)
    if low_bits not in (0, 8) or not count <= length <= count + limit // _MORE:
        raise PayloadError("a list of positions of an impossible length")
    planes, rest = unpack(payload[_HEAD.size :], [length, count] if low_bits else [length])
    gaps = _from_symbols(planes[0], count) << low_bits
    if low_bits:
        gaps |= planes[1]
    gaps += 1
    positions = np.cumsum(gaps)
    positions -= 1
    if count and positions[-1] >= limit:
        raise PayloadError("a position beyond the end of the block")
    return positions, rest


def _to_symbols(numbers: Positions) -> npt.NDArray[np.uint8]:
    """Each number as a run of symbols that add up to it: some of 255, then one below 255."""
    more = numbers // _MORE
    if not more.any():
        return numbers.astype(np.uint8)
    ends = np.cumsum(more + 1) - 1
    symbols = np.full(int(ends[-1]) + 1, _MORE, np.uint8)
    symbols[ends] = numbers % _MORE
    return symbols


def _from_symbols(symbols: npt.NDArray[np.uint8], count: int) -> Positions:
    if len(symbols) == count and not (symbols == _MORE).any():
        return symbols.astype(np.int64)
    ends = np.flatnonzero(symbols != _MORE)
    if len(ends) != count or (len(symbols) and symbols[-1] == _MORE):
        raise PayloadError("a list of positions that does not hold the right number of them")
    sums = np.cumsum(symbols, dtype=np.int64)[ends]
    return np.diff(sums, prepend=0)
