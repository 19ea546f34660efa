"""Tensors whose rows or columns were rearranged."""

from __future__ import annotations

import struct

import numpy as np
from hypothesis import strategies as st

from gittheta.api import DTYPES, Finding, TensorSpec
from gittheta.encodings.resize.predictor import Rearranged, Resize
from tests.support.in_memory import InMemory, of_bits, of_values

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
    for axis, result in enumerate((rows, columns)):
        if result is not None:
            shape = list(words.shape)
            shape[axis] = 1
            words = np.concatenate([words, np.zeros(shape, words.dtype)], axis=axis).take(result, axis=axis)
    return like(base, words)


def packed_map(found: Indices) -> bytes:
    """A map that is not compressed."""
    steps = np.diff(found, prepend=-1) - 1
    folded = np.where(steps < 0, -2 * steps - 1, 2 * steps).astype("<u4")
    planes = [(folded >> shift & 255).astype(np.uint8).tobytes() for shift in (24, 16, 8, 0)]
    return b"\4" + struct.pack("<4I", *[len(found)] * 4) + b"".join(planes)


def packed(rows: Indices | None, columns: Indices | None) -> memoryview:
    flags = (rows is not None) + 2 * (columns is not None)
    return memoryview(
        bytes((flags,)) + b"".join(packed_map(result) for result in (rows, columns) if result is not None)
    )


def shape_of(spec: TensorSpec) -> dict[str, str]:
    return {"from": "x".join(map(str, spec.shape))}


def opened(found: Finding | None, new: InMemory) -> Rearranged:
    assert found is not None
    return RESIZE.open(memoryview(found.payload), new.spec, dict(found.parameters))


def mapped(indices: Indices | None) -> Indices:
    """Where rows or columns came from; there must be a map."""
    assert indices is not None
    return indices


def predicted(found: Finding | None, new: InMemory, base: InMemory) -> np.ndarray:
    assert found is not None
    assert RESIZE.base_spec(new.spec, dict(found.parameters)).shape == base.spec.shape
    return InMemory(new.spec, opened(found, new).read(0, new.spec.nbytes, base)).words


maps = st.sampled_from(["same", "trimmed", "grown", "permuted", "repeated", "any", "none"])


def draw_map(data: st.DataObject, count: int) -> Indices | None:
    kind = data.draw(maps)
    rng = random(data.draw(st.integers(0, 1 << 32)))
    result = {
        "same": np.arange(count),
        "trimmed": np.flatnonzero(rng.random(count) < 0.8),
        "grown": np.insert(np.arange(count), rng.integers(0, count + 1, 3), -1),
        "permuted": rng.permutation(count),
        "repeated": np.sort(rng.integers(0, count, count + 3)),
        "any": rng.integers(-1, count, int(rng.integers(1, 3 * count))),
    }.get(kind)
    return result if result is None or len(result) else np.array([count - 1])
