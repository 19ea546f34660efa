"""``lowrank``: what it predicts, that the bits are the same however they are computed, and that it finds a LoRA."""

from __future__ import annotations

import hashlib
import os
import struct
import subprocess
import sys
import tracemalloc
from collections.abc import Callable
from dataclasses import dataclass, replace
from math import log2
from pathlib import Path
from time import thread_time

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gittheta.api import DTYPES, Finding, PayloadError, TensorSpec
from gittheta.encodings.lowrank.factors import Product, WeightChange
from gittheta.encodings.lowrank.predictor import LowRank, describe, tiles
from gittheta.numerics.floats import from_float64, to_float64

FLOATS = ("f64", "f32", "f16", "bf16", "f8_e4m3", "f8_e5m2", "f8_e4m3fnuz", "f8_e5m2fnuz")
Doubles = npt.NDArray[np.float64]


@dataclass
class HeldReader:
    """A tensor in memory that counts what is read of it."""

    spec: TensorSpec
    data: memoryview
    bytes_read: int = 0

    def read(self, begin: int, end: int) -> memoryview:
        self.bytes_read += end - begin
        return self.data[begin:end]


def spec_of(dtype: str, *shape: int) -> TensorSpec:
    return TensorSpec("w", DTYPES[dtype], shape)


def held(values: Doubles, dtype: str) -> HeldReader:
    return HeldReader(spec_of(dtype, *values.shape), from_float64(values.ravel(), DTYPES[dtype]))


def values_of(tensor: HeldReader) -> Doubles:
    return to_float64(tensor.data, tensor.spec.dtype).reshape(tensor.spec.shape)


def predict(finding: Finding, base: HeldReader, begin: int = 0, end: int | None = None) -> bytes:
    prediction = LowRank().open(memoryview(finding.payload), base.spec, dict(finding.parameters))
    return bytes(prediction.read(begin, base.spec.nbytes if end is None else end, base))


def misses(found: bytes, wanted: HeldReader) -> float:
    """The share of elements that differ."""
    words = f"u{wanted.spec.dtype.itemsize}"
    return float((np.frombuffer(found, words) != np.frombuffer(wanted.data, words)).mean())


def matrix(product: Product) -> Doubles:
    left = product.left.astype(np.float64)
    return left if product.right is None else left @ product.right.astype(np.float64)


def applied(change: WeightChange, base: HeldReader) -> Doubles:
    """What a change means, in float64 and with NumPy's own functions."""
    first = matrix(change.first)
    whole = first
    if change.second is not None:
        second = matrix(change.second)
        whole = first * second if change.combination == "hadamard" else np.kron(first, second)
    new = values_of(base).reshape(whole.shape) + change.scaling * whole
    if change.gain is not None:
        new = new * (change.gain[:, None] if change.gain_axis == 0 else change.gain)
    return new.reshape(base.spec.shape)


def bfloat(values: npt.NDArray[np.floating]) -> npt.NDArray[np.float32]:
    return (values.astype(np.float32).view(np.uint32) & np.uint32(0xFFFF0000)).view(np.float32)


def factors(rng: np.random.Generator, *shapes: tuple[int, int], dtype: type = np.float32) -> Product:
    return Product(*(rng.standard_normal(shape).astype(dtype) for shape in shapes))


def weights(rng: np.random.Generator, *shape: int, dtype: str = "bf16", size: float = 0.02) -> HeldReader:
    return held(rng.standard_normal(shape) * size, dtype)


def folded(base: HeldReader, rank: int, size: float, seed: int = 1) -> HeldReader:
    """The base with a product of random factors added, of that standard deviation."""
    rng = np.random.default_rng(seed)
    rows, columns = base.spec.shape
    change = rng.standard_normal((rows, rank)) @ rng.standard_normal((rank, columns))
    return held(values_of(base) + change * (size / change.std()), base.spec.dtype.name)


# What is predicted


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("kind", [np.float64, np.float32, np.float16, "bf16"])
def test_every_dtype_comes_back_as_float64_would_have_it(dtype: str, kind: type | str) -> None:
    rng = np.random.default_rng(0)
    base = weights(rng, 96, 130, dtype=dtype)
    change = WeightChange(factors(rng, (96, 8), (8, 130), dtype=np.float32 if kind == "bf16" else kind), scaling=2e-4)
    if kind == "bf16":
        change = replace(change, first=Product(bfloat(change.first.left), bfloat(change.first.right)))
    wanted = held(applied(change, base), dtype)
    finding = describe(change, base.spec)
    assert finding.parameters == (("rank", "8"),)
    found = predict(finding, base)
    if dtype == "f64":  # where float64 itself rounds, in whatever order
        new = to_float64(memoryview(found), base.spec.dtype)
        assert np.abs(new - values_of(wanted).ravel()).max() < 3e-17
    else:
        assert misses(found, wanted) <= (0.001 if dtype == "f32" else 0)


CHANGES: dict[str, Callable[[np.random.Generator], tuple[WeightChange, tuple[int, ...]]]] = {
    "a lone matrix": lambda rng: (WeightChange(factors(rng, (12, 35)), scaling=0.3), (12, 35)),
    "hadamard": lambda rng: (
        WeightChange(factors(rng, (12, 2), (2, 35)), factors(rng, (12, 3), (3, 35)), "hadamard", -0.3),
        (12, 5, 7),
    ),
    "kronecker": lambda rng: (WeightChange(factors(rng, (3, 5)), factors(rng, (4, 2), (2, 7)), "kronecker"), (12, 35)),
    "kronecker of lone matrices": lambda rng: (
        WeightChange(factors(rng, (3, 5)), factors(rng, (4, 7)), "kronecker", 0.1),
        (12, 35, 1),
    ),
    "rows scaled": lambda rng: (
        WeightChange(factors(rng, (12, 3), (3, 70)), gain=rng.standard_normal(12).astype(np.float32)),
        (12, 5, 14),
    ),
    "columns scaled": lambda rng: (
        WeightChange(factors(rng, (12, 3), (3, 70)), gain=rng.standard_normal(70).astype(np.float32), gain_axis=1),
        (12, 70),
    ),
}
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
    wanted = applied(change, base)
    found = to_float64(memoryview(predict(describe(change, base.spec), base)), base.spec.dtype)
    exact = values_of(held(wanted, dtype)).ravel()
    # Sums that cancel may keep less; nothing is further off than by the last bit of what was summed.
    terms = np.abs(values_of(base)) + np.abs(left) @ np.abs(right)
    off = (found != exact) & ~(np.abs(np.nan_to_num(found) - np.nan_to_num(exact)) <= terms.ravel() * 2.0**-40)
    assert off.mean() <= 0.01


def test_zeros_have_the_sign_that_addition_gives_them() -> None:
    base = held(np.array([[-0.0, 0.0], [1.0, -1.0]]), "f32")
    zero = WeightChange(Product(np.zeros((2, 1), np.float32), -np.ones((1, 2), np.float32)))
    assert predict(describe(zero, base.spec), base) == np.array([0, 0, 1, -1], "<f4").tobytes()


def test_nan_and_infinity_of_the_base_stay() -> None:
    base = held(np.array([[np.nan, np.inf], [-np.inf, 1.0]]), "bf16")
    change = WeightChange(Product(np.ones((2, 1), np.float32), np.ones((1, 2), np.float32)))
    found = to_float64(memoryview(predict(describe(change, base.spec), base)), DTYPES["bf16"])
    assert np.array_equal(found, [np.nan, np.inf, -np.inf, 2], equal_nan=True)


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
    found = np.zeros((len(lefts), len(rights)))
    for row, (high, low) in enumerate(lefts):
        for column, (high2, low2) in enumerate(rights):
            sums = [(high, high2, exponent)]
            sums += [(high, low2, exponent + extra), (low, high2, exponent + extra)] if extra else []
            parts = [float(sum(a * b for a, b in zip(x, y, strict=True))) * 2.0**-e for x, y, e in sums]
            total = parts[0]
            for part in parts[1:]:
                total += part
            found[row, column] = total
    new = values_of(base) + found * change.scaling
    return bytes(from_float64(new.ravel(), base.spec.dtype))


@pytest.mark.parametrize("dtype", ["f64", "f32", "bf16"])
def test_the_bits_are_those_of_whole_numbers(dtype: str) -> None:
    rng = np.random.default_rng(5)
    base = weights(rng, 20, 30, dtype=dtype)
    product = factors(rng, (20, 5), (5, 30))
    change = WeightChange(Product(product.left * np.float32([1, 10, 1e-3, 1e4, 1e-6]), product.right), scaling=0.1)
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
from tests.unit.test_lowrank import *
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
        root = Path(__file__).parents[2]
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


# Bytes


@pytest.mark.parametrize(("kind", "most"), [("bf16", 2.0), (np.float16, 2.0), (np.float32, 4.0), (np.float64, 8.0)])
def test_a_given_adapter_costs_about_its_own_bytes(kind: type | str, most: float) -> None:
    rng = np.random.default_rng(8)
    product = factors(rng, (512, 16), (16, 512), dtype=np.float32 if kind == "bf16" else kind)
    if kind == "bf16":
        product = Product(bfloat(product.left), bfloat(product.right))
    finding = describe(WeightChange(product), spec_of("f32", 512, 512))
    assert len(finding.payload) <= 1.05 * most * 2 * 16 * 512


def test_changes_that_do_not_fit_are_refused() -> None:
    rng = np.random.default_rng(9)
    good = factors(rng, (8, 2), (2, 6))
    spec = spec_of("f32", 8, 6)
    describe(WeightChange(good), spec)
    infinite = good.left.copy()
    infinite[3, 1] = np.inf
    refused: list[tuple[WeightChange, TensorSpec]] = [
        (WeightChange(good), spec_of("f32", 6, 8)),
        (WeightChange(good), spec_of("i32", 8, 6)),
        (WeightChange(good), spec_of("f32", 48)),
        (WeightChange(good), spec_of("f32", 8, 0)),
        (WeightChange(Product(good.left, good.left)), spec),
        (WeightChange(Product(good.left[0], good.right)), spec),
        (WeightChange(Product(good.left[:, :0], np.zeros((0, 6), np.float32))), spec),
        (WeightChange(Product(infinite, good.right)), spec),
        (WeightChange(good, scaling=float("nan")), spec),
        (WeightChange(good, good), spec),
        (WeightChange(good, combination="hadamard"), spec),
        (WeightChange(good, factors(rng, (8, 2), (2, 5)), "hadamard"), spec),
        (WeightChange(good, factors(rng, (2, 2)), "kronecker"), spec),
        (WeightChange(good, gain=np.ones(6, np.float32)), spec),
        (WeightChange(good, gain=np.ones(8, np.float32), gain_axis=1), spec),
        (WeightChange(good, gain=np.full(8, np.nan, np.float32)), spec),
        (WeightChange(Product(np.ones((8, 4000), np.float32), np.ones((4000, 6), np.float32))), spec),
    ]
    for change, its_spec in refused:
        with pytest.raises(PayloadError):
            describe(change, its_spec)


# Hostile input


def check_hostile(payload: bytes, spec: TensorSpec, parameters: dict[str, str]) -> bool:
    """Opened and read, or refused with PayloadError; in bounded memory. Says whether it was refused."""
    base = HeldReader(spec, memoryview(bytes(spec.nbytes)))
    tracemalloc.start()
    try:
        prediction = LowRank().open(memoryview(payload), spec, parameters)
        assert len(prediction.read(0, spec.nbytes, base)) == spec.nbytes
        return False
    except PayloadError:
        return True
    finally:
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert peak < 16 * spec.nbytes + (4 << 20), peak


def _samples() -> list[tuple[Finding, TensorSpec]]:
    rng = np.random.default_rng(10)
    samples = []
    for name in CHANGES:
        change, shape = CHANGES[name](rng)
        samples.append((describe(change, spec_of("bf16", *shape)), spec_of("bf16", *shape)))
    base = weights(rng, 64, 96)
    found = LowRank().find(folded(base, 2, 5e-4), base)
    assert found is not None
    samples.append((found, base.spec))
    return samples


def test_payloads_that_are_cut_or_too_long_are_refused() -> None:
    for finding, spec in _samples():
        parameters = dict(finding.parameters)
        assert not check_hostile(finding.payload, spec, parameters)
        for size in range(0, len(finding.payload), 7):
            assert check_hostile(finding.payload[:size], spec, parameters), size
        assert check_hostile(finding.payload + b"\0", spec, parameters)
        assert check_hostile(finding.payload * 2, spec, parameters)


def test_damaged_payloads_do_no_harm() -> None:
    for finding, spec in _samples():
        for at in (*range(min(60, len(finding.payload))), *range(60, len(finding.payload), 97)):
            for change in (b"\1", b"\x80", b"\xff", b"\xff\xff\xff\xff", b"\xff\xff\xff\x7f", b"\0\0\0\0"):
                damaged = bytearray(finding.payload)
                for offset, bits in enumerate(change[: len(damaged) - at]):
                    damaged[at + offset] = bits if len(change) > 1 else damaged[at + offset] ^ bits
                check_hostile(bytes(damaged), spec, dict(finding.parameters))


def _payload(
    kinds: tuple[int, int] = (1, 1),
    exponent: int = 0,
    extra: int = 0,
    shape: tuple[int, int, int] = (4, 4, 1),
    shifts: tuple[int, ...] = (0,),
    planes: tuple[bytes, ...] = (bytes(4), bytes(4), bytes(4), bytes(4)),
    head: tuple[int, int, float] = (0, 0, 1.0),
) -> bytes:
    parts = [struct.pack("<BBd", *head), struct.pack("<BBhB3I", *kinds, exponent, extra, *shape)]
    parts += [struct.pack(f"<{len(shifts)}h", *shifts), struct.pack(f"<{len(planes)}I", *map(len, planes)), *planes]
    return b"".join(parts)


_WHOLE = {"kinds": (48, 48), "shifts": (), "planes": (b"\x7f" * 4, *[b"\xff" * 4] * 3) * 2}
HOSTILE = {
    "an unknown combination": _payload(head=(3, 0, 1.0)),
    "an unknown gain": _payload(head=(0, 3, 1.0)),
    "scaled by what is no number": _payload(head=(0, 0, float("nan"))),
    "a gain that is missing": _payload(head=(0, 1, 1.0)),
    "a second product that is missing": _payload(head=(1, 0, 1.0)),
    "an unknown kind": _payload(kinds=(5, 1)),
    "integers and floats": _payload(kinds=(24, 1)),
    "integers without bits": _payload(kinds=(17, 17), shifts=()),
    "integers of 33 bits": _payload(kinds=(49, 49), shifts=()),
    "no rank": _payload(shape=(4, 4, 0), shifts=()),
    "a lone matrix with a rank": _payload(kinds=(1, 0)),
    "a rank far too high": _payload(shape=(4, 4, 0xFFFFFFFF)),
    "a rank that would take memory": _payload(shape=(4, 4, 1 << 14), shifts=(0,) * (1 << 14)),
    "other rows": _payload(shape=(5, 4, 1)),
    "other columns": _payload(shape=(4, 0xFFFFFFFF, 1)),
    "an exponent out of range": _payload(exponent=385),
    "a negative exponent out of range": _payload(exponent=-32768),
    "a shift out of range": _payload(shifts=(601,)),
    "too many extra bits": _payload(extra=33),
    "values that are no numbers": _payload(planes=(b"\xff" * 4, b"\xff" * 4, bytes(4), bytes(4))),
    "floats that overflow as integers": _payload(exponent=100, shifts=(50,), planes=(b"\x7f" * 4, bytes(4)) * 2),
    "integers whose products overflow": _payload(**_WHOLE),  # type: ignore[arg-type]
    "planes that are too long": _payload(planes=(bytes(5), bytes(4), bytes(4), bytes(4))),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_payloads_are_refused(name: str) -> None:
    spec = spec_of("bf16", 4, 4)
    assert not check_hostile(_payload(), spec, {"rank": "1"}), "what the others are made of is valid"
    assert check_hostile(HOSTILE[name], spec, {"rank": "1"})


def test_integers_that_stay_below_the_bound_are_read() -> None:
    payload = _payload(**{**_WHOLE, "extra": 8})  # type: ignore[arg-type]
    assert not check_hostile(payload, spec_of("bf16", 4, 4), {"rank": "1"})


def test_small_payloads_do_not_grow_large() -> None:
    rows = np.zeros((1 << 11, 4), np.float32)
    payload = describe(
        WeightChange(Product(rows, np.zeros((4, 1 << 11), np.float32))), spec_of("bf16", 1 << 11, 1 << 11)
    )
    assert len(payload.payload) < 400
    for shape in ((2, 2), (1 << 11, 1), (1 << 10, 1 << 11)):
        assert check_hostile(payload.payload, spec_of("bf16", *shape), {"rank": "4"})


@pytest.mark.parametrize("parameters", [{}, {"rank": "4"}, {"rank": "03"}, {"rank": "3", "gain": "rows"}, {"r": "3"}])
def test_parameters_must_agree_with_the_payload(parameters: dict[str, str]) -> None:
    finding = describe(WeightChange(factors(np.random.default_rng(0), (8, 3), (3, 8))), spec_of("f32", 8, 8))
    with pytest.raises(PayloadError):
        LowRank().open(memoryview(finding.payload), spec_of("f32", 8, 8), parameters)


def test_the_base_is_of_the_same_dtype_and_shape() -> None:
    spec = spec_of("bf16", 3, 4)
    assert LowRank().base_spec(spec, {"rank": "1"}) == spec


# What is found


def cost(finding: Finding, new: HeldReader, base: HeldReader) -> float:
    """Bytes of the factors, and of the corrections at their entropy, to bytes of the tensor."""
    share = misses(predict(finding, base), new)
    bits = share - share * log2(share) - (1 - share) * log2(1 - share) if 0 < share < 1 else share
    return len(finding.payload) / new.spec.nbytes + bits / new.spec.dtype.bits


@pytest.mark.parametrize("size", [2e-4, 1e-3])
@pytest.mark.parametrize(("dtype", "most"), [("bf16", 0.045), ("f32", 0.038), ("f16", 0.048)])
def test_a_folded_lora_is_found(dtype: str, most: float, size: float) -> None:
    base = weights(np.random.default_rng(12), 1024, 1024, dtype=dtype)
    new = folded(base, 16, size)
    finding = LowRank().find(new, base)
    assert finding is not None
    assert finding.parameters == (("rank", "16"),)
    assert cost(finding, new, base) < most
    assert LowRank().find(new, base) == finding, "found again, it is the same"


@pytest.mark.parametrize(
    ("shape", "rank", "dtype", "most"),
    [
        ((512, 2048), 8, "bf16", 0.035),
        ((2048, 300), 4, "bf16", 0.04),
        ((256, 256), 4, "f32", 0.04),
        ((640, 640), 64, "f32", 0.21),
        ((17, 5000), 1, "f32", 0.08),
        ((512, 512), 8, "f64", 0.08),
        ((512, 512), 4, "f8_e5m2", 0.09),
    ],
)
def test_other_shapes_ranks_and_dtypes(shape: tuple[int, int], rank: int, dtype: str, most: float) -> None:
    base = weights(np.random.default_rng(13), *shape, dtype=dtype)
    new = folded(base, rank, 4e-3 if dtype.startswith("f8") else 5e-4)
    finding = LowRank().find(new, base)
    assert finding is not None
    assert rank <= int(dict(finding.parameters)["rank"]) <= rank + 1 + rank // 8
    assert cost(finding, new, base) < most


def test_a_tensor_of_four_dimensions_is_a_matrix_too() -> None:
    base = weights(np.random.default_rng(14), 128, 900)
    new = folded(base, 4, 1e-3)
    for tensor in (base, new):
        tensor.spec = spec_of("bf16", 128, 100, 3, 3)
    finding = LowRank().find(new, base)
    assert finding is not None
    assert finding.parameters == (("rank", "4"),)


def test_weak_components_count() -> None:
    base = weights(np.random.default_rng(15), 512, 512)
    rng = np.random.default_rng(16)
    change = (rng.standard_normal((512, 12)) * np.geomspace(1, 0.03, 12)) @ rng.standard_normal((12, 512))
    new = held(values_of(base) + change * (1e-3 / change.std()), "bf16")
    finding = LowRank().find(new, base)
    assert finding is not None
    assert int(dict(finding.parameters)["rank"]) >= 11
    assert misses(predict(finding, base), new) < 0.08


def test_a_difference_that_was_rounded_before_it_was_added() -> None:
    base = weights(np.random.default_rng(17), 512, 512)
    rng = np.random.default_rng(18)
    change = rng.standard_normal((512, 8)) @ rng.standard_normal((8, 512)) * 2e-4
    new = held(values_of(base) + values_of(held(change, "bf16")), "bf16")
    finding = LowRank().find(new, base)
    assert finding is not None
    assert cost(finding, new, base) < 0.06


def test_unchanged_rows_missing_numbers_and_outliers_do_not_disturb() -> None:
    base = weights(np.random.default_rng(19), 512, 512)
    plain = values_of(folded(base, 8, 1e-3))
    plain[100:200] = values_of(base)[100:200]
    plain[:, 7] = values_of(base)[:, 7]
    plain[3, 5], plain[4, 4], plain[300, 300], plain[400, 17] = np.nan, np.inf, 3.0, -1e6
    new = held(plain, "bf16")
    finding = LowRank().find(new, base)
    assert finding is not None
    assert cost(finding, new, base) < 0.07


def test_an_embedding_is_searched_in_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    base = weights(np.random.default_rng(20), 3000, 256)
    new = folded(base, 4, 1e-3)
    whole = LowRank().find(new, base)
    monkeypatch.setattr("gittheta.encodings.lowrank.difference._KEEP", 0)
    monkeypatch.setattr("gittheta.encodings.lowrank.difference._READ", 1 << 17)
    new.bytes_read = base.bytes_read = 0
    tracemalloc.start()
    parts = LowRank().find(new, base)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert parts == whole
    assert max(new.bytes_read, base.bytes_read) < 4 * new.spec.nbytes
    assert peak < 8 << 20


def _moved(base: HeldReader, size: float) -> HeldReader:
    move = np.random.default_rng(21).standard_normal(base.spec.shape) * size
    return held(values_of(base) + move, base.spec.dtype.name)


REFUSED: dict[str, Callable[[HeldReader], HeldReader]] = {
    "nothing": lambda base: base,
    "each weight a little": lambda base: _moved(base, 2e-4),
    "each weight hardly": lambda base: _moved(base, 1e-5),
    "each weight much": lambda base: _moved(base, 0.02),
    "rows scaled": lambda base: held(
        values_of(base) * np.random.default_rng(22).uniform(0.9, 1.1, (len(values_of(base)), 1)), base.spec.dtype.name
    ),
    "rows permuted": lambda base: held(np.roll(values_of(base), 1, axis=0), base.spec.dtype.name),
    "to nothing": lambda base: held(values_of(base) * 0, base.spec.dtype.name),
    "to NaN": lambda base: held(values_of(base) * np.nan, base.spec.dtype.name),
    "by less than is seen": lambda base: folded(base, 16, 1e-5 if base.spec.dtype.name == "bf16" else 1e-12),
}


@pytest.mark.parametrize("name", REFUSED)
def test_other_changes_are_refused_quickly(name: str) -> None:
    for dtype in ("bf16", "f32"):
        base = weights(np.random.default_rng(23), 1024, 1024, dtype=dtype)
        new = REFUSED[name](base)
        seconds = []
        for _ in range(3):
            begun = thread_time()
            assert LowRank().find(new, base) is None
            seconds.append(thread_time() - begun)
        assert min(seconds) < 0.1, "a few milliseconds, on an idle machine"


@pytest.mark.parametrize("shape", [(), (0,), (1,), (5,), (0, 5), (1, 1), (1, 1000), (1000, 1), (3, 3), (16, 16)])
@pytest.mark.parametrize("dtype", ["bf16", "f64", "i32", "bool", "c64", "f8_e8m0"])
def test_tensors_that_are_no_matrices_do_no_harm(shape: tuple[int, ...], dtype: str) -> None:
    spec = spec_of(dtype, *shape)
    rng = np.random.default_rng(24)
    new, base = (HeldReader(spec, memoryview(rng.integers(0, 256, spec.nbytes, np.uint8).tobytes())) for _ in range(2))
    found = LowRank().find(new, base)
    assert found is None or spec.elements > 200


def test_bases_of_another_shape_or_dtype_are_refused() -> None:
    new = weights(np.random.default_rng(25), 64, 64)
    for base in (weights(np.random.default_rng(26), 64, 32), weights(np.random.default_rng(26), 64, 64, dtype="f16")):
        assert LowRank().find(new, base) is None
