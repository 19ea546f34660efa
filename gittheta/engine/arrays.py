"""Between the bytes of a tensor and the torch values that methods compute with."""

from __future__ import annotations

import warnings
from math import prod

import torch

from gittheta.api import DTYPES, Dtype, TensorSpec

# Blocks of stored tensors are read-only, and nothing here writes to what it was given.
warnings.filterwarnings("ignore", message="The given buffer is not writable")

#: How the bytes of each dtype are seen for arithmetic; complex numbers as pairs.
TORCH: dict[str, torch.dtype] = {
    dtype.name: torch.float32 if dtype.kind == "complex" else getattr(torch, dtype.torch or "")
    for dtype in DTYPES.values()
    if dtype.arithmetic or dtype.kind == "complex"
}


def accumulated_in(dtype: Dtype) -> torch.dtype:
    """In what one accumulates: float32, but float64 for dtypes of 32 bits and more.

    Sums of float32 values may cancel, and then float32 would lose more than the last places of the result.
    """
    return torch.float64 if TORCH[dtype.name] in (torch.float32, torch.float64) else torch.float32


def flat_values(data: memoryview, dtype: Dtype) -> torch.Tensor:
    """A flat tensor over the same memory, in the dtype that the bytes have; must not be written to."""
    if not data.nbytes:
        return torch.empty(0, dtype=TORCH[dtype.name])
    return torch.frombuffer(data, dtype=TORCH[dtype.name])


def raw_bytes(values: torch.Tensor) -> memoryview:
    """The bytes of a tensor, on the CPU, little-endian, row-major."""
    return memoryview(values.detach().to("cpu").contiguous().reshape(-1).view(torch.uint8).numpy())


def arithmetic_shape(spec: TensorSpec) -> tuple[int, ...]:
    """Shape of a tensor as it is computed with: complex numbers count twice."""
    return (*spec.shape, 2) if spec.dtype.kind == "complex" else spec.shape


def arithmetic_elements(spec: TensorSpec) -> int:
    """How many real numbers a tensor has."""
    return prod(arithmetic_shape(spec))
