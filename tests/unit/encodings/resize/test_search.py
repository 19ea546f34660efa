"""Which rows and columns were appended, trimmed, permuted or duplicated is found."""

from __future__ import annotations

import time
import tracemalloc

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gittheta.api import DTYPES, TensorSpec
from gittheta.encodings.resize import search
from gittheta.encodings.resize.predictor import Resize
from gittheta.model import flat_spec
from tests.support.in_memory import InMemory, of_bits, of_values, values_of
from tests.support.resize import (
    RESIZE,
    WHOLE_BYTES,
    bits,
    draw_map,
    like,
    mapped,
    opened,
    predicted,
    random,
    rearranged,
    weights,
)

pytestmark = pytest.mark.once

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
        finding = RESIZE.find(new, base)
        assert finding is not None
        assert len(finding.payload) < 100
        right = predicted(finding, new, base) == new.words
        assert right.take(rows_or_columns[: new.spec.shape[axis]][: 80 - 7], axis=axis).all()


@pytest.mark.parametrize("axis", [0, 1])
@pytest.mark.parametrize("shape", [(300, 200), (64, 48, 3, 3), (40, 30, 5)])
def test_permuted(shape: tuple[int, ...], axis: int) -> None:
    base = weights(*shape)
    new = like(base, base.words.take(random(2).permutation(shape[axis]), axis=axis))
    finding = RESIZE.find(new, base)
    assert np.array_equal(predicted(finding, new, base), new.words)
    assert (opened(finding, new).columns is None) == (axis == 0)
    assert finding == RESIZE.find(new, base)


@settings(max_examples=60, deadline=None)
@given(axis=st.sampled_from([0, 1]), inner=st.sampled_from([(), (3,), (2, 2)]), data=st.data())
def test_any_rows_or_columns_are_found(axis: int, inner: tuple[int, ...], data: st.DataObject) -> None:
    base = bits("u16", 40, 48, *inner, seed=data.draw(st.integers(0, 1 << 32)))
    result = draw_map(data, base.spec.shape[axis])
    if result is None or len(result) == base.spec.shape[axis] or np.mean(result >= 0) < 0.8 or len(result) < 30:
        return
    new = rearranged(base, *((None, result) if axis else (result, None)))
    assert np.array_equal(predicted(RESIZE.find(new, base), new, base), new.words)


def test_a_permutation_costs_two_bytes_a_row() -> None:
    base = weights(32_000, 16, dtype="f32")
    new = like(base, base.words[random(3).permutation(32_000)])
    finding = RESIZE.find(new, base)
    assert finding is not None
    assert len(finding.payload) < 2.1 * 32_000
    assert np.array_equal(predicted(finding, new, base), new.words)


def test_runs_cost_next_to_nothing() -> None:
    base = weights(20_000, 32)
    new = like(base, np.concatenate([base.words[:700], base.words[900:], weights(300, 32, seed=5).words]))
    finding = RESIZE.find(new, base)
    assert finding is not None
    assert len(finding.payload) < 100


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
        finding = RESIZE.find(new, base)
        prediction = predicted(finding, new, base)
        assert np.array_equal(prediction[:128, 96:], base.words[:, copies])
        assert np.array_equal(new.words[:128, 96:], halves[:, copies])
        assert np.array_equal(mapped(opened(finding, new).columns), np.r_[0:96, copies])


def test_rows_that_moved_on_after_they_were_resized_are_found_by_their_place() -> None:
    base = weights(300, 64)
    tuned = values_of(base) + 2e-4 * random(9).standard_normal((300, 64))
    grown = of_values("bf16", np.concatenate([tuned, values_of(weights(10, 64, seed=10))]))
    for new, rows in ((grown, np.r_[0:300, [-1] * 10]), (of_values("bf16", tuned[:280]), np.arange(280))):
        assert np.array_equal(mapped(opened(RESIZE.find(new, base), new).rows), rows)
    both = of_values("bf16", values_of(grown)[:, :60])
    assert np.array_equal(mapped(opened(RESIZE.find(both, base), both).columns), np.arange(60))


def test_a_few_tuned_rows_among_moved_ones_are_found_by_their_neighbours() -> None:
    base = weights(300, 64)
    values = values_of(base)
    values[[0, 50, 51, 299]] *= 1.03
    new = of_values("bf16", np.delete(values, [20, 21], axis=0))
    assert np.array_equal(mapped(opened(RESIZE.find(new, base), new).rows), np.delete(np.arange(300), [20, 21]))


def test_equal_rows_stay_in_their_runs() -> None:
    words = weights(4000, 32).words.copy()
    words[1000:3000] = words[1000]
    words[3500:] = 0
    base = of_bits("bf16", words)
    new = like(base, np.concatenate([words[5:], words[:1]]))
    finding = RESIZE.find(new, base)
    assert finding is not None
    assert len(finding.payload) < 100
    assert np.array_equal(predicted(finding, new, base), new.words)


@pytest.mark.parametrize(("old", "fresh"), [((1000,), (1050,)), ((1000,), (900,)), ((1000, 1), (1200, 1))])
def test_vectors(old: tuple[int, ...], fresh: tuple[int, ...]) -> None:
    base = weights(*old)
    shared = min(old[0], fresh[0])
    words = weights(*fresh, seed=11).words.copy()
    words[:shared] = base.words[:shared]
    new = like(base, words)
    finding = RESIZE.find(new, base)
    assert finding is not None
    assert len(finding.payload) < 100
    assert np.array_equal(predicted(finding, new, base)[:shared], words[:shared])


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
def test_constant_tensors_do_no_harm(value: int) -> None:
    base = of_bits("bf16", np.full((3000, 100), value, "<u2"))
    for shape in ((3100, 100), (3000, 90), (2900, 120)):
        new = of_bits("bf16", np.full(shape, value, "<u2"))
        finding = RESIZE.find(new, base)
        if finding:
            assert np.mean(predicted(finding, new, base) == value) > 0.7


def test_long_tensors_of_one_dimension_are_refused_before_anything_is_worked_out() -> None:
    spec = TensorSpec("w", DTYPES["u8"], (1 << 24,))
    new, old = InMemory(spec, memoryview(bytes(spec.nbytes))), InMemory(spec, memoryview(b"\1" * spec.nbytes))
    tracemalloc.start()
    assert Resize().find(new, old) is None
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 1 << 20
