"""What ``lowrank`` predicts, and that the bits are the same however they are computed."""

from __future__ import annotations

import hashlib
import os
import struct
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gittheta.api import DTYPES, PayloadError
from gittheta.encodings.lowrank.factors import Product, WeightChange
from gittheta.encodings.lowrank.predictor import LowRank, describe, tiles
from gittheta.numerics.floats import from_float64, to_float64
from tests.support.lowrank import (
    CHANGES,
    FLOATS,
    Doubles,
    HeldReader,
    applied,
    bfloats,
    factors,
    held,
    misses,
    predict,
    values_of,
    weights,
)

pytestmark = pytest.mark.once

# What is predicted


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("kind", [np.float64, np.float32, np.float16, "bf16"])
def test_every_dtype_comes_back_as_float64_would_have_it(dtype: str, kind: npt.DTypeLike) -> None:
    rng = np.random.default_rng(0)
    base = weights(rng, 96, 130, dtype=dtype)
    change = WeightChange(factors(rng, (96, 8), (8, 130), dtype=np.float32 if kind == "bf16" else kind), scaling=2e-4)
    if kind == "bf16":
        change = replace(change, first=bfloats(change.first))
    expected = held(applied(change, base), dtype)
    finding = describe(change, base.spec)
    assert finding.parameters == (("rank", "8"),)
    result = predict(finding, base)
    if dtype == "f64":  # where float64 itself rounds, in whatever order
        new = to_float64(memoryview(result), base.spec.dtype)
        assert np.abs(new - values_of(expected).ravel()).max() < 3e-17
    else:
        assert misses(result, expected) <= (0.001 if dtype == "f32" else 0)


PARAMETERS = {
    "a lone matrix": {"rank": "full"},
    "hadamard": {"combination": "hadamard", "rank": "2,3"},
    "kronecker": {"combination": "kronecker", "rank": "full,2"},
    "kronecker of lone matrices": {"combination": "kronecker", "rank": "full,full"},
    "rows scaled": {"gain": "rows", "rank": "3"},
    "columns scaled": {"gain": "columns", "rank": "3"},
}


@pytest.mark.parametrize("name", CHANGES)
def test_every_kind_of_change(name: str) -> None:
    rng = np.random.default_rng(2)
    change, shape = CHANGES[name](rng)
    for dtype in ("f32", "bf16"):
        base = weights(rng, *shape, dtype=dtype)
        finding = describe(change, base.spec)
        assert dict(finding.parameters) == PARAMETERS[name]
        assert list(finding.parameters) == sorted(finding.parameters)
        assert misses(predict(finding, base), held(applied(change, base), dtype)) == 0


@pytest.mark.parametrize("name", CHANGES)
def test_any_range_is_that_of_the_whole(name: str) -> None:
    rng = np.random.default_rng(3)
    change, shape = CHANGES[name](rng)
    base = weights(rng, *shape, dtype="f16")
    finding = describe(change, base.spec)
    whole = predict(finding, base)
    prediction = LowRank().open(memoryview(finding.payload), base.spec, dict(finding.parameters))
    for begin, end in np.sort(rng.integers(0, base.spec.elements + 1, (100, 2)) * 2):
        base.bytes_read = 0
        assert bytes(prediction.read(int(begin), int(end), base)) == whole[begin:end]
        assert base.bytes_read == end - begin, "only that range of the base is read"
    for begin, end in ((1, 4), (0, 3), (-2, 2), (0, base.spec.nbytes + 2), (4, 2)):
        with pytest.raises(PayloadError):
            prediction.read(begin, end, base)


@settings(max_examples=40, deadline=None, derandomize=True)
@given(
    shape=st.tuples(st.integers(1, 40), st.integers(1, 40)),
    rank=st.integers(1, 9),
    dtype=st.sampled_from(("bf16", "f32", "f16", "f8_e4m3")),
    powers=st.tuples(st.integers(-60, 20), st.integers(-60, 20)),
    seed=st.integers(0, 1 << 30),
)
def test_any_shape_and_scale(shape: tuple[int, int], rank: int, dtype: str, powers: tuple[int, int], seed: int) -> None:
    rng = np.random.default_rng(seed)
    base = weights(rng, *shape, dtype=dtype)
    left = np.ldexp(rng.standard_normal((shape[0], rank)), powers[0])
    right = np.ldexp(rng.standard_normal((rank, shape[1])), powers[1] + rng.integers(-9, 9, (rank, 1)))
    change = WeightChange(Product(left, right))
    expected = applied(change, base)
    result = to_float64(memoryview(predict(describe(change, base.spec), base)), base.spec.dtype)
    exact = values_of(held(expected, dtype)).ravel()
    # Sums that cancel may keep less; nothing is further off than by the last bit of what was summed.
    terms = np.abs(values_of(base)) + np.abs(left) @ np.abs(right)
    off = (result != exact) & ~(np.abs(np.nan_to_num(result) - np.nan_to_num(exact)) <= terms.ravel() * 2.0**-40)
    assert off.mean() <= 0.01


def test_zeros_have_the_sign_that_addition_gives_them() -> None:
    base = held(np.array([[-0.0, 0.0], [1.0, -1.0]]), "f32")
    zero = WeightChange(Product(np.zeros((2, 1), np.float32), -np.ones((1, 2), np.float32)))
    assert predict(describe(zero, base.spec), base) == np.array([0, 0, 1, -1], "<f4").tobytes()


def test_nan_and_infinity_of_the_base_stay() -> None:
    base = held(np.array([[np.nan, np.inf], [-np.inf, 1.0]]), "bf16")
    change = WeightChange(Product(np.ones((2, 1), np.float32), np.ones((1, 2), np.float32)))
    result = to_float64(memoryview(predict(describe(change, base.spec), base)), DTYPES["bf16"])
    assert np.array_equal(result, [np.nan, np.inf, -np.inf, 2], equal_nan=True)


# The same bits everywhere


def _naive(change: WeightChange, base: HeldReader) -> bytes:
    """The specification's arithmetic, in Python's integers where it is of integers."""
    left, right = (np.asarray(part, np.float64) for part in (change.first.left, change.first.right))
    finding = describe(change, base.spec)
    rank = left.shape[1]
    exponent, extra = struct.unpack_from("<hB", finding.payload, 12)
    shifts = struct.unpack_from(f"<{rank}h", finding.payload, 27)

    def integers(vector: Doubles, shifts: list[int]) -> tuple[list[int], list[int]]:
        high = [round(float(np.ldexp(value, shift))) for value, shift in zip(vector, shifts, strict=True)]
        rest = [float(np.ldexp(v, s)) - h for v, s, h in zip(vector, shifts, high, strict=True)]
        return high, [round(float(np.ldexp(value, extra))) for value in rest]

    lefts = [integers(row, list(shifts)) for row in left]
    rights = [integers(column, [exponent - shift for shift in shifts]) for column in right.T]
    result = np.zeros((len(lefts), len(rights)))
    for row, (high, low) in enumerate(lefts):
        for column, (high2, low2) in enumerate(rights):
            sums = [(high, high2, exponent)]
            sums += [(high, low2, exponent + extra), (low, high2, exponent + extra)] if extra else []
            parts = [float(sum(a * b for a, b in zip(x, y, strict=True))) * 2.0**-e for x, y, e in sums]
            total = parts[0]
            for part in parts[1:]:
                total += part
            result[row, column] = total
    new = values_of(base) + result * change.scaling
    return bytes(from_float64(new.ravel(), base.spec.dtype))


@pytest.mark.parametrize("dtype", ["f64", "f32", "bf16"])
def test_the_bits_are_those_of_whole_numbers(dtype: str) -> None:
    rng = np.random.default_rng(5)
    base = weights(rng, 20, 30, dtype=dtype)
    product = factors(rng, (20, 5), (5, 30))
    change = WeightChange(
        Product(product.left * np.array([1, 10, 1e-3, 1e4, 1e-6], np.float32), product.right), scaling=0.1
    )
    assert predict(describe(change, base.spec), base) == _naive(change, base)


def test_the_order_of_components_does_not_matter() -> None:
    rng = np.random.default_rng(6)
    base = weights(rng, 64, 200, dtype="f64")
    product = factors(rng, (64, 33), (33, 200))
    assert product.right is not None
    whole = predict(describe(WeightChange(product), base.spec), base)
    for _ in range(3):
        order = rng.permutation(33)
        shuffled = WeightChange(Product(product.left[:, order], product.right[order]))
        assert predict(describe(shuffled, base.spec), base) == whole


_DIGEST = """
import hashlib, sys
import numpy as np
from gittheta.encodings.lowrank.factors import WeightChange
from gittheta.encodings.lowrank.predictor import describe
from tests.support.lowrank import factors, predict, weights
rng = np.random.default_rng(7)
base = weights(rng, 300, 500, dtype="f64")
change = WeightChange(factors(rng, (300, 48), (48, 500)), scaling=0.01)
print(hashlib.sha256(predict(describe(change, base.spec), base)).hexdigest())
"""


def test_neither_threads_nor_kernels_of_blas_matter() -> None:
    rng = np.random.default_rng(7)
    base = weights(rng, 300, 500, dtype="f64")
    change = WeightChange(factors(rng, (300, 48), (48, 500)), scaling=0.01)
    mine = hashlib.sha256(predict(describe(change, base.spec), base)).hexdigest()
    for settings_ in ({"OPENBLAS_NUM_THREADS": "1"}, {"OPENBLAS_NUM_THREADS": "4", "OPENBLAS_CORETYPE": "Prescott"}):
        environment = {**os.environ, **settings_}
        command = [sys.executable, "-c", _DIGEST]
        root = Path(__file__).parents[4]
        done = subprocess.run(command, env=environment, cwd=root, capture_output=True, text=True, check=True)
        assert done.stdout.strip() == mine, settings_


def test_tiles_cover_a_range_once_and_in_order() -> None:
    for columns in (1, 3, 1000, 70_000, 200_000):
        for begin, end in ((0, 4 * columns), (columns // 2, 3 * columns + 1), (5, 5), (columns - 1, columns + 1)):
            at = begin
            for rows, across in tiles(begin, end, columns):
                assert rows.start * columns + across.start == at
                assert across == slice(0, columns) or rows.stop == rows.start + 1
                at += (rows.stop - rows.start) * (across.stop - across.start)
            assert at == end
