"""Tensors and low-rank changes of them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from gittheta.api import DTYPES, Finding, TensorSpec
from gittheta.encodings.lowrank.factors import Product, WeightChange
from gittheta.encodings.lowrank.predictor import LowRank
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
    whole: npt.NDArray[Any] = first
    if change.second is not None:
        second = matrix(change.second)
        whole = first * second if change.combination == "hadamard" else np.kron(first, second)
    new: npt.NDArray[Any] = values_of(base).reshape(whole.shape) + change.scaling * whole
    if change.gain is not None:
        new = new * (change.gain[:, None] if change.gain_axis == 0 else change.gain)
    return new.reshape(base.spec.shape)


def bfloat(values: npt.NDArray[np.floating]) -> npt.NDArray[np.float32]:
    return (values.astype(np.float32).view(np.uint32) & np.uint32(0xFFFF0000)).view(np.float32)


def bfloats(product: Product) -> Product:
    """Its factors, cut to values of bf16."""
    return Product(bfloat(product.left), None if product.right is None else bfloat(product.right))


def factors(rng: np.random.Generator, *shapes: tuple[int, int], dtype: npt.DTypeLike = np.float32) -> Product:
    return Product(*(rng.standard_normal(shape).astype(dtype) for shape in shapes))


def weights(rng: np.random.Generator, *shape: int, dtype: str = "bf16", size: float = 0.02) -> HeldReader:
    return held(rng.standard_normal(shape) * size, dtype)


def folded(base: HeldReader, rank: int, size: float, seed: int = 1) -> HeldReader:
    """The base with a product of random factors added, of that standard deviation."""
    rng = np.random.default_rng(seed)
    rows, columns = base.spec.shape
    change = rng.standard_normal((rows, rank)) @ rng.standard_normal((rank, columns))
    return held(values_of(base) + change * (size / change.std()), base.spec.dtype.name)


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
