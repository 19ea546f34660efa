"""What the suites share: difficult values, and the checks that hold for every plugin."""

# ruff: noqa: S101 - assertions are what these modules are for
from __future__ import annotations

import re
import struct
from collections.abc import Iterator
from dataclasses import replace
from random import Random
from typing import Any

from gittheta.model import DTYPES, Dtype, Tensor, TensorSpec, block_dtype

#: A decoder may allocate this many times the tensor's bytes, and this many bytes more.
MEMORY_FACTOR = 16
MEMORY_SPARE = 4 << 20

#: Every dtype, and one of those that store elements in blocks.
ALL_DTYPES = (*DTYPES.values(), block_dtype("q4_0", 32, 18))

_WORD = re.compile("[a-z][a-z0-9_]*")
_ODD_COUNTS = (1, 2, 3, 5, 7, 8, 12, 255, 1023, 4097)
#: Zeros of both signs, ones, subnormals, largest finite values, infinities, NaNs of several payloads and signs.
_SPECIAL_32 = (0, 1 << 31, 0x3F800000, 1, 0x007FFFFF, 0x80000001, 0x00800000, 0x7F7FFFFF, 0x7F800000, 0xFF800000)
_NANS_32 = (0x7FC00000, 0xFFC00000, 0x7F800001, 0xFFBFFFFF, 0x7FFFFFFF, 0xFFFFFFFF)
_SPECIAL_64 = (
    0,
    1 << 63,
    0x3FF << 52,
    1,
    (1 << 52) - 1,
    (1 << 63) + 1,
    1 << 52,
    0x7FEF << 48,
    0x7FF << 52,
    0xFFF << 52,
)
_NANS_64 = (0x7FF8 << 48, 0xFFF8 << 48, (0x7FF << 52) + 1, (0xFFF8 << 48) - 1, (1 << 63) - 1, (1 << 64) - 1)
_SPECIAL = {4: (*_SPECIAL_32, *_NANS_32), 8: (*_SPECIAL_64, *_NANS_64)}


def random_of(seed: int) -> Random:
    """A generator of random numbers that are the same each time."""
    return Random(seed)  # noqa: S311 - noise that must be the same each time


def tensor(dtype: Dtype, data: bytes, shape: tuple[int, ...] | None = None) -> Tensor:
    """A tensor from its bytes; one-dimensional unless a shape is given."""
    spec = TensorSpec("tensor", dtype, (len(data) * 8 // dtype.bits * dtype.unit,) if shape is None else shape)
    assert spec.nbytes == len(data), f"{len(data)} bytes for {spec}"
    return Tensor(spec, memoryview(data))


def block_values(dtype: Dtype, elements: int, seed: int = 0) -> bytes:
    """The bytes of ``elements`` elements (units of a block dtype), as a trained layer might hold them.

    Wide floats are normally distributed with a small deviation; all other bytes are random.
    """
    import numpy as np

    rng = np.random.default_rng(seed)
    if dtype.kind == "bool":
        return rng.integers(0, 2, elements, np.uint8).tobytes()
    if dtype.kind == "complex":
        return rng.normal(0, 0.02, 2 * elements).astype("<f4").tobytes()
    if dtype.kind != "float" or dtype.bits < 16:
        nbytes = elements * dtype.bits // 8
        return rng.integers(0, 256, nbytes, np.uint8).tobytes()
    wide = rng.normal(0, 0.02, elements)
    if dtype.name == "bf16":
        return (wide.astype("<f4").view("<u4") >> 16).astype("<u2").tobytes()
    return wide.astype(f"<f{dtype.itemsize}").tobytes()


def special_values(dtype: Dtype) -> bytes:
    """Every bit pattern of elements of up to 16 bits, and the special ones of wider elements, as bytes."""
    if dtype.bits <= 8:
        return bytes(range(256)) * 3
    if dtype.kind == "block":
        return bytes(range(256)) * dtype.itemsize
    if dtype.bits == 16:
        return struct.pack(f"<{1 << 16}H", *range(1 << 16))
    width = 4 if dtype.kind == "complex" else dtype.itemsize
    return b"".join(pattern.to_bytes(width, "little") for pattern in _SPECIAL[width]) * 5


def whole(dtype: Dtype, elements: int) -> int:
    """The least number of elements, from ``elements`` on, that fills whole bytes."""
    while elements * dtype.bits % 8:
        elements += 1
    return elements


def tensors(dtype: Dtype) -> Iterator[Tensor]:
    """Tensors of a dtype with special, random, constant and typical values, of odd sizes and several shapes."""
    yield tensor(dtype, special_values(dtype))
    for seed, count in enumerate(_ODD_COUNTS):
        nbytes = whole(dtype, count) * dtype.bits // 8
        yield tensor(dtype, random_of(seed).randbytes(nbytes))
        yield tensor(dtype, block_values(dtype, whole(dtype, count), seed))
    size = whole(dtype, 1000) * dtype.bits // 8
    yield tensor(dtype, bytes(size))
    yield tensor(dtype, b"\xff" * size)
    yield tensor(dtype, (b"\x3f\x80\x01\x42\x00\xc0\x7f\x99" * size)[:size])
    yield tensor(dtype, random_of(1).randbytes(24 * dtype.bits // 8), (2, 3, 4 * dtype.unit))
    if dtype.unit == 1 and dtype.bits % 8 == 0:
        yield tensor(dtype, random_of(2).randbytes(dtype.itemsize), ())


def check_plugin(plugin: Any) -> None:
    """Fail unless a plugin is a frozen dataclass with a valid name."""
    kind = type(plugin)
    described = getattr(kind, "__dataclass_params__", None)
    assert described is not None, f"{kind.__name__} is not a dataclass"
    assert described.frozen, f"{kind.__name__} is not frozen"
    assert replace(plugin) == plugin, f"two {kind.__name__} with the same options differ"
    assert kind.name == plugin.name, f"the name of {kind.__name__} belongs to the class"
    assert _WORD.fullmatch(plugin.name), f"'{plugin.name}' cannot stand in a manifest"
