"""Tensors whose rows or columns were appended, trimmed, permuted or duplicated."""

from __future__ import annotations

import struct
import time
import tracemalloc

import numpy as np
import pytest
import zstandard
from hypothesis import given, settings
from hypothesis import strategies as st

from gittheta.api import DTYPES, Finding, PayloadError, TensorSpec
from gittheta.encodings.resize import search
from gittheta.encodings.resize.predictor import Rearranged, Resize
from gittheta.model import flat_spec
from tests.support.in_memory import InMemory, of_bits, of_values, values_of

RESIZE = Resize()
WHOLE_BYTES = sorted(name for name, dtype in DTYPES.items() if dtype.bits % 8 == 0)
Indices = np.ndarray


def random(seed: int) -> np.random.Generator:
    return np.random.default_rng(seed)


def bits(dtype: str, *shape: int, seed: int = 0) -> InMemory:
    """Any bits at all."""
    size = DTYPES[dtype].itemsize
    return of_bits(dtype, random(seed).integers(0, 256, (*shape, size), dtype=np.uint8).view(f"<u{size}")[..., 0])


def weights(*shape: int, dtype: str = "bf16", seed: int = 0) -> InMemory:
    return of_values(dtype, random(seed).standard_normal(shape) * 0.02)


def like(tensor: InMemory, words: np.ndarray) -> InMemory:
    return of_bits(tensor.spec.dtype.name, words)


def rearranged(base: InMemory, rows: Indices | None, columns: Indices | None) -> InMemory:
    """What the two maps say, done plainly."""
    words = base.words
    for axis, found in enumerate((rows, columns)):
        if found is not None:
            shape = list(words.shape)
            shape[axis] = 1
            words = np.concatenate([words, np.zeros(shape, words.dtype)], axis=axis).take(found, axis=axis)
    return like(base, words)


def packed_map(found: Indices) -> bytes:
    """A map that is not compressed."""
    steps = np.diff(found, prepend=-1) - 1
    folded = np.where(steps < 0, -2 * steps - 1, 2 * steps).astype("<u4")
    planes = [(folded >> shift & 255).astype(np.uint8).tobytes() for shift in (24, 16, 8, 0)]
    return b"\4" + struct.pack("<4I", *[len(found)] * 4) + b"".join(planes)


def packed(rows: Indices | None, columns: Indices | None) -> memoryview:
    flags = (rows is not None) + 2 * (columns is not None)
    return memoryview(bytes((flags,)) + b"".join(packed_map(found) for found in (rows, columns) if found is not None))


def shape_of(spec: TensorSpec) -> dict[str, str]:
    return {"from": "x".join(map(str, spec.shape))}


def opened(found: Finding | None, new: InMemory) -> Rearranged:
    assert found is not None
    return RESIZE.open(memoryview(found.payload), new.spec, dict(found.parameters))


def predicted(found: Finding | None, new: InMemory, base: InMemory) -> np.ndarray:
    assert found is not None
    assert RESIZE.base_spec(new.spec, dict(found.parameters)).shape == base.spec.shape
    return InMemory(new.spec, opened(found, new).read(0, new.spec.nbytes, base)).words


maps = st.sampled_from(["same", "trimmed", "grown", "permuted", "repeated", "any", "none"])


def draw_map(data: st.DataObject, count: int) -> Indices | None:
    kind = data.draw(maps)
    rng = random(data.draw(st.integers(0, 1 << 32)))
    found = {
        "same": np.arange(count),
        "trimmed": np.flatnonzero(rng.random(count) < 0.8),
        "grown": np.insert(np.arange(count), rng.integers(0, count + 1, 3), -1),
        "permuted": rng.permutation(count),
        "repeated": np.sort(rng.integers(0, count, count + 3)),
        "any": rng.integers(-1, count, int(rng.integers(1, 3 * count))),
    }.get(kind)
    return found if found is None or len(found) else np.array([count - 1])


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


# What is found.


@pytest.mark.parametrize("axis", [0, 1])
@pytest.mark.parametrize("dtype", WHOLE_BYTES)
def test_appended_and_trimmed(dtype: str, axis: int) -> None:
    base = bits(dtype, 96, 80)
    more = np.concatenate([base.words, bits(dtype, 96, 80, seed=1).words.take(np.arange(10), axis=axis)], axis=axis)
    rows_or_columns = np.arange(base.spec.shape[axis])
    for words in (
        more,
        base.words.take(rows_or_columns[:-7], axis=axis),
        np.delete(base.words, [0, 30, 31], axis=axis),
    ):
        new = like(base, words)
        found = RESIZE.find(new, base)
        assert found is not None
        assert len(found.payload) < 100
        right = predicted(found, new, base) == new.words
        assert right.take(rows_or_columns[: new.spec.shape[axis]][: 80 - 7], axis=axis).all()


@pytest.mark.parametrize("axis", [0, 1])
@pytest.mark.parametrize("shape", [(300, 200), (64, 48, 3, 3), (40, 30, 5)])
def test_permuted(shape: tuple[int, ...], axis: int) -> None:
    base = weights(*shape)
    new = like(base, base.words.take(random(2).permutation(shape[axis]), axis=axis))
    found = RESIZE.find(new, base)
    assert np.array_equal(predicted(found, new, base), new.words)
    assert (opened(found, new).columns is None) == (axis == 0)
    assert found == RESIZE.find(new, base)


@settings(max_examples=60, deadline=None)
@given(axis=st.sampled_from([0, 1]), inner=st.sampled_from([(), (3,), (2, 2)]), data=st.data())
def test_any_rows_or_columns_are_found(axis: int, inner: tuple[int, ...], data: st.DataObject) -> None:
    base = bits("u16", 40, 48, *inner, seed=data.draw(st.integers(0, 1 << 32)))
    found = draw_map(data, base.spec.shape[axis])
    if found is None or len(found) == base.spec.shape[axis] or np.mean(found >= 0) < 0.8 or len(found) < 30:
        return
    new = rearranged(base, *((None, found) if axis else (found, None)))
    assert np.array_equal(predicted(RESIZE.find(new, base), new, base), new.words)


def test_a_permutation_costs_two_bytes_a_row() -> None:
    base = weights(32_000, 16, dtype="f32")
    new = like(base, base.words[random(3).permutation(32_000)])
    found = RESIZE.find(new, base)
    assert found is not None
    assert len(found.payload) < 2.1 * 32_000
    assert np.array_equal(predicted(found, new, base), new.words)


def test_runs_cost_next_to_nothing() -> None:
    base = weights(20_000, 32)
    new = like(base, np.concatenate([base.words[:700], base.words[900:], weights(300, 32, seed=5).words]))
    found = RESIZE.find(new, base)
    assert found is not None
    assert len(found.payload) < 100


@pytest.mark.parametrize("first_axis", [0, 1])
def test_rows_and_columns_at_once(first_axis: int) -> None:
    base = weights(120, 100)
    words = np.pad(base.words, ((0, 9), (0, 7)))
    words[120:], words[:, 100:] = weights(9, 107, seed=6).words, weights(129, 7, seed=7).words
    moved = words[np.r_[5:129, 0:5]] if first_axis == 0 else words[:, np.r_[5:107, 0:5]]
    new = like(base, moved)
    assert np.mean(predicted(RESIZE.find(new, base), new, base) == moved) > 0.8
    trimmed = like(base, base.words[:-3, :-4])
    assert np.array_equal(predicted(RESIZE.find(trimmed, base), trimmed, base), trimmed.words)
    both = like(base, np.concatenate([base.words[4:], base.words[9:10]])[:, :-4])
    assert np.array_equal(predicted(RESIZE.find(both, base), both, base), both.words)


@pytest.mark.parametrize("dtype", ["bf16", "f16", "f32"])
def test_layers_widened_without_changing_the_function(dtype: str) -> None:
    base = weights(128, 96, dtype=dtype)
    copies = random(8).permutation(96)[:20]
    share = np.ones(96)
    share[copies] = 2
    incoming = like(base, np.concatenate([base.words, base.words[:50]]))
    assert np.array_equal(predicted(RESIZE.find(incoming, base), incoming, base), incoming.words)
    values = values_of(base)
    outgoing = of_values(dtype, np.concatenate([values / share, values[:, copies] / 2], axis=1))
    halves = of_values(dtype, values / 2).words
    for new in (outgoing, like(base, np.concatenate([outgoing.words, outgoing.words[:30]]))):
        found = RESIZE.find(new, base)
        prediction = predicted(found, new, base)
        assert np.array_equal(prediction[:128, 96:], base.words[:, copies])
        assert np.array_equal(new.words[:128, 96:], halves[:, copies])
        assert opened(found, new).columns is not None
        assert np.array_equal(opened(found, new).columns, np.r_[0:96, copies])


def test_rows_that_moved_on_after_they_were_resized_are_told_by_their_place() -> None:
    base = weights(300, 64)
    tuned = values_of(base) + 2e-4 * random(9).standard_normal((300, 64))
    grown = of_values("bf16", np.concatenate([tuned, values_of(weights(10, 64, seed=10))]))
    for new, rows in ((grown, np.r_[0:300, [-1] * 10]), (of_values("bf16", tuned[:280]), np.arange(280))):
        assert np.array_equal(opened(RESIZE.find(new, base), new).rows, rows)
    both = of_values("bf16", values_of(grown)[:, :60])
    assert np.array_equal(opened(RESIZE.find(both, base), both).columns, np.arange(60))


def test_a_few_tuned_rows_among_moved_ones_are_told_by_their_neighbours() -> None:
    base = weights(300, 64)
    values = values_of(base)
    values[[0, 50, 51, 299]] *= 1.03
    new = of_values("bf16", np.delete(values, [20, 21], axis=0))
    assert np.array_equal(opened(RESIZE.find(new, base), new).rows, np.delete(np.arange(300), [20, 21]))


def test_equal_rows_stay_in_their_runs() -> None:
    words = weights(4000, 32).words.copy()
    words[1000:3000] = words[1000]
    words[3500:] = 0
    base = of_bits("bf16", words)
    new = like(base, np.concatenate([words[5:], words[:1]]))
    found = RESIZE.find(new, base)
    assert found is not None
    assert len(found.payload) < 100
    assert np.array_equal(predicted(found, new, base), new.words)


@pytest.mark.parametrize(("old", "fresh"), [((1000,), (1050,)), ((1000,), (900,)), ((1000, 1), (1200, 1))])
def test_vectors(old: tuple[int, ...], fresh: tuple[int, ...]) -> None:
    base = weights(*old)
    shared = min(old[0], fresh[0])
    words = weights(*fresh, seed=11).words.copy()
    words[:shared] = base.words[:shared]
    new = like(base, words)
    found = RESIZE.find(new, base)
    assert found is not None
    assert len(found.payload) < 100
    assert np.array_equal(predicted(found, new, base)[:shared], words[:shared])


def test_a_large_base_is_read_forwards(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(search, "LARGE", 10_000)
    base = weights(300, 64)
    words = np.concatenate([base.words[7:], base.words[:5]])
    words[0] = base.words[299]
    new = like(base, words)
    rows = opened(RESIZE.find(new, base), new).rows
    assert rows is not None
    assert np.count_nonzero(rows >= 0) > 280
    assert np.all(np.diff(rows[rows >= 0]) >= 0)
    assert RESIZE.find(like(base, base.words[random(12).permutation(300)]), base) is None


@pytest.mark.parametrize("dtype", ["bf16", "f32", "i8"])
def test_other_changes_are_refused_quickly(dtype: str) -> None:
    base = bits(dtype, 1024, 512) if dtype == "i8" else weights(1024, 512, dtype=dtype)
    few = base.words.copy()
    few[random(13).random(few.shape) < 0.012] += 1
    some_rows = base.words.copy()
    some_rows[500:520] = bits(dtype, 20, 512, seed=14).words
    others = [bits(dtype, 1024, 512, seed=15), like(base, few), like(base, some_rows), base]
    if dtype != "i8":
        others.append(of_values(dtype, values_of(base) + 2e-4 * random(16).standard_normal((1024, 512))))
    for new in others:
        before = time.perf_counter()
        assert RESIZE.find(new, base) is None
        assert time.perf_counter() - before < 0.2
    for shape in ((1030, 512), (1024, 500), (900, 600)):
        assert RESIZE.find(bits(dtype, *shape, seed=17), base) is None


@pytest.mark.parametrize(
    ("old", "fresh"),
    [
        ((4, 4), (4, 4, 1)),
        ((4, 4, 2), (5, 4, 3)),
        ((0, 4), (4, 4)),
        ((4, 4), (4, 0)),
        ((), ()),
        ((0,), (3,)),
        ((1,), (2,)),
        ((2, 2), (2, 2)),
        ((1, 1), (2, 1)),
    ],
)
def test_what_cannot_be_or_does_not_pay_is_refused(old: tuple[int, ...], fresh: tuple[int, ...]) -> None:
    assert RESIZE.find(weights(*fresh), weights(*old)) is None


def test_other_dtypes_are_refused() -> None:
    assert RESIZE.find(weights(90, 80), weights(80, 80, dtype="f16")) is None
    packed_nibbles = TensorSpec("w", DTYPES["f4"], (80, 80))
    base = InMemory(packed_nibbles, memoryview(bytes(flat_spec(packed_nibbles, packed_nibbles.nbytes).nbytes)))
    assert RESIZE.find(InMemory(TensorSpec("w", DTYPES["f4"], (70, 80)), base.data[:2800]), base) is None


@pytest.mark.parametrize("value", [0, 0x3F80])
def test_constant_tensors_are_no_trouble(value: int) -> None:
    base = of_bits("bf16", np.full((3000, 100), value, "<u2"))
    for shape in ((3100, 100), (3000, 90), (2900, 120)):
        new = of_bits("bf16", np.full(shape, value, "<u2"))
        found = RESIZE.find(new, base)
        if found:
            assert np.mean(predicted(found, new, base) == value) > 0.7


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
    "told",
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
def test_absurd_shapes(told: str) -> None:
    spec = TensorSpec("w", DTYPES["bf16"], (300, 50))
    with pytest.raises(PayloadError):
        RESIZE.base_spec(spec, {"from": told})
    with pytest.raises(PayloadError):
        RESIZE.open(packed(np.arange(300), None), spec, {"from": told})


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
    for payload, shape, told in (
        (backwards, (300, 1 << 10), f"{(1 << 15) + 1}x1024"),
        (backwards, (300, 1 << 30), f"300x{1 << 30}"),
        (packed(None, np.arange(9)), (1, 9, 1 << 30), f"1x8x{1 << 30}"),
        (b"\1\1" + struct.pack("<I", len(_BOMB)) + _BOMB, (1 << 26, 1), "200x1"),
        (b"\1\1" + struct.pack("<I", 20) + bytes(20), ((1 << 22) + 1, 1), "200x1"),
    ):
        with pytest.raises(PayloadError):
            RESIZE.open(memoryview(payload), TensorSpec("w", bf16, shape), {"from": told})
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
