"""Every built-in predictor keeps the contract."""

from __future__ import annotations

import struct
from collections.abc import Iterator

import numpy as np
import numpy.typing as npt
import pytest
import zstandard

from gittheta.api import DTYPES, Tensor, TensorSpec
from gittheta.encodings.lowrank.factors import Product, WeightChange
from gittheta.encodings.lowrank.predictor import LowRank, describe
from gittheta.encodings.resize.predictor import Resize
from gittheta.encodings.scale.predictor import Scale
from gittheta.numerics.floats import Doubles
from gittheta.testing import PredictorConformance
from tests.support.dtypes import ARITHMETIC
from tests.support.in_memory import InMemory, of_bits, of_values, values_of

pytestmark = pytest.mark.once

FLOATS = ("bf16", "f32", *sorted(ARITHMETIC - {"bf16", "f32"}))
_BOMB = zstandard.ZstdCompressor(level=3).compress(bytes(1 << 28))


def random(seed: int) -> np.random.Generator:
    return np.random.default_rng(seed)


def weights(dtype: str, *shape: int, seed: int = 0) -> InMemory:
    return of_values(dtype, random(seed).standard_normal(shape) * (0.5 if dtype.startswith("f8") else 0.02))


def tensor(values: InMemory) -> Tensor:
    return Tensor(values.spec, values.data)


def pair(new: InMemory, base: InMemory) -> tuple[Tensor, Tensor]:
    return tensor(new), tensor(base)


def scaled(dtype: str, shape: tuple[int, ...], factors: Doubles) -> tuple[Tensor, Tensor]:
    base = weights(dtype, *shape)
    return pair(of_values(dtype, values_of(base) * factors.astype(np.float32)), base)


def some_factors(*shape: int) -> Doubles:
    return 1 + 0.2 * random(1).standard_normal(shape)


class TestScale(PredictorConformance):
    predictor = Scale()
    pairs = (
        scaled("bf16", (40, 96), some_factors(40, 1)),
        scaled("f32", (96, 40), some_factors(40)),
        *(scaled(dtype, (50, 70), some_factors(50, 1)) for dtype in FLOATS),
        *(scaled(dtype, (70, 50), some_factors(50)) for dtype in FLOATS),
        scaled("f16", (24, 5, 3, 3), some_factors(24, 1, 1, 1)),
        scaled("f64", (900,), np.array([0.7])),
    )
    hostile = (
        (struct.pack("<4I", len(_BOMB), 0, 0, 0) + _BOMB, {"axis": "0"}),
        (struct.pack("<4I", *[0xFFFFFFFF] * 4) + bytes(64), {"axis": "1"}),
        (struct.pack("<4I", 40, 40, 40, 40) + b"\xff" * 160, {"axis": "0"}),
        (b"", {"axis": "1"}),
    )


def lora(dtype: str, shape: tuple[int, ...], rank: int) -> tuple[Tensor, Tensor]:
    base = weights(dtype, *shape)
    left, right = (
        random(2).standard_normal((shape[0], rank)),
        random(3).standard_normal((rank, base.words.size // shape[0])),
    )
    size = 0.3 if dtype.startswith("f8") else 0.01
    return pair(of_values(dtype, values_of(base) + size * (left @ right).reshape(shape)), base)


def _lowrank(
    left: int, right: int, exponent: int, extra: int, rows: int, columns: int, rank: int, rest: bytes = b""
) -> bytes:
    return (
        struct.pack("<BBd", 0, 0, 1.0)
        + struct.pack("<BBhBIII", left, right, exponent, extra, rows, columns, rank)
        + rest
    )


def _changes() -> Iterator[WeightChange]:
    def matrix(seed: int, *shape: int) -> npt.NDArray[np.float32]:
        return random(seed).standard_normal(shape).astype(np.float32)

    first, second = Product(matrix(1, 24, 2), matrix(2, 2, 36)), Product(matrix(3, 24, 3), matrix(4, 3, 36))
    yield WeightChange(first, second, "hadamard", 0.01)
    yield WeightChange(Product(matrix(5, 4, 6)), Product(matrix(6, 6, 2), matrix(7, 2, 6)), "kronecker", 0.5)
    yield WeightChange(first, scaling=0.25, gain=matrix(8, 24), rounded=True)
    yield WeightChange(Product(matrix(9, 24, 36)), gain=matrix(8, 36), gain_axis=1)


class TestLowRank(PredictorConformance):
    predictor = LowRank()
    pairs = (
        lora("bf16", (96, 80), 2),
        lora("f32", (64, 96), 3),
        *(lora(dtype, (96, 128), 1) for dtype in FLOATS),
        lora("f16", (64, 9, 3, 3), 2),
    )
    hostile = (
        (_lowrank(3, 3, 0, 0, 64, 96, 0x7FFFFFFF), {"rank": "2147483647"}),
        (_lowrank(3, 3, 0, 0, 64, 96, 2, struct.pack("<2h", 600, -600)), {"rank": "2"}),
        (
            _lowrank(3, 0, 0, 0, 64, 96, 0, struct.pack("<4I", 6144, 6144, 6144, len(_BOMB)) + bytes(18432) + _BOMB),
            {"rank": "full"},
        ),
        (_lowrank(18, 48, 384, 32, 64, 96, 1, struct.pack("<5I", 64, *[96] * 4) + b"\x7f" * 448), {"rank": "1"}),
        (_lowrank(48, 48, 0, 0, 64, 96, 1, struct.pack("<8I", *[64] * 4, *[96] * 4) + b"\x7f" * 640), {"rank": "1"}),
        (struct.pack("<BBd", 0, 0, float("nan")) + _lowrank(3, 0, 0, 0, 64, 96, 0)[10:], {"rank": "full"}),
    )

    def samples(self) -> Iterator[tuple[bytes, TensorSpec, dict[str, str]]]:
        """Besides what is found, what an adapter tells: two products, combined, with a gain."""
        yield from super().samples()
        for dtype, change in zip(("bf16", "f32", "f16", "f64"), _changes(), strict=True):
            spec = TensorSpec("w", DTYPES[dtype], (24, 36))
            finding = describe(change, spec)
            yield finding.payload, spec, dict(finding.parameters)


def vocabulary(dtype: str, shape: tuple[int, int], *parts: int) -> tuple[Tensor, Tensor]:
    """Rows of a base from each of the parts on, three at a time; below zero, new ones."""
    base, fresh = weights(dtype, *shape), weights(dtype, 3, shape[1], seed=9)
    rows = [base.words[part : part + 3] if part >= 0 else fresh.words for part in parts]
    return pair(of_bits(dtype, np.concatenate(rows)), base)


def whole_numbers(dtype: str, kind: str) -> tuple[Tensor, Tensor]:
    words = random(4).integers(0, 256, (40, 24 * np.dtype(kind).itemsize), np.uint8).view(kind)
    return pair(of_bits(dtype, np.roll(words, 7, axis=0)[:33]), of_bits(dtype, words))


class TestResize(PredictorConformance):
    predictor = Resize()
    pairs = (
        vocabulary("bf16", (60, 40), *range(0, 60, 3), -1),
        vocabulary("f32", (60, 40), *range(30, 60, 3), *range(0, 30, 3)),
        pair(of_bits("bf16", weights("bf16", 50, 60).words[:, ::-1]), weights("bf16", 50, 60)),
        *(vocabulary(dtype, (48, 40), *range(0, 42, 3)) for dtype in FLOATS),
        whole_numbers("i64", "<u8"),
        whole_numbers("u8", "u1"),
        whole_numbers("c64", "<u8"),
        whole_numbers("f8_e8m0", "u1"),
    )
    hostile = (
        (b"\1\1" + struct.pack("<I", len(_BOMB)) + _BOMB, {"from": "60x40"}),
        (b"\1\4" + struct.pack("<4I", *[0xFFFFFFFF] * 4), {"from": "60x40"}),
        (b"\4", {"from": "63x40"}),
        (b"\0", {"from": "4611686018427387904x40"}),
        (b"\0", {"from": "1x2305843009213693951"}),
        (b"\0", {"from": "1x1x1"}),
        (b"", {"from": "60x40"}),
    )
