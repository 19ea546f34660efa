"""Tensors whose rows or columns were multiplied by a factor each."""

from __future__ import annotations

import struct
import time

import numpy as np
import pytest
import zstandard
from hypothesis import given, settings
from hypothesis import strategies as st

from gittheta.api import DTYPES, Finding, PayloadError, TensorSpec
from gittheta.encodings.scale.predictor import MAX_FACTORS, Scale
from gittheta.numerics.floats import from_float64, to_float64
from tests.support.dtypes import ARITHMETIC
from tests.support.in_memory import InMemory, of_bits, of_values, values_of

pytestmark = pytest.mark.once

FLOATS = sorted(ARITHMETIC)
SCALE = Scale()


def random(seed: int) -> np.random.Generator:
    return np.random.default_rng(seed)


def weights(dtype: str, *shape: int, seed: int = 0) -> InMemory:
    return of_values(dtype, random(seed).standard_normal(shape) * (0.02 if DTYPES[dtype].bits > 8 else 0.5))


def some_factors(count: int, seed: int = 1, near: float = 0.2) -> np.ndarray:
    return (1 + near * random(seed).standard_normal(count)).astype(np.float32).astype(np.float64)


def scaled(base: InMemory, factors: np.ndarray) -> InMemory:
    with np.errstate(all="ignore"):
        return of_values(base.spec.dtype.name, values_of(base) * factors)


def predicted(found: Finding | None, new: InMemory, base: InMemory) -> np.ndarray:
    assert found is not None
    prediction = SCALE.open(memoryview(found.payload), new.spec, dict(found.parameters))
    return InMemory(new.spec, prediction.read(0, new.spec.nbytes, base)).words


def packed(factors: np.ndarray) -> memoryview:
    """A payload that is not compressed."""
    words = factors.astype("<f4").view("<u4")
    rotated = (words << 1) | (words >> 31)
    planes = [(rotated >> shift & 255).astype(np.uint8).tobytes() for shift in (24, 16, 8, 0)]
    return memoryview(struct.pack("<4I", *[len(words)] * 4) + b"".join(planes))


@pytest.mark.parametrize("axis", [0, 1])
@pytest.mark.parametrize("dtype", FLOATS)
def test_factors_are_found_and_exact(dtype: str, axis: int) -> None:
    base = weights(dtype, 192, 160)
    factors = some_factors(base.spec.shape[axis])
    new = scaled(base, factors if axis else factors[:, None])
    finding = SCALE.find(new, base)
    assert finding is not None
    assert finding.parameters == (("axis", str(axis)),)
    assert np.mean(predicted(finding, new, base) == new.words) > 0.999
    assert len(finding.payload) < 4.2 * len(factors) + 16


@pytest.mark.parametrize("dtype", ["bf16", "f32"])
def test_the_payload_is_a_two_hundredth_of_the_tensor(dtype: str) -> None:
    base = weights(dtype, 1024, 1024)
    new = scaled(base, some_factors(1024)[:, None])
    finding = SCALE.find(new, base)
    assert finding is not None
    assert len(finding.payload) + 41 <= 0.005 * new.spec.nbytes
    assert np.array_equal(predicted(finding, new, base), new.words)


def test_simple_factors_are_found_as_such() -> None:
    base = weights("f16", 64, 512)
    factors = random(3).choice([0.5, 1.0, 1.25, 3.0], 512)
    finding = SCALE.find(scaled(base, factors), base)
    assert finding is not None
    assert len(finding.payload) < 512


def test_rows_that_did_not_change_have_the_factor_one() -> None:
    base = weights("bf16", 96, 256)
    factors = some_factors(96)
    factors[::2] = 1
    new = scaled(base, factors[:, None])
    finding = SCALE.find(new, base)
    assert finding is not None
    opened = SCALE.open(memoryview(finding.payload), new.spec, {"axis": "0"})
    assert np.all(opened.factors[::2] == 1)
    assert np.array_equal(predicted(finding, new, base), new.words)


def test_factors_may_be_negative() -> None:
    base = weights("bf16", 64, 256)
    factors = some_factors(256) * random(2).choice([-1, 1], 256)
    new = scaled(base, factors)
    assert np.array_equal(predicted(SCALE.find(new, base), new, base), new.words)


@pytest.mark.parametrize("axis", [0, 1])
@pytest.mark.parametrize("dtype", ["bf16", "f32", "f8_e4m3"])
def test_other_changes_beside_the_factors_do_not_hide_them(dtype: str, axis: int) -> None:
    base = weights(dtype, 256, 320)
    factors = some_factors(base.spec.shape[axis])
    words = scaled(base, factors if axis else factors[:, None]).words.copy()
    touched = random(4).random(words.shape) < 0.01
    words[touched] ^= words.dtype.type(3)
    new = of_bits(dtype, words)
    assert np.mean(predicted(SCALE.find(new, base), new, base) != words) < 0.03


def test_values_that_are_not_numbers_do_no_harm() -> None:
    values = random(5).standard_normal((64, 256))
    values[3] = 0
    values[5, ::7] = np.nan
    values[6, 3], values[7, 5] = np.inf, -np.inf
    values[8] = np.nan
    values[9] = 1e-42  # subnormal
    values[10] = 3.3e38
    values[:, 11] = 0
    base = of_values("f32", values)
    factors = some_factors(64)[:, None]
    factors[10] = 2  # beyond the largest value, so that nothing tells this factor
    new = scaled(base, factors)
    right = predicted(SCALE.find(new, base), new, base) == new.words
    assert np.delete(right, 10, axis=0).all()


def test_one_factor_for_a_vector() -> None:
    base = weights("bf16", 5000)
    new = scaled(base, np.array([0.75]))
    finding = SCALE.find(new, base)
    assert finding is not None
    assert len(finding.payload) == 20
    assert np.array_equal(predicted(finding, new, base), new.words)


def test_convolutions_are_scaled_by_their_first_dimension() -> None:
    base = weights("f16", 48, 32, 3, 3)
    new = scaled(base, some_factors(48)[:, None, None, None])
    finding = SCALE.find(new, base)
    assert finding is not None
    assert finding.parameters == (("axis", "0"),)
    assert np.array_equal(predicted(finding, new, base), new.words)


@pytest.mark.parametrize(("shape", "axis"), [((3, 1_400_000), 0), ((3, 1_400_000), 1), ((300_000, 9), 1)])
def test_matrices_longer_than_a_block(shape: tuple[int, int], axis: int) -> None:
    base = weights("bf16", *shape)
    factors = some_factors(shape[axis])
    new = scaled(base, factors if axis else factors[:, None])
    finding = SCALE.find(new, base)
    if axis and shape[0] == 3:  # as many bytes of factors as the tensor has
        assert finding is None
        return
    assert np.mean(predicted(finding, new, base) == new.words) > 0.9999
    assert max(end - begin for begin, end in base.reads[:-1]) <= 2 << 20


@pytest.mark.parametrize("dtype", ["bf16", "f32", "f8_e5m2"])
def test_other_changes_are_refused_quickly(dtype: str) -> None:
    base = weights(dtype, 512, 512)
    values = values_of(base)
    few = base.words.copy()
    few[random(6).random(few.shape) < 0.012] += 1
    others = [
        weights(dtype, 512, 512, seed=9),
        of_values(dtype, values + 2e-4 * random(7).standard_normal(values.shape)),
        of_bits(dtype, few),
        of_bits(dtype, base.words[:, ::-1]),
        base,
    ]
    for new in others:
        base.reads.clear()
        before = time.perf_counter()
        assert SCALE.find(new, base) is None
        assert time.perf_counter() - before < 0.2
        assert sum(end - begin for begin, end in base.reads) <= base.spec.nbytes // 4


@pytest.mark.parametrize("shape", [(), (0,), (0, 3), (3, 0), (1,), (1, 1), (7,), (2, 3), (1000, 1), (2, 500)])
def test_what_is_too_small_to_gain_by_it_does_no_harm(shape: tuple[int, ...]) -> None:
    base = weights("f32", *shape)
    new = scaled(base, np.array(1.5))
    finding = SCALE.find(new, base)
    assert (finding is None) == (base.spec.elements < 8)
    if finding:
        assert np.array_equal(predicted(finding, new, base), new.words)


def test_other_shapes_and_dtypes_are_refused() -> None:
    base = weights("f32", 64, 64)
    assert SCALE.find(weights("f32", 64, 65), base) is None
    assert SCALE.find(weights("bf16", 64, 64), base) is None
    integers = of_bits("i32", np.arange(4096, dtype="<i4").reshape(64, 64))
    assert SCALE.find(integers, integers) is None


def test_what_is_found_is_the_same_each_time() -> None:
    base = weights("bf16", 256, 256)
    new = scaled(base, some_factors(256)[:, None])
    assert SCALE.find(new, base) == SCALE.find(new, base)


@settings(max_examples=80, deadline=None)
@given(
    dtype=st.sampled_from(FLOATS),
    axis=st.sampled_from([0, 1]),
    shape=st.lists(st.integers(1, 9), min_size=2, max_size=4),
    data=st.data(),
)
def test_any_range_is_the_base_times_the_factors(dtype: str, axis: int, shape: list[int], data: st.DataObject) -> None:
    rng = random(data.draw(st.integers(0, 1 << 32)))
    size = DTYPES[dtype].itemsize
    base = of_bits(dtype, rng.integers(0, 256, [*shape, size], dtype=np.uint8).view(f"<u{size}")[..., 0])
    count = shape[-1] if axis else shape[0]
    factors = rng.choice([0.0, -1.0, 1.0, 0.3, 1e30, 1e-30, 3.4e38], count).astype(np.float32)
    wide = factors.astype(np.float64) if axis else factors.astype(np.float64).reshape(-1, *[1] * (len(shape) - 1))
    with np.errstate(all="ignore"):
        whole = bytes(from_float64((values_of(base) * wide).ravel(), base.spec.dtype))
    opened = SCALE.open(packed(factors), base.spec, {"axis": str(axis)})
    first = data.draw(st.integers(0, base.spec.elements))
    last = data.draw(st.integers(first, base.spec.elements))
    assert bytes(opened.read(first * size, last * size, base)) == whole[first * size : last * size]


def test_a_range_of_many_chunks() -> None:
    base = weights("bf16", 37, 10_001)
    for axis in (0, 1):
        factors = some_factors(base.spec.shape[axis])
        whole = scaled(base, factors if axis else factors[:, None])
        opened = SCALE.open(packed(factors), base.spec, {"axis": str(axis)})
        assert opened.read(0, base.spec.nbytes, base) == whole.data
        assert opened.read(20_002, 700_002, base) == whole.data[20_002:700_002]


def test_the_bytes_of_a_payload() -> None:
    payload = bytes.fromhex("01000000 01000000 01000000 01000000 7f 40 00 01".replace(" ", ""))
    spec = TensorSpec("w", DTYPES["f16"], (1, 2))
    base = of_values("f16", np.array([[2.0, -1.0]]))
    opened = SCALE.open(memoryview(payload), spec, {"axis": "0"})  # -1.25
    assert to_float64(opened.read(0, 4, base), spec.dtype).tolist() == [-2.5, 1.25]


_BOMB = zstandard.ZstdCompressor().compress(bytes(1 << 26))


@pytest.mark.parametrize(
    "payload",
    [
        b"",
        b"\0" * 15,
        struct.pack("<4I", 6, 6, 6, 6) + b"\1" * 23,
        struct.pack("<4I", 6, 6, 6, 6) + b"\1" * 25,
        struct.pack("<4I", 0xFFFFFFFF, 0, 0, 0) + b"\1" * 24,
        struct.pack("<4I", 7, 6, 6, 6) + b"\1" * 25,
        struct.pack("<4I", 5, 5, 5, 5) + b"\1" * 20,
        struct.pack("<4I", len(_BOMB), 6, 6, 6) + _BOMB + b"\1" * 18,
        bytes(packed(np.array([1, 1, np.inf, 1, 1, 1]))),
        bytes(packed(np.array([1, 1, 1, 1, np.nan, 1]))),
    ],
)
def test_payloads_that_were_made_to_harm(payload: bytes) -> None:
    with pytest.raises(PayloadError):
        SCALE.open(memoryview(payload), TensorSpec("w", DTYPES["bf16"], (6, 50)), {"axis": "0"})


@pytest.mark.parametrize(
    ("dtype", "shape", "parameters"),
    [
        ("f32", (4, 4), {}),
        ("f32", (4, 4), {"axis": "2"}),
        ("f32", (4, 4), {"axis": "00"}),
        ("f32", (4, 4), {"axis": "0", "more": "1"}),
        ("f32", (16,), {"axis": "1"}),
        ("f32", (0, 4), {"axis": "0"}),
        ("i32", (4, 4), {"axis": "0"}),
        ("f4", (4, 4), {"axis": "0"}),
        ("f8_e8m0", (4, 4), {"axis": "0"}),
        ("f32", (MAX_FACTORS + 1, 1 << 30), {"axis": "0"}),
        ("f32", (1 << 30, MAX_FACTORS + 1), {"axis": "1"}),
    ],
)
def test_manifests_that_ask_for_what_cannot_be(dtype: str, shape: tuple[int, ...], parameters: dict[str, str]) -> None:
    spec = TensorSpec("w", DTYPES[dtype], shape)
    with pytest.raises(PayloadError):
        SCALE.base_spec(spec, parameters)
    with pytest.raises(PayloadError):
        SCALE.open(memoryview(bytes(16)), spec, parameters)


def test_the_base_is_of_the_same_spec() -> None:
    spec = TensorSpec("w", DTYPES["f32"], (4, 4))
    assert SCALE.base_spec(spec, {"axis": "1"}) == spec


@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_damaged_payloads_are_refused_or_read_all_the_same(data: st.DataObject) -> None:
    base = weights("bf16", 64, 64)
    finding = SCALE.find(scaled(base, some_factors(64)[:, None]), base)
    assert finding is not None
    payload = bytearray(finding.payload)
    bit = data.draw(st.integers(0, 8 * len(payload) - 1))
    payload[bit // 8] ^= 1 << bit % 8
    del payload[data.draw(st.integers(len(payload) // 2, 2 * len(payload))) :]
    try:
        opened = SCALE.open(memoryview(bytes(payload)), base.spec, {"axis": "0"})
    except PayloadError:
        return
    assert len(opened.read(0, base.spec.nbytes, base)) == base.spec.nbytes
