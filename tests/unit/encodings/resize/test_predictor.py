"""What ``resize`` reads and predicts, and that hostile payloads do no harm."""

from __future__ import annotations

import struct
import tracemalloc

import numpy as np
import pytest
import zstandard
from hypothesis import given, settings
from hypothesis import strategies as st

from gittheta.api import DTYPES, PayloadError, TensorSpec
from tests.support.in_memory import of_bits
from tests.support.resize import (
    RESIZE,
    WHOLE_BYTES,
    bits,
    draw_map,
    like,
    packed,
    packed_map,
    random,
    rearranged,
    shape_of,
    weights,
)

pytestmark = pytest.mark.once


@settings(max_examples=250, deadline=None)
@given(
    dtype=st.sampled_from(WHOLE_BYTES),
    shape=st.lists(st.integers(1, 9), min_size=1, max_size=4),
    data=st.data(),
)
def test_any_range_of_any_map(dtype: str, shape: list[int], data: st.DataObject) -> None:
    base = bits(dtype, *shape, seed=data.draw(st.integers(0, 1 << 32)))
    rows = draw_map(data, shape[0])
    columns = draw_map(data, shape[1]) if len(shape) > 1 else None
    whole = rearranged(base, rows, columns)
    prediction = RESIZE.open(packed(rows, columns), whole.spec, shape_of(base.spec))
    size = DTYPES[dtype].itemsize
    first = data.draw(st.integers(0, whole.spec.elements))
    last = data.draw(st.integers(first, whole.spec.elements))
    base.reads.clear()
    assert prediction.read(first * size, last * size, base) == whole.data[first * size : last * size]
    assert RESIZE.base_spec(whole.spec, shape_of(base.spec)) == base.spec


@pytest.mark.parametrize("shape", [(3000, 700), (5, 300_000), (3000, 70, 10), (700_000,)])
def test_maps_of_tensors_larger_than_a_block(shape: tuple[int, ...]) -> None:
    base = bits("u16", *shape)
    rng = random(1)
    for rows in (None, rng.permutation(shape[0]), np.repeat(np.arange(shape[0]), 2)[5::3], np.full(9, -1)):
        for columns in (None, rng.integers(-1, shape[1], 900), np.arange(shape[1])[7:]) if len(shape) > 1 else (None,):
            whole = rearranged(base, rows, columns)
            prediction = RESIZE.open(packed(rows, columns), whole.spec, shape_of(base.spec))
            at = whole.spec.nbytes // 3 // 2 * 2
            end = min(whole.spec.nbytes, at + 800_000)
            assert prediction.read(at, end, base) == whole.data[at:end]


def test_runs_of_rows_are_read_as_they_lie() -> None:
    base = bits("f16", 1000, 64)
    rows = np.r_[10:500, 700:1000]
    prediction = RESIZE.open(packed(rows, None), TensorSpec("w", DTYPES["f16"], (790, 64)), shape_of(base.spec))
    prediction.read(128 * 7 + 2, 128 * 400 + 6, base)
    prediction.read(128 * 480, 128 * 500, base)
    assert base.reads == [(128 * 17 + 2, 128 * 410 + 6), (128 * 490, 128 * 710)]


def test_rows_from_nowhere_are_zero_and_read_nothing() -> None:
    base = bits("f32", 10, 8)
    prediction = RESIZE.open(
        packed(np.full(20, -1), None), TensorSpec("w", DTYPES["f32"], (20, 8)), shape_of(base.spec)
    )
    assert bytes(prediction.read(4, 600, base)) == bytes(596)
    assert not base.reads


def test_reading_takes_little_memory() -> None:
    base = bits("u8", 2, 1 << 20)
    repeated = TensorSpec("w", DTYPES["u8"], (1 << 20, 1))
    prediction = RESIZE.open(packed(np.ones(1 << 20, int), np.array([77])), repeated, shape_of(base.spec))
    tracemalloc.start()
    assert set(bytes(prediction.read(0, 1 << 20, base))) == {int(base.words[1, 77])}
    assert tracemalloc.get_traced_memory()[1] < 64 << 20
    tracemalloc.stop()


# What harms.

_BOMB = zstandard.ZstdCompressor().compress(bytes(1 << 26))
_ZEROS = zstandard.ZstdCompressor().compress(bytes(300))


@pytest.mark.parametrize(
    "payload",
    [
        b"",
        b"\0",
        b"\2",
        b"\4" + packed_map(np.arange(300)),
        b"\1",
        b"\1\3" + struct.pack("<3I", 300, 300, 300) + bytes(900),
        b"\1\1" + struct.pack("<I", 300) + bytes(299),
        b"\1\1" + struct.pack("<I", 300) + bytes(301),
        b"\1\1" + struct.pack("<I", 299) + bytes(299),
        b"\1\1" + struct.pack("<I", 0xFFFFFFFF) + bytes(300),
        b"\1\1" + struct.pack("<I", len(_BOMB)) + _BOMB,
        b"\1\1" + struct.pack("<I", len(_ZEROS)) + _ZEROS,
        b"\1\1" + struct.pack("<I", 300) + b"\2" * 300,
        bytes(packed(np.r_[0:299, 200], None)),
        bytes(packed(np.r_[0:299, -2], None)),
        bytes(packed(np.full(300, (1 << 31) - 1), None)),
        bytes(packed(np.arange(199), None)),
        bytes(packed(np.zeros(300, int), np.r_[0:49])),
        bytes(packed(np.zeros(300, int), np.r_[0:49, 50])),
        bytes(packed(np.zeros(300, int), np.r_[0:50])) + b"\0",
        bytes(packed(None, np.r_[0:50])),
    ],
)
def test_payloads_that_were_made_to_harm(payload: bytes) -> None:
    with pytest.raises(PayloadError):
        RESIZE.open(memoryview(payload), TensorSpec("w", DTYPES["bf16"], (300, 50)), {"from": "200x50"})


@pytest.mark.parametrize(
    "shape_text",
    [
        *(
            "",
            "0x50",
            "200",
            "200x50x1",
            "0200x50",
            "200x050",
            "200x",
            "x50",
            "200X50",
            "-200x50",
            "+200x50",
            "200 x50",
        ),
        *("200x5_0", "²x50", "٢x50", "200x50\n", "9" * 30 + "x50", f"{1 << 61}x{1 << 61}", "1" * 5000, "200.x50"),
    ],
)
def test_absurd_shapes(shape_text: str) -> None:
    spec = TensorSpec("w", DTYPES["bf16"], (300, 50))
    with pytest.raises(PayloadError):
        RESIZE.base_spec(spec, {"from": shape_text})
    with pytest.raises(PayloadError):
        RESIZE.open(packed(np.arange(300), None), spec, {"from": shape_text})


@pytest.mark.parametrize(
    ("dtype", "shape", "parameters"),
    [
        ("bf16", (300, 50), {}),
        ("bf16", (300, 50), {"from": "300x50", "to": "1"}),
        ("bf16", (300, 50, 3), {"from": "300x50x4"}),
        ("bf16", (), {"from": "1"}),
        ("f4", (300, 50), {"from": "300x50"}),
        ("bf16", (300, 0), {"from": "300x50"}),
    ],
)
def test_manifests_that_ask_for_what_cannot_be(dtype: str, shape: tuple[int, ...], parameters: dict[str, str]) -> None:
    with pytest.raises(PayloadError):
        RESIZE.open(memoryview(b"\0"), TensorSpec("w", DTYPES[dtype], shape), parameters)


def test_maps_that_would_take_too_much() -> None:
    tracemalloc.start()
    bf16 = DTYPES["bf16"]
    backwards = packed(np.arange(300)[::-1], None)
    forwards = packed(np.sort(random(18).integers(0, 300, 300)), None)
    assert RESIZE.open(forwards, TensorSpec("w", bf16, (300, 1 << 30)), {"from": f"300x{1 << 30}"})
    assert RESIZE.open(backwards, TensorSpec("w", bf16, (300, 1 << 10)), {"from": f"{1 << 15}x1024"})
    for payload, shape, shape_text in (
        (backwards, (300, 1 << 10), f"{(1 << 15) + 1}x1024"),
        (backwards, (300, 1 << 30), f"300x{1 << 30}"),
        (packed(None, np.arange(9)), (1, 9, 1 << 30), f"1x8x{1 << 30}"),
        (b"\1\1" + struct.pack("<I", len(_BOMB)) + _BOMB, (1 << 26, 1), "200x1"),
        (b"\1\1" + struct.pack("<I", 20) + bytes(20), ((1 << 22) + 1, 1), "200x1"),
    ):
        with pytest.raises(PayloadError):
            RESIZE.open(memoryview(payload), TensorSpec("w", bf16, shape), {"from": shape_text})
    assert tracemalloc.get_traced_memory()[1] < 16 << 20
    tracemalloc.stop()


@settings(max_examples=80, deadline=None)
@given(data=st.data())
def test_damaged_payloads_are_refused_or_read_all_the_same(data: st.DataObject) -> None:
    base = weights(200, 50)
    new = like(base, np.concatenate([base.words[::-1], base.words[:40]])[:, 3:])
    payload = bytearray(packed(np.r_[199:-1:-1, 0:40], np.arange(3, 50)))
    bit = data.draw(st.integers(0, 8 * len(payload) - 1))
    payload[bit // 8] ^= 1 << bit % 8
    del payload[data.draw(st.integers(len(payload) // 2, 3 * len(payload))) :]
    try:
        prediction = RESIZE.open(memoryview(bytes(payload)), new.spec, shape_of(base.spec))
    except PayloadError:
        return
    assert len(prediction.read(0, new.spec.nbytes, base)) == new.spec.nbytes


def test_the_bytes_of_a_payload() -> None:
    base = of_bits("u8", np.array([[1, 2], [3, 4], [5, 6]], np.uint8))
    #                    rows 1, 2, none, 0; columns 1, 0
    payload = bytes.fromhex("0301 04000000 02 00 07 0001 02000000 02 03")
    prediction = RESIZE.open(memoryview(payload), TensorSpec("w", DTYPES["u8"], (4, 2)), {"from": "3x2"})
    assert list(prediction.read(0, 8, base)) == [4, 3, 6, 5, 0, 0, 2, 1]
