"""``ternary``: what it applies to, and the number that it finds out by itself."""

from __future__ import annotations

import struct

import numpy as np
import pytest

from gittheta.api import Dtype, Tensor
from gittheta.encodings.ternary import Ternary
from gittheta.errors import PayloadError
from gittheta.model import BLOCK_ELEMENTS, DTYPES
from gittheta.numerics.floats import as_words, from_float64, to_float64
from gittheta.testing import block_values, tensor
from tests.support.dtypes import ARITHMETIC

FLOATS = [DTYPES[name] for name in sorted(ARITHMETIC)]


def _shifted(base: bytes, dtype: Dtype, step: float, seed: int, density: float = 0.05) -> bytes:
    """Some elements moved up or down by a step, rounded to float32 before."""
    rng = np.random.default_rng(seed)
    words = as_words(memoryview(base), dtype.itemsize).copy()
    positions = np.flatnonzero(rng.random(len(words)) < density)
    moves = rng.choice([-1.0, 1.0], len(positions)) * float(np.float32(step))
    values = to_float64(words[positions].view(np.uint8).data, dtype) + moves
    words[positions] = as_words(from_float64(values, dtype), dtype.itemsize)
    return words.tobytes()


def _encoded(base: bytes, new: bytes, dtype: Dtype) -> bytes | None:
    """The payload; if there is one, it was decoded again and is right."""
    old, fresh = tensor(dtype, base), tensor(dtype, new)
    payload = Ternary().over(old).encode(fresh)
    if payload is not None:
        assert bytes(Ternary().over(old).decode(memoryview(payload), fresh.spec).data) == new
    return payload


def _f32(*values: float) -> bytes:
    return np.array(values, "<f4").tobytes()


@pytest.mark.parametrize("dtype", FLOATS, ids=lambda dtype: dtype.name)
def test_any_number_is_found(dtype: Dtype) -> None:
    """Far smaller than the values, about as large, far larger; few changes or many."""
    rng = np.random.default_rng(1)
    base = block_values(dtype, 20_000, 1)
    for seed in range(40):
        step = float(10 ** rng.uniform(-6, 1))
        new = _shifted(base, dtype, step, seed, density=float(rng.choice([0.0005, 0.05, 0.9])))
        payload = _encoded(base, new, dtype)
        assert payload is not None, f"{dtype.name}, {step}"
        assert (payload == b"") == (new == base)


def test_the_very_number_is_found_if_the_values_tell_it() -> None:
    base = block_values(DTYPES["f32"], 50_000, 2)
    payload = _encoded(base, _shifted(base, DTYPES["f32"], 0.000205402, 3), DTYPES["f32"])
    assert payload is not None
    assert payload[:4] == struct.pack("<f", 0.000205402)


@pytest.mark.parametrize("name", ["bf16", "f32"])
def test_the_bytes_of_a_full_block(name: str) -> None:
    """Entropy of which element moved (0.29 bits an element at 5 %) and whither (one bit each), within a tenth."""
    base = block_values(DTYPES[name], BLOCK_ELEMENTS, 4)
    new = _shifted(base, DTYPES[name], 0.000205402, 5)
    changed = int(np.count_nonzero(as_words(memoryview(base), 2) != as_words(memoryview(new), 2))) / BLOCK_ELEMENTS
    if name == "f32":
        changed = 0.05
    bits = -changed * np.log2(changed) - (1 - changed) * np.log2(1 - changed) + changed
    payload = _encoded(base, new, DTYPES[name])
    assert payload is not None
    assert len(payload) < 1.1 * bits * BLOCK_ELEMENTS / 8


def test_what_moved_by_several_numbers_is_none() -> None:
    for name in ("f32", "bf16", "f16"):
        dtype = DTYPES[name]
        base = block_values(dtype, 30_000, 6)
        change = np.random.default_rng(7).normal(0, 0.0002, 30_000)
        tuned = bytes(from_float64(to_float64(memoryview(base), dtype) + change, dtype))
        assert _encoded(base, tuned, dtype) is None
        late = bytearray(_shifted(base, dtype, 0.01, 8))
        late[-dtype.itemsize :] = from_float64(to_float64(memoryview(base), dtype)[-1:] + 0.02, dtype)
        assert _encoded(base, bytes(late), dtype) is None


def test_one_bit_more_is_none() -> None:
    base = block_values(DTYPES["f32"], 30_000, 9)
    new = bytearray(_shifted(base, DTYPES["f32"], 0.01, 10))
    assert _encoded(base, bytes(new), DTYPES["f32"]) is not None
    new[4 * 25_000] ^= 1
    assert _encoded(base, bytes(new), DTYPES["f32"]) is None


def test_equal_blocks_need_no_bytes() -> None:
    for dtype in FLOATS:
        assert _encoded(block_values(dtype, 100), block_values(dtype, 100), dtype) == b""
    nans = b"\1\0\xc0\x7f\xff\xff\xff\xff\0\0\0\x80"
    assert _encoded(nans, nans, DTYPES["f32"]) == b""


def test_zeros_infinities_and_the_largest_values() -> None:
    """Zeros of either sign, across zero, to infinity, and nothing of an infinity or a NaN."""
    f32 = DTYPES["f32"]
    assert _encoded(_f32(0.0, -0.0, 1.0, -1.0), _f32(1.0, 1.0, 0.0, 0.0), f32) is not None
    assert _encoded(_f32(-0.0, 5.0), _f32(0.5, 4.5), f32) is not None
    assert _encoded(_f32(1.0, 1.0), _f32(-0.0, 1.0), f32) is None
    assert _encoded(_f32(3e38, -3e38, 0.0), _f32(np.inf, -np.inf, 1e38), f32) is not None
    assert _encoded(_f32(np.inf, 1.0), _f32(1.0, 2.0), f32) is None
    assert _encoded(_f32(np.nan, 1.0), _f32(1.0, 2.0), f32) is None
    assert _encoded(_f32(1.0), _f32(np.nan), f32) is None
    tiny = np.array([1, 0x80000001, 0], "<u4").tobytes()
    assert _encoded(tiny, np.array([3, 0x80000003, 2], "<u4").tobytes(), f32) is not None
    half = np.array([0x8000, 0x3C00], "<u2").tobytes()
    assert _encoded(half, np.array([0x0000, 0x3C00], "<u2").tobytes(), DTYPES["f16"]) is not None


def test_dtypes_without_arithmetic_and_other_bases() -> None:
    ternary = Ternary()
    for dtype in DTYPES.values():
        if dtype.name not in ARITHMETIC:
            values = tensor(dtype, block_values(dtype, 64))
            assert ternary.over(values).encode(values) is None
    short, long = tensor(DTYPES["f32"], bytes(8)), tensor(DTYPES["f32"], bytes(12))
    assert ternary.over(long).encode(short) is None
    assert ternary.over(None).encode(short) is None
    for base in (long, None):
        with pytest.raises(PayloadError, match="base"):
            ternary.over(base).decode(memoryview(b""), short.spec)


def test_an_infinite_or_negative_number_is_refused() -> None:
    base = tensor(DTYPES["f32"], _f32(1, 2, 3))
    payload = Ternary().over(base).encode(tensor(DTYPES["f32"], _f32(1, 3, 3)))
    assert payload is not None
    for number in (np.inf, -1.0, 0.0, np.nan):
        damaged = struct.pack("<f", number) + payload[4:]
        with pytest.raises(PayloadError, match="move by"):
            Ternary().over(base).decode(memoryview(damaged), base.spec)


def test_literal_bytes() -> None:
    """As in docs/spec/encodings/ternary.md: positions 1 and 4, the first up, the second down, by a half."""
    base, new = _f32(1, 1, 1, 1, 1, 1), _f32(1, 1.5, 1, 1, 0.5, 1)
    payload = struct.pack("<fI", 0.5, 2) + struct.pack("<BI", 0, 2) + struct.pack("<I", 2) + b"\1\2"
    payload += struct.pack("<I", 1) + b"\1"
    back = Ternary().over(tensor(DTYPES["f32"], base)).decode(memoryview(payload), tensor(DTYPES["f32"], base).spec)
    assert bytes(back.data) == new
    assert _encoded(base, new, DTYPES["f32"]) == payload


def test_of_a_sparsified_tensor_with_unchanged_elements() -> None:
    """A step below half a unit in the last place moves small elements only; the others count as unchanged."""
    dtype = DTYPES["bf16"]
    base = block_values(dtype, 50_000, 11)
    new = _shifted(base, dtype, 1e-5, 12, density=0.5)
    moved = np.count_nonzero(as_words(memoryview(new), 2) != as_words(memoryview(base), 2))
    assert 500 < moved < 15_000
    payload = _encoded(base, new, dtype)
    assert payload is not None
    assert struct.unpack_from("<I", payload, 4)[0] == moved


def test_inputs_that_are_slices() -> None:
    base = block_values(DTYPES["bf16"], 100, 13)
    new = _shifted(base, DTYPES["bf16"], 0.01, 14, 0.5)
    spec = tensor(DTYPES["bf16"], new).spec
    inside = [memoryview(b"?" + data + b"?")[1:-1] for data in (new, base)]
    payload = Ternary().over(Tensor(spec, inside[1])).encode(Tensor(spec, inside[0]))
    assert payload == _encoded(base, new, DTYPES["bf16"])
