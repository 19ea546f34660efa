"""Every built-in encoding keeps the contract."""

from __future__ import annotations

import struct

import pytest
import zstandard

from gittheta.encodings.delta import Delta
from gittheta.encodings.dense import Dense
from gittheta.encodings.sparse import Sparse
from gittheta.registry import BUILT_IN
from gittheta.testing import EncodingConformance
from tests.contract import test_predictors, test_ternary

pytestmark = pytest.mark.once


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


def _head(kind: str, *values: int) -> bytes:
    return struct.pack(kind, *values)


class TestDelta(EncodingConformance):
    encoding = Delta()
    hostile = (
        b"\0" + _head("<I", len(_BOMB)) + _BOMB,
        b"\0" + _head("<2I", 20, 20) + _BOMB[:40],
        b"\xff" + bytes(600),
        b"\1" + _head("<H", 5) + _head("<I", 25) + bytes(25),
        b"\2" + _head("<2H", 5, 5) + _head("<2I", 25, 25) + bytes(50),
        b"\2" + _head("<2H", 5, 6) + _head("<2I", 25, 25) + bytes(50),
        b"\1" + _head("<H", 0) + _head("<2I", 0xFFFFFFFF, 0xFFFFFFFF),
    )


class TestSparse(EncodingConformance):
    encoding = Sparse()
    hostile = (
        _head("<BIBI", 0, 25, 0, 25) + _head("<I", len(_BOMB)) + _BOMB,
        _head("<BIBI", 0, 0xFFFFFFFF, 0, 0xFFFFFFFF) + bytes(100),
        _head("<BIBI", 0, 1, 0, 1) + _head("<I", 1) + b"\x19" + _head("<I", 1) + b"?",
        _head("<BIBI", 0, 2, 0, 2) + _head("<I", 2) + b"\x00\xff" + _head("<I", 2) + b"??",
        _head("<BIBI", 0, 1, 8, 1) + _head("<2I", 1, 1) + b"\xfe\xff" + _head("<I", 1) + b"?",
        _head("<BIBI", 7, 1, 0, 1) + _head("<I", 1) + b"\x00" + _head("<I", 1) + b"?",
        _head("<BIBI", 0, 0, 0, 0) + _head("<2I", 0, 0),
    )


def test_no_built_in_is_left_out() -> None:
    suites = [suite for module in (test_predictors, test_ternary) for suite in vars(module).values()]
    tested = [getattr(suite, "encoding", getattr(suite, "predictor", None)) for suite in (*suites, *globals().values())]
    assert {plugin.name for plugin in tested if plugin is not None} == set(BUILT_IN["encodings"])
