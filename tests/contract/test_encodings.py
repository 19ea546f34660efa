"""Every built-in encoding keeps the contract."""

from __future__ import annotations

import struct

import zstandard

from gittheta.encodings.dense import Dense
from gittheta.registry import BUILT_IN
from gittheta.testing import EncodingConformance


def _planes(width: int, transform: int, *planes: bytes, rest: bytes = b"") -> bytes:
    return struct.pack(f"<BB{len(planes)}I", width, transform, *map(len, planes)) + b"".join(planes) + rest


_BOMB = zstandard.ZstdCompressor(level=3).compress(bytes(1 << 28))
_OF_UNKNOWN_SIZE = zstandard.ZstdCompressor(write_content_size=False).compress(bytes(25))
_SMALL = zstandard.ZstdCompressor().compress(bytes(25))


class TestDense(EncodingConformance):
    encoding = Dense()
    hostile = (
        _planes(1, 0, _BOMB),
        _planes(2, 1, _BOMB[:20], _BOMB[:20]),
        _planes(1, 0, _OF_UNKNOWN_SIZE),
        _planes(2, 0, _SMALL, _SMALL),
        _planes(2, 0, _SMALL, _SMALL + b"trailing"),
        _planes(1, 1, bytes(25)),
        _planes(3, 0, b"", b"", b""),
        _planes(255, 255),
        _planes(8, 1, *[bytes(25)] * 8),
        struct.pack("<BB2I", 2, 1, 0xFFFFFFFF, 0xFFFFFFFF),
    )


def test_no_built_in_is_left_out() -> None:
    assert {Dense.name} == set(BUILT_IN["encodings"])
